//! The files a VM's memory and devices are saved in.
//!
//! QEMU writes one stream through a descriptor. Firecracker opens two files by name from inside
//! its jail. Both find them by the same value, so callers need not know which VMM it is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where a snapshot is, or is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFiles {
    /// The guest's memory; with QEMU the devices too.
    pub memory: PathBuf,
    /// The devices, where the VMM keeps them apart.
    pub devices: PathBuf,
}

impl SnapshotFiles {
    /// The files of a snapshot in a directory of its own.
    pub fn in_dir(dir: &Path) -> Self {
        Self { memory: dir.join("memory"), devices: dir.join("devices") }
    }

    /// Opens the memory file for writing; it may not hold anything yet.
    pub(crate) fn create_memory(&self) -> io::Result<File> {
        create(&self.memory)
    }

    /// Opens the memory file for reading.
    pub(crate) fn open_memory(&self) -> io::Result<File> {
        File::open(&self.memory)
    }
}

/// A file only root can read: it will hold a guest's memory.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
