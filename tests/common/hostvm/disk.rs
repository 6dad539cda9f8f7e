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
    /// About half of their sectors are there, chosen by this seed: what real disks do.
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
/// `dm-log-writes`, version 1: a superblock and then entries, each one sector and its data.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const DISCARD: u64 = 1 << 2;

/// One logged operation.
struct Entry {
    offset: u64,
    length: u64,
    flags: u64,
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

fn replay(log: &Path, disk: &File, acknowledged: u64, cut: PowerCut) -> io::Result<()> {
    let mut log = BufReader::with_capacity(1 << 20, File::open(log)?);
    log.seek_relative(SECTOR as i64)?;
    let mut random = match cut {
        PowerCut::KeepsSome(seed) => Some(seed | 1),
        _ => None,
    };
    for index in 0.. {
        let durable = index < acknowledged;
        if !durable && cut == PowerCut::LosesUnflushed {
            break;
        }
        let Some(entry) = next(&mut log)? else { break };
        if entry.flags & DISCARD != 0 {
            continue;
        }
        let mut data = vec![0; entry.length as usize];
        // The end of what QEMU was writing when it was killed.
        if log.read_exact(&mut data).is_err() {
            break;
        }
        match &mut random {
            Some(state) if !durable => {
                for (number, sector) in data.chunks(SECTOR).enumerate() {
                    if coin(state) {
                        disk.write_all_at(sector, entry.offset + (number * SECTOR) as u64)?;
                    }
                }
            }
            _ => disk.write_all_at(&data, entry.offset)?,
        }
    }
    Ok(())
}

fn next(log: &mut impl Read) -> io::Result<Option<Entry>> {
    let mut sector = [0; SECTOR];
    match log.read_exact(&mut sector) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let in_bytes = |at| number(&sector, at) * SECTOR as u64;
    Ok(Some(Entry { offset: in_bytes(0), length: in_bytes(8), flags: number(&sector, 16) }))
}

/// The next of a sequence of coin tosses (xorshift).
fn coin(state: &mut u64) -> bool {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state & 1 == 1
}
