//! Who is at the other end of a connection, and whether they may ask.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use tokio::net::UnixStream;

use super::socket::GROUP;

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
    let user = User::from_uid(uid).ok().flatten();
    let member = || {
        let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid);
        group.is_some_and(|group| {
            Gid::from_raw(peer.gid()) == group
                || user.as_ref().is_some_and(|user| groups(user).contains(&group))
        })
    };
    let name = user.as_ref().map_or_else(|| uid.to_string(), |user| user.name.clone());
    (uid.is_root() || uid == geteuid() || member()).then_some(Peer { uid: uid.as_raw(), name })
}

fn groups(user: &User) -> Vec<Gid> {
    CString::new(user.name.as_str())
        .ok()
        .and_then(|name| getgrouplist(&name, user.gid).ok())
        .unwrap_or_default()
}
