//! The machine's disk between its boots, and what a power cut leaves of it.
//!
//! QEMU's own files are no honest disk: what a guest wrote without a flush is in the host's page
//! cache and survives QEMU. So every boot works on a copy, and QEMU logs each write and flush
//! (`blklogwrites`). After a power cut the copy is thrown away, and the writes up to the last
//! flush that was acknowledged are applied to what the boot began with: a disk with a volatile
//! cache of any size, as the machine's kernel believes it to be (virtio-blk with a write cache).
//!
//! ```text
//!  state ──copy──► work ◄── QEMU ──► log        orderly end:  work is the next state
//!    └──────────── + log up to its last flush = the next state after a power cut
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a power cut does to writes that the disk was never told to flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerCut {
    /// They are gone: the harshest, and the default for tests.
    LosesUnflushed,
    /// They are there: a disk whose cache has a battery.
    KeepsUnflushed,
    /// About half of their physical sectors are there, chosen by this seed: what real disks do.
    KeepsSome(u64),
}

/// The disk of one machine.
pub struct Disk {
    /// What the machine's next boot finds. Never written.
    state: PathBuf,
    work: PathBuf,
    log: PathBuf,
    next: PathBuf,
    /// The machine's kernel and initrd.
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

impl Disk {
    /// A disk that holds an image, with its files in `dir`. The image may vanish afterwards.
    pub fn new(dir: &Path, image: &Path, root: &Path) -> Self {
        let state = dir.join("disk");
        fs::hard_link(image, &state).expect("the image and the world share a file system");
        Self {
            state,
            work: dir.join("disk.work"),
            log: dir.join("disk.log"),
            next: dir.join("disk.next"),
            kernel: root.join("vmlinuz"),
            initrd: root.join("initrd"),
        }
    }

    /// Prepares a boot; returns QEMU's description of the disk.
    pub fn prepare(&mut self) -> String {
        copy(&self.state, &self.work);
        File::create(&self.log).expect("a log");
        format!(
            "driver=blklogwrites,node-name=disk,\
             file.driver=file,file.filename={},log.driver=file,log.filename={}",
            self.work.display(),
            self.log.display()
        )
    }

    /// Checks a copy of the file system, with its journal replayed.
    ///
    /// # Errors
    /// What `e2fsck` found.
    pub fn check(&self) -> Result<(), String> {
        copy(&self.state, &self.work);
        let mut e2fsck = Command::new("e2fsck");
        let checked = e2fsck.arg("-fp").arg(&self.work).output().map_err(|it| it.to_string())?;
        let _ = fs::remove_file(&self.work);
        match checked.status.code() {
            // 1: what it found is repaired after every unclean end, such as orphaned inodes.
            Some(0 | 1) => Ok(()),
            _ => Err(String::from_utf8_lossy(&checked.stdout).into_owned()),
        }
    }

    /// How many entries of the log a power cut at this moment must not lose.
    pub fn acknowledged(&self) -> u64 {
        File::open(&self.log).and_then(|mut log| entries(&mut log)).unwrap_or(0)
    }

    /// The machine ended in order.
    pub fn ended(&mut self) {
        fs::rename(&self.work, &self.state).expect("the disk is replaced");
        let _ = fs::remove_file(&self.log);
    }

    /// The machine lost its power, when this many entries of the log were acknowledged.
    pub fn lost_power(&mut self, acknowledged: u64, cut: PowerCut) {
        copy(&self.state, &self.next);
        let next = File::options().write(true).open(&self.next).expect("the copy");
        replay(&self.log, &next, acknowledged, cut).expect("the log is applied");
        fs::rename(&self.next, &self.state).expect("the disk is replaced");
        for file in [&self.work, &self.log] {
            let _ = fs::remove_file(file);
        }
    }
}

/// A copy that shares blocks where the file system can, and keeps holes.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_file(to);
    let copied =
        Command::new("cp").args(["--reflink=auto", "--sparse=always"]).arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {}", from.display());
}

const SECTOR: usize = 512;
/// What a disk writes whole or not at all: a physical sector. With less no file system could trust
/// its own superblock, which is two of the logical ones.
const WHOLE: usize = 4096;
/// `dm-log-writes`, version 1: a superblock and then entries, each one sector and its data.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const DISCARD: u64 = 1 << 2;

/// One logged write.
struct Entry {
    offset: u64,
    data: Vec<u8>,
}

/// The count in the superblock, which QEMU writes with every flush before it acknowledges it.
fn entries(log: &mut File) -> io::Result<u64> {
    let mut sector = [0; SECTOR];
    log.seek(SeekFrom::Start(0))?;
    log.read_exact(&mut sector)?;
    Ok(if number(&sector, 0) == MAGIC { number(&sector, 16) } else { 0 })
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Applies what the cut leaves of the log.
fn replay(log: &Path, disk: &File, acknowledged: u64, cut: PowerCut) -> io::Result<()> {
    let mut log = BufReader::with_capacity(1 << 20, File::open(log)?);
    log.seek_relative(SECTOR as i64)?;
    let size = disk.metadata()?.len();
    for _ in 0..acknowledged {
        let entry = next(&mut log, size)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        disk.write_all_at(&entry.data, entry.offset)?;
    }
    let mut keeps: Box<dyn FnMut() -> bool> = match cut {
        PowerCut::LosesUnflushed => return Ok(()),
        PowerCut::KeepsUnflushed => Box::new(|| true),
        PowerCut::KeepsSome(seed) => Box::new(coin(seed)),
    };
    while let Some(entry) = next(&mut log, size)? {
        for (part, offset) in entry.data.chunks(WHOLE).zip((entry.offset..).step_by(WHOLE)) {
            if keeps() {
                disk.write_all_at(part, offset)?;
            }
        }
    }
    Ok(())
}

/// The next whole entry. A flush is one without data; a discard is taken for that, as what a
/// disk does with one is its own business.
fn next(log: &mut impl Read, size: u64) -> io::Result<Option<Entry>> {
    let mut sector = [0; SECTOR];
    if ended(log.read_exact(&mut sector))? {
        return Ok(None);
    }
    let in_bytes = |at| number(&sector, at).saturating_mul(SECTOR as u64);
    let (offset, length, flags) = (in_bytes(0), in_bytes(8), number(&sector, 16));
    if offset.saturating_add(length) > size {
        return Err(io::Error::other(format!("{length} bytes at {offset} are beyond the disk")));
    }
    let mut data = vec![0; if flags & DISCARD == 0 { length as usize } else { 0 }];
    let cut_off = ended(log.read_exact(&mut data))?;
    Ok((!cut_off).then_some(Entry { offset, data }))
}

/// Whether the log ended there: with what QEMU was writing when it was killed.
fn ended(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
        other => other.map(|()| false),
    }
}

/// A sequence of coin tosses (xorshift).
fn coin(seed: u64) -> impl FnMut() -> bool {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state & (1 << 32) != 0
    }
}
