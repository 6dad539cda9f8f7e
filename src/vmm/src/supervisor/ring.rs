//! A log that never grows: two files of at most one segment each, `<name>` and `<name>.1`.
//!
//! The supervisor's drain writes, anybody may read at any time with [`read`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size of one segment, bytes: a log takes twice this at most.
pub const SEGMENT: u64 = 256 << 10;

/// The line where another VM of the same instance begins. A guest can print it too: then it hides
/// its own words from its own record.
const BEGIN: &str = "\n--- another VM of this instance begins here ---\n";

/// What of a log the last VM that wrote it said.
pub(crate) fn of_last(log: &[u8]) -> &[u8] {
    let begin = log.windows(BEGIN.len()).rposition(|at| at == BEGIN.as_bytes());
    begin.map_or(log, |at| &log[at + BEGIN.len()..])
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Ring {
    path: PathBuf,
    file: File,
    used: u64,
    segment: u64,
}

impl Ring {
    /// Begins for a VM: after what the ones before it said, as far as that is kept, and where it
    /// begins is said. One that said nothing leaves nothing.
    pub(crate) fn create(path: PathBuf, segment: u64) -> io::Result<Self> {
        let mut ring = Self::resume(path, segment)?;
        let before = read(&ring.path, BEGIN.len() as u64)?;
        if !before.is_empty() && before != BEGIN.as_bytes() {
            ring.write(BEGIN.as_bytes())?;
        }
        Ok(ring)
    }

    /// Goes on where somebody else stopped; begins when nobody did.
    pub(crate) fn resume(path: PathBuf, segment: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let used = file.metadata()?.len();
        Ok(Self { path, file, used, segment })
    }

    /// Appends, starting a new segment when this one is full.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.used >= self.segment {
                shift(&self.path)?;
                self.file = create(&self.path)?;
                self.used = 0;
            }
            let room = usize::try_from(self.segment - self.used).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.file.write_all(now)?;
            self.used += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn shift(path: &Path) -> io::Result<()> {
    match std::fs::rename(path, older(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// The last `max` bytes of a log, oldest first; a log that was never begun is empty.
///
/// # Errors
/// What reading said, other than that a file is missing.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let newer = read_tail(path, max)?;
    let left = max - newer.len() as u64;
    let mut text = if left > 0 { read_tail(&older(path), left)? } else { Vec::new() };
    text.extend(newer);
    Ok(text)
}

fn read_tail(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(max)))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_newest_bytes_are_kept_in_order_and_no_more_than_two_segments(
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("console.log");
            let mut ring = Ring::create(path.clone(), 64).unwrap();
            for bytes in &writes {
                ring.write(bytes).unwrap();
            }
            let all: Vec<u8> = writes.concat();
            let kept = read(&path, 1 << 20).unwrap();
            prop_assert!(kept.len() <= 128);
            prop_assert!(kept.len() >= all.len().min(64));
            prop_assert!(all.ends_with(&kept));
            let tail = read(&path, 10).unwrap();
            prop_assert!(tail.len() <= 10 && kept.ends_with(&tail));
        }
    }

    #[test]
    fn another_writer_goes_on_in_the_same_segment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        Ring::create(path.clone(), 8).unwrap().write(b"first ").unwrap();
        Ring::resume(path.clone(), 8).unwrap().write(b"second").unwrap();
        assert_eq!(read(&path, 100).unwrap(), b"first second");
        assert_eq!(std::fs::read(&path).unwrap(), b"cond");
        let fresh = dir.path().join("vmm.log");
        Ring::resume(fresh.clone(), 8).unwrap().write(b"x").unwrap();
        assert_eq!(read(&fresh, 100).unwrap(), b"x");
    }

    #[test]
    fn a_new_run_follows_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmm.log");
        assert_eq!(read(&path, 100).unwrap(), b"");
        Ring::create(path.clone(), 256).unwrap().write(b"first ").unwrap();
        Ring::create(path.clone(), 256).unwrap();
        Ring::create(path.clone(), 256).unwrap().write(b"second").unwrap();
        let all = read(&path, 200).unwrap();
        assert_eq!(all, [&b"first "[..], BEGIN.as_bytes(), b"second"].concat());
        assert_eq!(of_last(&all), b"second");
        assert_eq!(of_last(b"first"), b"first");
    }
}
