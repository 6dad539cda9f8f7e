//! Replaces a file: everything or nothing.
//!
//! The content goes into a new file beside the old one, is made durable, and takes its name at
//! the end. A request that is cut short leaves nothing behind.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use mvm_guest_proto::message::{ErrorKind, Failure, TO_GUEST, Transferred, WriteFile};
use mvm_guest_proto::mux::Inbound;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use super::files::find_parent;
use super::system_failure;
use crate::guest::Guest;
use crate::session::{Gone, Stream};
use crate::{sys, user};

/// A file that has no name of its own yet; removed unless it gets one.
struct Draft {
    dir: OwnedFd,
    name: String,
    file: File,
    kept: bool,
}

/// Takes the content from the stream and puts it in place.
///
/// # Errors
/// [`Gone`] when the host did not stay to the end; nothing was changed then.
pub(super) fn write(
    guest: &Guest,
    stream: &Stream,
    request: &WriteFile,
) -> Result<Result<Transferred, Failure>, Gone> {
    let (mut draft, name, look) = match begin(guest, request) {
        Ok(begun) => begun,
        Err(failure) => return Ok(Err(failure)),
    };
    let mut bytes = 0;
    loop {
        match stream.recv()? {
            Inbound::Data(TO_GUEST, data) => {
                bytes += data.len() as u64;
                if request.size.is_some_and(|size| bytes > size) {
                    return Ok(Err(wrong_size(request)));
                }
                if let Err(error) = draft.file.write_all(&data) {
                    return Ok(Err(system_failure(&request.path, error)));
                }
            }
            Inbound::Eof(TO_GUEST) => break,
            _ => {}
        }
    }
    if request.size.is_some_and(|size| bytes != size) {
        return Ok(Err(wrong_size(request)));
    }
    Ok(draft
        .put_in_place(name, &look)
        .map(|()| Transferred { bytes })
        .map_err(|error| system_failure(&request.path, error)))
}

fn wrong_size(request: &WriteFile) -> Failure {
    let path = &request.path;
    Failure::new(ErrorKind::Invalid, format!("{path}: not as many bytes came as were announced"))
}

/// How the file will look.
struct Look {
    mode: Mode,
    uid: Uid,
    gid: Gid,
}

fn begin<'r>(guest: &Guest, request: &'r WriteFile) -> Result<(Draft, &'r str, Look), Failure> {
    let (dir, name) = find_parent(guest, &request.path)?;
    let before = match fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(before) if is_file(&before) => Some(before),
        Ok(_) => {
            let what = format!("{}: exists and is not a regular file", request.path);
            return Err(Failure::new(ErrorKind::Refused, what));
        }
        Err(Errno::ENOENT) => None,
        Err(error) => return Err(system_failure(&request.path, error)),
    };
    let look = look(request, before.as_ref())?;
    let draft = Draft::new(dir).map_err(|error| system_failure(&request.path, error))?;
    Ok((draft, name, look))
}

fn is_file(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

fn look(request: &WriteFile, before: Option<&FileStat>) -> Result<Look, Failure> {
    let mode = request.mode.or(before.map(|it| it.st_mode)).unwrap_or(0o644);
    let (uid, gid) = match (&request.user, before) {
        (Some(name), _) => {
            let user = user::find(Some(name))?;
            (user.uid, user.gid)
        }
        (None, Some(before)) => (before.st_uid, before.st_gid),
        (None, None) => (Uid::effective().as_raw(), Gid::effective().as_raw()),
    };
    let mode = Mode::from_bits_truncate(mode & 0o7777);
    Ok(Look { mode, uid: uid.into(), gid: gid.into() })
}

impl Draft {
    fn new(dir: OwnedFd) -> nix::Result<Self> {
        let random: String =
            sys::fresh_nonce().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let name = format!(".mvm-{random}.tmp");
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&dir, name.as_str(), flags, Mode::from_bits_truncate(0o600))?;
        Ok(Self { dir, name, file: file.into(), kept: false })
    }

    fn put_in_place(&mut self, name: &str, look: &Look) -> std::io::Result<()> {
        fchown(&self.file, Some(look.uid), Some(look.gid))?;
        // After the owner: changing that takes set-id bits away.
        fchmod(&self.file, look.mode)?;
        self.file.sync_all()?;
        renameat(&self.dir, self.name.as_str(), &self.dir, name)?;
        self.kept = true;
        sync_dir(&self.dir)
    }
}

/// Makes a rename durable. The directory was found without being opened.
fn sync_dir(dir: &OwnedFd) -> std::io::Result<()> {
    File::open(format!("/proc/self/fd/{}", dir.as_raw_fd()))?.sync_all()
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = unlinkat(&self.dir, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}
