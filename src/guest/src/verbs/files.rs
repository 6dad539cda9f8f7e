//! Files: read, list, describe, make a directory.
//!
//! A path is resolved by the kernel below the root directory ([`sys::open_in_root`]): `..` and
//! absolute links cannot leave it, links into `/proc` are not followed. What was found is
//! looked at before it is opened for real: no device and no pipe is ever opened.

use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use mvm_guest_proto::frame::{DATA_CHUNK, MAX_PAYLOAD};
use mvm_guest_proto::message::{
    Done, Entry, ErrorKind, FROM_GUEST, Failure, FileKind, FileStat, List, MAX_PATH, MakeDir,
    Message, ReadFile, Transferred,
};
use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::{Mode, mkdirat};

use super::{Stop, system_failure};
use crate::guest::Guest;
use crate::session::Stream;
use crate::sys;

/// Entries sent in one message; with the longest names they fit a frame.
const ENTRIES: usize = MAX_PAYLOAD / 2048;

fn invalid(what: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::Invalid, what)
}

/// A path as the kernel takes it.
fn c_path(path: &str) -> Result<CString, Failure> {
    if !path.starts_with('/') || path.len() > MAX_PATH {
        return Err(invalid("a path is absolute and at most 4096 bytes long"));
    }
    CString::new(path).map_err(|_| invalid("a path has no NUL"))
}

/// Finds what `path` names, without opening it.
fn find(guest: &Guest, path: &str, flags: libc::c_int) -> Result<File, Failure> {
    let found = sys::open_in_root(guest.root.as_fd(), &c_path(path)?, libc::O_PATH | flags)
        .map_err(|error| system_failure(path, error))?;
    Ok(found.into())
}

/// Opens for reading what was found by [`find`].
fn reopen(found: &File, path: &str, flags: libc::c_int) -> Result<File, Failure> {
    File::options()
        .read(true)
        .custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", found.as_raw_fd()))
        .map_err(|error| system_failure(path, error))
}

/// The directory a path's last component is in, and that component.
pub(super) fn find_parent<'p>(guest: &Guest, path: &'p str) -> Result<(OwnedFd, &'p str), Failure> {
    let (dir, name) = path.rsplit_once('/').ok_or_else(|| invalid("a path is absolute"))?;
    if matches!(name, "" | "." | "..") || name.len() > 255 {
        return Err(invalid(format!("{path:?} does not end in a name")));
    }
    let dir = if dir.is_empty() { "/" } else { dir };
    let parent = find(guest, dir, libc::O_DIRECTORY)?;
    // A path that names no file at all (a NUL, too long) is told here.
    c_path(path)?;
    Ok((parent.into(), name))
}

/// Sends a regular file's content.
pub(super) fn read(guest: &Guest, stream: &Stream, read: &ReadFile) -> Result<Transferred, Stop> {
    let path = &read.path;
    let found = find(guest, path, 0)?;
    let metadata = found.metadata().map_err(|error| system_failure(path, error))?;
    if !metadata.is_file() {
        let what = Failure::new(ErrorKind::Refused, format!("{path}: is not a regular file"));
        return Err(what.into());
    }
    let mut file = reopen(&found, path, 0)?;
    file.seek(SeekFrom::Start(read.offset)).map_err(|error| system_failure(path, error))?;
    stream.message(&Message::File(stat_of(&metadata, None)))?;
    let mut content = file.take(read.length.unwrap_or(u64::MAX));
    let mut buffer = vec![0; DATA_CHUNK];
    let mut bytes = 0;
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(Transferred { bytes }),
            Ok(n) => {
                stream.send(FROM_GUEST, &buffer[..n])?;
                bytes += n as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(system_failure(path, error).into()),
        }
    }
}

/// Names what is in a directory.
pub(super) fn list(guest: &Guest, stream: &Stream, list: &List) -> Result<Done, Stop> {
    let path = &list.path;
    let dir = find(guest, path, libc::O_DIRECTORY)?;
    let failed = |error| system_failure(path, error);
    let through = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(through).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Gone in the meantime.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        entries.push(Entry { name, stat: stat_of(&metadata, None) });
        if entries.len() == ENTRIES {
            stream.message(&Message::Entries { entries: std::mem::take(&mut entries) })?;
        }
    }
    if !entries.is_empty() {
        stream.message(&Message::Entries { entries })?;
    }
    Ok(Done {})
}

/// Describes a file; a symbolic link itself.
pub(super) fn stat(guest: &Guest, path: &str) -> Result<FileStat, Failure> {
    let found = find(guest, path, libc::O_NOFOLLOW)?;
    let metadata = found.metadata().map_err(|error| system_failure(path, error))?;
    let target = match metadata.is_symlink() {
        true => readlinkat(&found, c"").ok().map(|to| to.to_string_lossy().into_owned()),
        false => None,
    };
    Ok(stat_of(&metadata, target))
}

fn stat_of(metadata: &Metadata, target: Option<String>) -> FileStat {
    FileStat {
        kind: kind_of(metadata),
        size: metadata.size(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: metadata.mtime(),
        target,
    }
}

fn kind_of(metadata: &Metadata) -> FileKind {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => FileKind::File,
        () if kind.is_dir() => FileKind::Dir,
        () if kind.is_symlink() => FileKind::Symlink,
        () => {
            debug_assert!(
                kind.is_fifo()
                    || kind.is_socket()
                    || kind.is_char_device()
                    || kind.is_block_device()
            );
            FileKind::Other
        }
    }
}

/// Makes a directory; one that exists is fine and stays as it is.
pub(super) fn make_dir(guest: &Guest, make: &MakeDir) -> Result<Done, Failure> {
    let path = make.path.trim_end_matches('/');
    let (parent, name) = find_parent(guest, path)?;
    let mode = Mode::from_bits_truncate(make.mode.unwrap_or(0o755));
    let failed = |error: Errno| system_failure(path, error);
    match mkdirat(&parent, name, mode) {
        Ok(()) => Ok(Done {}),
        Err(Errno::EEXIST) if stat(guest, path)?.kind == FileKind::Dir => Ok(Done {}),
        Err(error) => Err(failed(error)),
    }
}
