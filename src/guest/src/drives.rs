//! The four drives, known by their position: root, data, secrets, config.
//!
//! No label is trusted. A drive that holds no file system is a placeholder. Secrets and config
//! are unmounted before a sleep and mounted anew after it: their content changes meanwhile, so
//! nothing the kernel remembers of the device may survive ([`sys::forget_device`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{mounts, process, sys};

/// Where the config drive is mounted.
pub(crate) const CONFIG_DIR: &str = "/etc/mvm-config";

/// A drive besides the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drive {
    /// What the guest keeps.
    Data,
    /// What it must not keep.
    Secrets,
    /// Who it is.
    Config,
}

/// What came of mounting a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounted {
    /// Its file system is mounted.
    Yes,
    /// It holds no file system, or does not exist.
    Placeholder,
}

/// A mount is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UnmountError {
    /// By these processes.
    Busy(Vec<String>),
    /// For another reason.
    Other(Errno),
}

impl Drive {
    fn device(self) -> &'static str {
        match self {
            Self::Data => "/dev/vdb",
            Self::Secrets => "/dev/vdc",
            Self::Config => "/dev/vdd",
        }
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(self) -> &'static str {
        match self {
            Self::Data => "/data",
            Self::Secrets => "/run/secrets",
            Self::Config => CONFIG_DIR,
        }
    }

    fn flags(self) -> MsFlags {
        let always = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        match self {
            Self::Data => always | MsFlags::MS_NOATIME,
            Self::Secrets | Self::Config => always | MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC,
        }
    }

    /// Mounts it as it is now on the device.
    ///
    /// A file system that is still in use somewhere (detached, with open files) would be shared
    /// by a second mount, with what it remembers of the old content; opening the device
    /// exclusively finds that out.
    ///
    /// # Errors
    /// For people.
    pub(crate) fn mount(self) -> Result<Mounted, String> {
        let (device, dir) = (self.device(), self.mount_point());
        let failed = |error: io::Error| format!("cannot mount {device} on {dir}: {error}");
        let exclusively = File::options().read(true).custom_flags(libc::O_EXCL).open(device);
        let kind = match exclusively {
            Ok(open) => {
                let _ = sys::forget_device(&open);
                kind(&open).map_err(failed)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(format!(
                    "{dir} is not mounted: a process still has its old files open"
                ));
            }
            Err(error) => return Err(failed(error)),
        };
        let Some(kind) = kind else {
            return Ok(Mounted::Placeholder);
        };
        mounts::ensure_dir(dir);
        mount(Some(device), dir, Some(kind), self.flags(), None::<&str>)
            .map_err(|error| failed(error.into()))?;
        if self == Self::Data && kind == "ext4" {
            self.grow().map_err(|error| format!("{dir} does not grow into its drive: {error}"))?;
        }
        Ok(Mounted::Yes)
    }

    /// Lets the file system fill its device, which the host may have made larger.
    fn grow(self) -> io::Result<()> {
        let name = self.device().trim_start_matches("/dev/");
        let sectors = std::fs::read_to_string(format!("/sys/class/block/{name}/size"))?;
        let bytes = sectors.trim().parse::<u64>().map_err(io::Error::other)?.saturating_mul(512);
        let root = File::open(self.mount_point())?;
        let block = nix::sys::statvfs::fstatvfs(&root)?.block_size();
        sys::grow_file_system(&root, bytes / block.max(1)).map_err(io::Error::from)
    }

    /// The UUID of the file system that is mounted, as text.
    pub(crate) fn uuid(self) -> Option<String> {
        let device = self.is_mounted().then(|| File::open(self.device()).ok())??;
        uuid(&device)
    }

    /// True while something is mounted at its place.
    pub(crate) fn is_mounted(self) -> bool {
        mounts::is_mounted(Path::new(self.mount_point()))
    }

    /// Unmounts it and forgets its content. Not being mounted is fine.
    ///
    /// # Errors
    /// [`UnmountError`], with who is in the way.
    pub(crate) fn unmount(self) -> Result<(), UnmountError> {
        self.unmount_with(MntFlags::empty())
    }

    /// Takes it out of the tree; who has files open keeps them.
    ///
    /// # Errors
    /// [`UnmountError::Other`].
    pub(crate) fn detach(self) -> Result<(), UnmountError> {
        self.unmount_with(MntFlags::MNT_DETACH)
    }

    fn unmount_with(self, flags: MntFlags) -> Result<(), UnmountError> {
        if !self.is_mounted() {
            return Ok(());
        }
        match umount2(self.mount_point(), flags | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EBUSY) => {
                return Err(UnmountError::Busy(process::holders(Path::new(self.mount_point()))));
            }
            Err(error) => return Err(UnmountError::Other(error)),
        }
        if let Ok(device) = File::open(self.device()) {
            let _ = sys::forget_device(&device);
        }
        Ok(())
    }
}

impl std::fmt::Display for UnmountError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Busy(holders) if holders.is_empty() => f.write_str("it is in use"),
            Self::Busy(holders) => write!(f, "it is in use by {}", holders.join(", ")),
            Self::Other(error) => write!(f, "{}", error.desc()),
        }
    }
}

/// The UUID of the ext4 file system on a device.
fn uuid(device: &File) -> Option<String> {
    const AT: u64 = 1024 + 0x68;
    if kind(device).ok()?? != "ext4" {
        return None;
    }
    let mut uuid = [0; 16];
    device.read_exact_at(&mut uuid, AT).ok()?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let parts = [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]];
    Some(parts.map(hex).join("-"))
}

/// The file system on a device, by its magic number.
fn kind(device: &File) -> io::Result<Option<&'static str>> {
    const SUPERBLOCK: u64 = 1024;
    const EXT4_MAGIC: usize = 0x38;
    let mut start = [0; 64];
    match device.read_exact_at(&mut start, SUPERBLOCK) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(if start[..4] == [0xe2, 0xe1, 0xf5, 0xe0] {
        Some("erofs")
    } else if start[EXT4_MAGIC..EXT4_MAGIC + 2] == [0x53, 0xef] {
        Some("ext4")
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn kind_of(bytes: &[u8]) -> Option<&'static str> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        kind(&file).unwrap()
    }

    #[test]
    fn file_systems_are_known_by_their_magic() {
        let mut image = vec![0; 4096];
        assert_eq!(kind_of(&image), None);
        image[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(kind_of(&image), Some("ext4"));
        image[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        assert_eq!(kind_of(&image), Some("erofs"));
        assert_eq!(kind_of(&[]), None);
    }

    #[test]
    fn a_uuid_is_read_as_text() {
        let mut image = vec![0; 4096];
        image[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        image[0x468..0x478].copy_from_slice(b"\0\0\0\0\0\0\0\x05abcdefgh");
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&image).unwrap();
        assert_eq!(uuid(&file).as_deref(), Some("00000000-0000-0005-6162-636465666768"));
    }
}
