//! Who is at the other end of a connection, and whether they may ask.

use std::mem::size_of_val;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::unistd::{Group, Uid, User, geteuid};
use tokio::net::UnixStream;

use super::socket::GROUP;

/// The most groups of a caller that are looked at.
const MOST_GROUPS: usize = 1024;

/// A caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its user id.
    pub uid: u32,
    /// Its user's name, or the id.
    pub name: String,
}

/// Who is at the other end, when the kernel says that they may ask: root, who runs the agent, or
/// a member of the group. The socket's mode says the same; this also holds when somebody changed
/// that.
pub fn admitted(stream: &UnixStream) -> Option<Peer> {
    let peer = stream.peer_cred().ok()?;
    let uid = Uid::from_raw(peer.uid());
    let member = || {
        let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw());
        group.is_some_and(|group| peer.gid() == group || groups(stream).contains(&group))
    };
    let user = User::from_uid(uid).ok().flatten();
    let name = user.map_or_else(|| uid.to_string(), |user| user.name);
    (uid.is_root() || uid == geteuid() || member()).then_some(Peer { uid: uid.as_raw(), name })
}

/// The caller's supplementary groups when it connected, as the kernel has them: a session begun
/// before somebody was put into the group, or a service with groups of its own, counts as it is.
fn groups(stream: &UnixStream) -> Vec<u32> {
    let mut groups = [0_u32; MOST_GROUPS];
    let mut len = size_of_val(&groups) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `groups`, which outlives the call, and
    // the length it used into `len`.
    let asked = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &mut len,
        )
    };
    let count = if asked == 0 { len as usize / size_of::<u32>() } else { 0 };
    groups[..count.min(MOST_GROUPS)].to_vec()
}
