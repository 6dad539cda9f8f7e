//! What the guest keeps on its drives: lines in the sectors before a file system's first, so that
//! the file system stays whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where the word somebody told it to write is.
pub const WORD: u64 = 0;
/// Where it counts how often it began to execute.
pub const COUNT: u64 = SECTOR as u64;

const SECTOR: usize = 512;
/// Where ext4 keeps its id.
const UUID: u64 = 1024 + 0x68;

/// Writes a line; it is on disk when this returns.
pub fn write_line(drive: &File, at: u64, words: &str) -> io::Result<()> {
    let mut sector = [b' '; SECTOR];
    let length = words.len().min(SECTOR - 1);
    sector[..length].copy_from_slice(&words.as_bytes()[..length]);
    sector[SECTOR - 1] = b'\n';
    drive.write_all_at(&sector, at)?;
    drive.sync_all()
}

/// Reads a line; empty where none was written.
pub fn read_line(drive: &File, at: u64) -> io::Result<String> {
    let mut sector = [0; SECTOR];
    drive.read_exact_at(&mut sector, at)?;
    let line = String::from_utf8_lossy(&sector).into_owned();
    Ok(line.trim_matches(['\0', ' ', '\n']).to_owned())
}

/// The id of the ext4 file system on a drive, as text.
pub fn uuid(drive: &File) -> Option<String> {
    let mut uuid = [0; 16];
    drive.read_exact_at(&mut uuid, UUID).ok()?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let parts = [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]];
    Some(parts.map(hex).join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_written_is_read_and_leaves_the_others_alone() {
        let drive = tempfile();
        drive.set_len(4096).unwrap();
        assert_eq!(read_line(&drive, COUNT).unwrap(), "");
        write_line(&drive, COUNT, "7").unwrap();
        write_line(&drive, WORD, "kept").unwrap();
        assert_eq!(read_line(&drive, COUNT).unwrap(), "7");
        assert_eq!(read_line(&drive, WORD).unwrap(), "kept");
        assert_eq!(uuid(&drive).unwrap(), "00000000-0000-0000-0000-000000000000");
    }

    fn tempfile() -> File {
        let path = std::env::temp_dir().join(format!("mvm-fake-drive-{}", std::process::id()));
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }
}
