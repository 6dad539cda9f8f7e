//! Files done carefully: atomic writes that survive a power cut, and socket paths of any length.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use serde::Serialize;
use tokio::net::UnixStream;

/// Replaces `<dir>/<name>` by this JSON document: readers see the old or the new one, never half
/// of one, also after a power cut.
pub(crate) fn write_json(dir: &Path, name: &str, document: &impl Serialize) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let written = write_synced(&temporary, document)
        .and_then(|()| fs::rename(&temporary, dir.join(name)))
        .and_then(|()| File::open(dir)?.sync_all());
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_synced(path: &Path, document: &impl Serialize) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec_pretty(document)?)?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Removes a file; one that is missing is fine.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A handle on a directory that only names things in it.
pub(crate) fn open_dir(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// A path below an open directory that fits into a socket address.
pub(crate) fn short_path(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// Connects to a unix socket below a directory whose content is not trusted: no link is followed,
/// and what is not a socket is refused, so it can lead nowhere else.
pub(crate) async fn connect_beneath(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let socket = open_beneath(dir, name, OFlag::O_PATH)?;
    if !socket.metadata()?.file_type().is_socket() {
        return Err(io::Error::other("it is no socket"));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

/// Opens something below a directory whose content is not trusted.
pub(crate) fn open_beneath(dir: &Path, name: &str, flags: OFlag) -> io::Result<File> {
    let dir = open_dir(dir)?;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(&dir, name, how)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_replaced_as_a_whole_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        write_json(dir.path(), "exit.json", &1).unwrap();
        write_json(dir.path(), "exit.json", &2).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("exit.json")).unwrap(), "2\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_document_and_no_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("exit.json")).unwrap();
        assert!(write_json(dir.path(), "exit.json", &1).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
