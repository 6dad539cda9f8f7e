//! Opens, as root, everything a confined VMM may use: drives, sockets, pipes.

use std::fs::{OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use command_fds::FdMapping;
use nix::fcntl::{FcntlArg, OFlag};
use nix::sys::stat::Mode;

use super::StartError;
use super::record::CONSOLE_FIFO;
use crate::files;
use crate::qemu::{AGENT_SOCKET, Fds, QMP_SOCKET};
use crate::spec::{Access, Drive, VmSpec};

/// What the child inherits and what stays here.
pub(super) struct Opened {
    /// For the child; closed here once it was spawned.
    pub(super) mappings: Vec<FdMapping>,
    /// Reading end of the console.
    pub(super) console: OwnedFd,
}

/// Opens the spec's files and makes its sockets and the console's pipe.
pub(super) fn open(spec: &VmSpec, tap: Option<OwnedFd>) -> Result<Opened, StartError> {
    for path in [&spec.kernel, &spec.initrd] {
        check_readable(path)?;
    }
    let fds = Fds::of(spec);
    let mut mappings = Vec::new();
    let mut inherit = |parent_fd: OwnedFd, child_fd: u32| {
        mappings.push(FdMapping { parent_fd, child_fd: child_fd as i32 });
    };
    for (index, drive) in spec.drives.iter().enumerate() {
        inherit(open_drive(drive)?, fds.drive(index));
    }
    match (tap, &spec.net) {
        (Some(tap), Some(_)) => inherit(tap, fds.tap()),
        (None, None) => {}
        _ => return Err(StartError::Tap),
    }
    inherit(listen(&spec.run_dir, QMP_SOCKET)?, Fds::QMP);
    inherit(listen(&spec.run_dir, AGENT_SOCKET)?, Fds::AGENT);
    let (console, console_end) = fifo(&spec.run_dir, CONSOLE_FIFO)?;
    inherit(console_end, Fds::CONSOLE);
    Ok(Opened { mappings, console })
}

/// A pipe with a name as two descriptors: reading, writing. By its name the next supervisor of a
/// living VMM finds it; while there is none, the VMM's writes fail at once.
pub(super) fn fifo(run_dir: &Path, name: &str) -> Result<(OwnedFd, OwnedFd), StartError> {
    let path = run_dir.join(name);
    let make = || {
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let reader = read_fifo(&path)?;
        let writer = OpenOptions::new().write(true).open(&path)?;
        Ok((reader, writer.into()))
    };
    make().map_err(StartError::Pipe)
}

/// The reading end of a fifo, also when nobody writes to it yet.
pub(super) fn read_fifo(path: &Path) -> io::Result<OwnedFd> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits();
    let reader = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !reader.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("it is no fifo"));
    }
    // Only opening must not wait; its reader has a thread of its own.
    nix::fcntl::fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(reader.into())
}

/// The VMM opens these two itself, as its own uid.
fn check_readable(path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::Open { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    if meta.permissions().mode() & 0o004 == 0 {
        return Err(StartError::Unreadable { path: path.to_owned() });
    }
    Ok(())
}

/// A writable drive is locked: the lock belongs to the open file, so it lasts as long as the
/// VMM lives, whatever becomes of this process.
pub(super) fn open_drive(drive: &Drive) -> Result<OwnedFd, StartError> {
    let failed = |source| StartError::Open { path: drive.path.clone(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(drive.access == Access::ReadWrite)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(&drive.path)
        .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !(kind.is_file() || kind.is_block_device()) {
        return Err(failed(io::Error::other("it is neither a file nor a block device")));
    }
    match drive.access {
        Access::ReadOnly => Ok(file.into()),
        Access::ReadWrite => match file.try_lock() {
            Ok(()) => Ok(file.into()),
            Err(TryLockError::WouldBlock) => {
                Err(StartError::DriveInUse { path: drive.path.clone() })
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        },
    }
}

/// A listening socket only root can reach; its path may be longer than a socket address.
fn listen(run_dir: &Path, name: &str) -> Result<OwnedFd, StartError> {
    let failed = |source| StartError::Listen { path: run_dir.join(name), source };
    let dir = files::open_dir(run_dir).map_err(failed)?;
    let listener = UnixListener::bind(files::short_path(&dir, name)).map_err(failed)?;
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(run_dir.join(name), owner_only).map_err(failed)?;
    Ok(listener.into())
}
