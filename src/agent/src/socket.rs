//! Unix sockets in directories whose path may be longer than a socket address holds (108 bytes):
//! they are reached through a descriptor of the directory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

fn through(dir: &File, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()).into()
}

/// Listens on `<dir>/<name>`, replacing what a dead process left there. Only its owner may
/// connect.
///
/// # Errors
/// When the directory cannot be opened or the socket not made.
pub(crate) fn listen_in(dir: &Path, name: &str) -> io::Result<UnixListener> {
    let handle = File::open(dir)?;
    let path = through(&handle, name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to `<dir>/<name>`.
///
/// # Errors
/// When nobody listens there.
pub(crate) async fn connect_in(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let handle = File::open(dir)?;
    UnixStream::connect(through(&handle, name)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_may_be_deep_in_the_tree() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&dir).unwrap();
        let listener = listen_in(&dir, "s.sock").unwrap();
        let (client, server) = tokio::join!(connect_in(&dir, "s.sock"), listener.accept());
        assert!(client.is_ok() && server.is_ok());
        drop(listener);
        listen_in(&dir, "s.sock").unwrap();
    }
}
