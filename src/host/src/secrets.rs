//! Tenants' secrets on this host.
//!
//! ```text
//! at rest    tenants/<t>/secrets.sealed   encrypted: vault (file), envelope (format), contents
//! key        /etc/mvm/secret.key          or a systemd credential: key
//! in clear   /run/mvm/secrets/<i>.img     this file: small images on a tmpfs, never on a disk
//! ```
//!
//! `<run dir>/secrets/` is a tmpfs of its own unless the run directory is on one already. It
//! holds one image per instance that runs or sleeps, of constant size. Each carries the epoch of
//! the secrets in it and a mark of what exactly it holds ([`ImageId`]), so that an image that is
//! not the one an instance should have is known without opening anything.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mvm_model::InstanceId;
use mvm_model::failpoint::{self, Effect};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::drive::{self, DriveError, SmallFile, SmallId};
use crate::file::{self, Context, FileError};

pub mod contents;
pub mod envelope;
pub mod key;
mod memory;
mod vault;

pub use contents::{Contents, Entry};
pub use envelope::{EnvelopeError, Header};
pub use key::{HostKey, KeyError};
pub use memory::guard_memory;
pub use vault::{Vault, VaultError};

/// How much the tmpfs may hold; images are sparse, most take a tenth of a MiB.
const SIZE: &str = "size=512m,mode=0700";

/// What an instance's image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageId {
    /// The epoch of the tenant's secrets it was made of; 0 without any.
    pub epoch: u64,
    /// Part of a digest of files and owners, which tells nothing without the host's key.
    mark: [u8; 8],
}

impl ImageId {
    /// An image without secrets.
    pub const EMPTY: Self = Self { epoch: 0, mark: *b"nothing." };

    /// The image of these files.
    pub fn of(key: &HostKey, epoch: u64, files: &[SmallFile]) -> Self {
        let numbers = |file: &SmallFile| {
            [file.owner.0, file.owner.1, file.mode].map(u32::to_be_bytes).concat()
        };
        let numbers: Vec<_> = files.iter().map(numbers).collect();
        let parts = files
            .iter()
            .zip(&numbers)
            .flat_map(|(file, numbers)| [file.name.as_bytes(), numbers, file.content]);
        let digest = key.digest("mvm secrets: image", parts);
        let mut mark = [0; 8];
        mark.copy_from_slice(&digest[..8]);
        Self { epoch, mark }
    }
}

impl From<ImageId> for SmallId {
    fn from(id: ImageId) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&id.epoch.to_be_bytes());
        bytes[8..].copy_from_slice(&id.mark);
        Self(bytes)
    }
}

impl From<SmallId> for ImageId {
    fn from(id: SmallId) -> Self {
        let (mut epoch, mut mark) = ([0; 8], [0; 8]);
        epoch.copy_from_slice(&id.0[..8]);
        mark.copy_from_slice(&id.0[8..]);
        Self { epoch: u64::from_be_bytes(epoch), mark }
    }
}

