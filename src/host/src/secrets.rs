//! The place where secrets are in clear: small images on a tmpfs, never on a disk.
//!
//! `<run dir>/secrets/` is a tmpfs of its own unless the run directory is on one already. One
//! image per instance, of constant size, replaced whole: a guest that sleeps sees either the
//! old or the new secrets when it wakes, and mvm sees to it that it is the new.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mvm_model::InstanceId;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::drive::{self, DriveError};
use crate::file::{self, Context, FileError};

/// How much the tmpfs may hold; images are sparse, so this is some thousand instances.
const SIZE: &str = "size=64m,mode=0700";

/// The secrets directory of a host.
///
/// While one is open the directory is not taken away, and nobody else opens it: an image is never
/// written beside the tmpfs instead of into it.
#[derive(Debug)]
pub struct Secrets {
    dir: PathBuf,
    _lock: File,
}

impl Secrets {
    /// Opens `<run dir>/secrets`, mounting a tmpfs there when `run_dir` is on a disk.
    ///
    /// # Errors
    /// When it cannot be created or mounted.
    pub fn open(run_dir: &Path) -> Result<Self, FileError> {
        let lock = hold(run_dir)?;
        let dir = run_dir.join("secrets");
        file::create_dir(&dir)?;
        if !is_tmpfs(&dir) {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            // `noswap` needs kernel 6.4; without it the host's swap is doctor's business.
            let with = |options: &str| {
                mount(Some("mvm-secrets"), &dir, Some("tmpfs"), flags, Some(options))
            };
            with(&format!("{SIZE},noswap"))
                .or_else(|_| with(SIZE))
                .map_err(std::io::Error::from)
                .doing("mount a tmpfs on", &dir)?;
        }
        Ok(Self { dir, _lock: lock })
    }

    /// Where an instance's image is.
    pub fn image(&self, instance: InstanceId) -> PathBuf {
        self.dir.join(format!("{instance}.img"))
    }

    /// Writes an instance's image with these secrets (name, value), replacing the old one.
    ///
    /// # Errors
    /// When they do not fit or the image cannot be made.
    pub fn write(&self, instance: InstanceId, secrets: &[(&str, &[u8])]) -> Result<(), DriveError> {
        drive::write_small(&self.image(instance), secrets)
    }

    /// Removes an instance's image and what an interrupted writer left of one.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove(&self, instance: InstanceId) -> Result<(), FileError> {
        let image = self.image(instance);
        file::remove_file(&image)?;
        file::remove_file(&file::temporary(&image))?;
        file::remove_dir(&image.with_extension("tree"))
    }
}

/// The lock of the directory, waited for: its holders take milliseconds.
fn hold(run_dir: &Path) -> Result<File, FileError> {
    let path = run_dir.join(".secrets.lock");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    file.and_then(|file| file.lock().map(|()| file)).doing("lock", &path)
}

/// Unmounts and removes `<run dir>/secrets` when no image is left in it.
///
/// # Errors
/// When it is empty and still stays.
pub fn close_if_empty(run_dir: &Path) -> Result<(), FileError> {
    let _lock = hold(run_dir)?;
    let dir = run_dir.join("secrets");
    let is_empty = |dir: &Path| dir.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty(&dir) {
        return Ok(());
    }
    match umount2(&dir, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EINVAL) => {}
        Err(error) => return Err(FileError::new("unmount", &dir, error.into())),
    }
    std::fs::remove_dir(&dir).doing("remove directory", &dir)
}

fn is_tmpfs(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC)
}
