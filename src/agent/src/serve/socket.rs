//! The agent's socket: root and the group `mvm` may connect.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mvm_api::wire::SOCKET;
use nix::unistd::{Gid, Group, chown};
use tokio::net::UnixListener;

use crate::error::{Error, Kind, Result};
use crate::socket::listen_in;

/// The group whose members may ask the agent. They are as good as root on this host.
pub const GROUP: &str = "mvm";

/// Where it is.
pub fn path(run: &Path) -> PathBuf {
    run.join(SOCKET)
}

/// Listens. The lock on the run directory makes sure that nobody else does.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(run: &Path) -> Result<UnixListener> {
    let failed = |error: std::io::Error| {
        Error::new(Kind::Failed, "", format!("cannot listen on {}", path(run).display()))
            .because(error)
    };
    let listener = listen_in(run, SOCKET).map_err(failed)?;
    open_to_group(run).map_err(failed)?;
    Ok(listener)
}

fn open_to_group(run: &Path) -> std::io::Result<()> {
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    let group = Group::from_name(GROUP)?.map(|group| group.gid);
    if let Some(gid) = group {
        give(run, gid)?;
        give(&path(run), gid)?;
        // Its members pass through to the socket; everything else in there is root's alone.
        mode(run, 0o710)?;
    }
    mode(&path(run), 0o660)
}

fn give(path: &Path, gid: Gid) -> std::io::Result<()> {
    chown(path, None, Some(gid)).map_err(Into::into)
}

/// Takes the socket away, so that commands see at once that there is no agent.
pub fn remove(run: &Path) {
    let _ = std::fs::remove_file(path(run));
}