/// The secrets directory of a host.
///
/// While one is open the directory is not taken away: an image is never written beside the tmpfs
/// instead of into it. An instance's image is written by the holder of the instance's lock only.
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
        let dir = run_dir.join("secrets");
        loop {
            let lock = lock_file(run_dir)?;
            lock.lock_shared().doing("lock", &dir)?;
            if dir.is_dir() && is_tmpfs(&dir) {
                return Ok(Self { dir, _lock: lock });
            }
            drop(lock);
            mount_tmpfs(run_dir, &dir)?;
        }
    }

    /// Where an instance's image is.
    pub fn image(&self, instance: InstanceId) -> PathBuf {
        self.dir.join(format!("{instance}.img"))
    }

    /// What an instance's image holds; `None` without a whole one.
    pub fn id(&self, instance: InstanceId) -> Option<ImageId> {
        drive::small_id(&self.image(instance)).map(ImageId::from)
    }

    /// The instances there are images of.
    pub fn instances(&self) -> Vec<InstanceId> {
        let entries = self.dir.read_dir().into_iter().flatten().flatten();
        let ids =
            entries.filter_map(|entry| entry.file_name().to_str()?.split('.').next()?.parse().ok());
        let mut ids: Vec<_> = ids.collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Writes an instance's image, replacing the old one: for a guest that does not run.
    ///
    /// # Errors
    /// When the files do not fit or the image cannot be made.
    pub fn write(
        &self,
        instance: InstanceId,
        id: ImageId,
        files: &[SmallFile],
    ) -> Result<(), DriveError> {
        drive::write_small_as(&self.image(instance), id.into(), files)
    }

    /// Writes into the image that an instance's VM has open: for a guest that runs and has it not
    /// mounted.
    ///
    /// # Errors
    /// When the files do not fit or it cannot be written; it may have no id then.
    pub fn overwrite(
        &self,
        instance: InstanceId,
        id: ImageId,
        files: &[SmallFile],
    ) -> Result<(), DriveError> {
        let next = self.next(instance);
        let written = drive::write_small_as(&next, id.into(), files)
            .and_then(|()| drive::overwrite_small(&self.image(instance), &next));
        let removed = file::remove_file(&next);
        written?;
        Ok(removed?)
    }

    /// Removes an instance's image and what an interrupted writer left of one.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove(&self, instance: InstanceId) -> Result<(), FileError> {
        file::remove_file(&self.image(instance))?;
        self.sweep(instance)
    }

    /// Removes what an interrupted writer left beside an instance's image.
    ///
    /// # Errors
    /// When it stays.
    pub fn sweep(&self, instance: InstanceId) -> Result<(), FileError> {
        let next = self.next(instance);
        drive::sweep_small(&self.image(instance))?;
        drive::sweep_small(&next)?;
        file::remove_file(&next)
    }

    fn next(&self, instance: InstanceId) -> PathBuf {
        self.dir.join(format!("{instance}.next.img"))
    }
}

fn lock_file(run_dir: &Path) -> Result<File, FileError> {
    let path = run_dir.join(".secrets.lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).open(&path).doing("open", &path)
}

/// The lock of the directory for one alone, waited for: its holders take milliseconds.
fn hold_alone(run_dir: &Path) -> Result<File, FileError> {
    let file = lock_file(run_dir)?;
    file.lock().doing("lock the secrets in", run_dir)?;
    Ok(file)
}

fn mount_tmpfs(run_dir: &Path, dir: &Path) -> Result<(), FileError> {
    let _alone = hold_alone(run_dir)?;
    file::create_dir(dir)?;
    if is_tmpfs(dir) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // `noswap` needs kernel 6.4; without it the host's swap is doctor's business.
    let with = |options: &str| mount(Some("mvm-secrets"), dir, Some("tmpfs"), flags, Some(options));
    let doing = "mount a tmpfs on";
    failpoint::before(Effect::MountSecrets).doing(doing, dir)?;
    with(&format!("{SIZE},noswap"))
        .or_else(|_| with(SIZE))
        .map_err(std::io::Error::from)
        .doing(doing, dir)?;
    failpoint::after(Effect::MountSecrets).doing(doing, dir)
}

/// Unmounts and removes `<run dir>/secrets` when no image is left in it.
///
/// # Errors
/// When it is empty and still stays.
pub fn close_if_empty(run_dir: &Path) -> Result<(), FileError> {
    let _alone = hold_alone(run_dir)?;
    let dir = run_dir.join("secrets");
    let is_empty = |dir: &Path| dir.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty(&dir) {
        return Ok(());
    }
    failpoint::before(Effect::UnmountSecrets).doing("unmount", &dir)?;
    match umount2(&dir, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EINVAL) => {}
        Err(error) => return Err(FileError::new("unmount", &dir, error.into())),
    }
    failpoint::after(Effect::UnmountSecrets).doing("unmount", &dir)?;
    std::fs::remove_dir(&dir).doing("remove directory", &dir)
}

fn is_tmpfs(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC)
}

#[cfg(test)]
mod tests;
