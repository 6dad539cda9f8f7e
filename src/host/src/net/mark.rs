//! Whether a port's network is as it was when it was last looked at whole, without looking at it
//! whole: for a wake, which has no time for listings.
//!
//! The kernel counts every change of a namespace's rules, whoever makes it. While that number, the
//! bridge and the tap are what they were when the rules were last listed and found right, they are
//! right. Anything else is a reason to look again, never an error.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use mvm_model::Digest;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::sys::time::TimeVal;

use super::{Net, Port, TenantNet};
use crate::facts::Facts;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`.
const GET_GENERATION: u16 = 10 << 8 | 16;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`.
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;
/// A netlink message's header, and that of nfnetlink behind it, bytes.
const HEADERS: usize = 16 + 4;
/// How long the kernel may take to say a number, seconds.
const ANSWER: i64 = 1;

/// What the network was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u32);

impl Net {
    /// Counts the changes of this namespace's rules; `None` when the kernel does not say.
    pub fn generation(&self) -> Option<Generation> {
        generation().ok().map(Generation)
    }

    /// Remembers that a port and its tenant's network were found right, all of it at this
    /// generation. Nothing is remembered when the rules were changed meanwhile.
    pub async fn remember(&self, tenant: &TenantNet, port: &Port, at: Generation) {
        let Some(mark) = self.mark(tenant, port).await else { return };
        if self.generation() != Some(at) {
            return;
        }
        let path = self.mark_file(port);
        // What cannot be remembered is looked at again.
        let _ = path.parent().map_or(Ok(()), fs::create_dir_all);
        let _ = fs::write(path, mark.as_str());
    }

    /// Whether nothing was changed since [`Self::remember`].
    pub async fn is_untouched(&self, tenant: &TenantNet, port: &Port) -> bool {
        let Ok(then) = fs::read_to_string(self.mark_file(port)) else { return false };
        self.mark(tenant, port).await.is_some_and(|now| now.as_str() == then)
    }

    /// Forgets what was remembered of a port.
    pub(super) fn forget_mark(&self, port: &str) {
        let _ = fs::remove_file(self.dir.join("marks").join(port));
    }

    fn mark_file(&self, port: &Port) -> PathBuf {
        self.dir.join("marks").join(port.tap())
    }

    /// Everything that says whether something changed. Whether a VM has the tap open is not of it.
    async fn mark(&self, tenant: &TenantNet, port: &Port) -> Option<Digest> {
        let generation = self.generation()?;
        let mut links = Vec::new();
        for name in [port.net_id.bridge(), port.tap()] {
            let mut link = self.links.get(&name).await.ok().flatten()?;
            link.carrier = false;
            links.push(link);
        }
        let boot = Facts::boot_id();
        let all = format!("{boot} {generation:?} {tenant:?} {port:?} {links:?}");
        Some(Digest::of(all.as_bytes()))
    }
}

/// Asks the kernel for the generation of the rules of this network namespace.
fn generation() -> io::Result<u32> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    let limit = TimeVal::new(ANSWER, 0);
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &limit)?;
    ask(&socket)?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    parse(&answer[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn ask(socket: &OwnedFd) -> io::Result<()> {
    let length = u32::try_from(HEADERS).map_err(io::Error::other)?;
    let request = 1_u16;
    let mut message = Vec::with_capacity(HEADERS);
    message.extend(length.to_ne_bytes());
    message.extend(GET_GENERATION.to_ne_bytes());
    message.extend(request.to_ne_bytes());
    // Sequence and port; then family, version and resource, all nothing.
    message.resize(HEADERS, 0);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// Finds the number in an answer.
fn parse(answer: &[u8]) -> Option<u32> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if half(4)? != NEW_GENERATION {
        return None;
    }
    let mut at = HEADERS;
    loop {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == GENERATION_ID {
            return Some(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        // Attributes begin at multiples of four; one shorter than its header is nonsense.
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(attributes: &[u8]) -> Vec<u8> {
        let mut answer = vec![0; HEADERS];
        answer[4..6].copy_from_slice(&NEW_GENERATION.to_ne_bytes());
        answer.extend(attributes);
        answer
    }

    #[test]
    fn the_number_is_found_and_nonsense_is_none() {
        let id = [8_u8, 0, 1, 0, 0, 0, 1, 2];
        let name = [7_u8, 0, 3, 0, b'n', b'f', 0, 0];
        assert_eq!(parse(&answer(&id)), Some(258));
        assert_eq!(parse(&answer(&[name, id].concat())), Some(258));
        for bad in [&[][..], &[0; 8], &id[..6], &name] {
            assert_eq!(parse(&answer(bad)), None, "{bad:?}");
        }
        assert_eq!(parse(&[0; 64]), None);
    }

    #[test]
    fn the_kernel_says_a_number_where_it_may_be_asked() {
        if nix::unistd::geteuid().is_root() {
            assert_eq!(generation().unwrap(), generation().unwrap());
        }
    }
}
