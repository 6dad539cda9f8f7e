//! Forgets connections of an address before it is given to somebody else, so that a peer's late
//! packets of the old flow do not reach the new holder (N-07).
//!
//! Best effort: a kernel without `nf_conntrack_netlink` keeps its entries until they time out;
//! what is left can only carry answers to connections the old holder had opened.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use rtnetlink::packet_core::{NlaBuffer, NlasIterator};

const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
/// A dump comes in pieces of at most this size.
const PIECE: usize = 64 * 1024;

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const REQUEST_ACK: u16 = 1 | 4;
const REQUEST_DUMP: u16 = 1 | 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// Source and target address within [`TUPLE_IP`].
const IPV4: [u16; 2] = [1, 2];

/// Deletes every entry of the connection tracker that mentions an address.
pub(super) async fn forget(address: Ipv4Addr) {
    // Opened here: this thread is in the right network namespace.
    let outcome = match open() {
        Ok(socket) => tokio::task::spawn_blocking(move || forget_by(&socket, address)).await,
        Err(error) => Ok(Err(error)),
    };
    if let Ok(Err(error)) = outcome {
        tracing::debug!(%address, %error, "connections were not forgotten");
    }
}

fn open() -> io::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkNetFilter;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    // The kernel answers at once; this only bounds a surprise.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
    Ok(socket)
}

fn forget_by(socket: &OwnedFd, address: Ipv4Addr) -> io::Result<()> {
    for entry in entries_of(socket, address)? {
        send(socket.as_raw_fd(), &message(DELETE, REQUEST_ACK, &entry), MsgFlags::empty())?;
        // The answer may be "no such entry": it timed out meanwhile.
        recv(socket.as_raw_fd(), &mut [0; 1024], MsgFlags::empty())?;
    }
    Ok(())
}

/// What names each matching entry, ready to be sent back.
fn entries_of(socket: &OwnedFd, address: Ipv4Addr) -> io::Result<Vec<Vec<u8>>> {
    send(socket.as_raw_fd(), &message(GET, REQUEST_DUMP, &[]), MsgFlags::empty())?;
    let mut piece = vec![0; PIECE];
    let mut found = Vec::new();
    loop {
        let length = recv(socket.as_raw_fd(), &mut piece, MsgFlags::empty())?;
        for (kind, body) in messages(&piece[..length]) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(refusal(body)),
                _ => found.extend(name_if_of(body, address)),
            }
        }
    }
}

fn refusal(body: &[u8]) -> io::Error {
    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    io::Error::from_raw_os_error(-code)
}

/// Splits a datagram into messages; a malformed rest is left out.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
        let whole = datagram.get(..length).filter(|whole| whole.len() >= HEADER)?;
        let kind = u16::from_ne_bytes([whole[4], whole[5]]);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, &whole[HEADER..]))
    })
}

fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = (HEADER + FAMILY_HEADER + attributes.len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // sequence and port: one question at a time on this socket
    bytes.extend([libc::AF_INET as u8, 0, 0, 0]);
    bytes.extend_from_slice(attributes);
    bytes
}

/// The attributes that name an entry, if it mentions the address.
fn name_if_of(body: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let mut ours = false;
    for attribute in attributes(body.get(FAMILY_HEADER..)?) {
        if matches!(attribute.kind(), TUPLE_ORIGINAL | TUPLE_REPLY) {
            ours |= mentions(attribute.value(), address);
        }
        if matches!(attribute.kind(), TUPLE_ORIGINAL | ID | ZONE) {
            let length = usize::from(attribute.length());
            let mut copy = attribute.into_inner()[..length].to_vec();
            copy.resize(length.next_multiple_of(4), 0);
            name.extend(copy);
        }
    }
    ours.then_some(name)
}

fn mentions(tuple: &[u8], address: Ipv4Addr) -> bool {
    attributes(tuple)
        .filter(|attribute| attribute.kind() == TUPLE_IP)
        .flat_map(|ip| attributes(ip.into_inner().get(4..).unwrap_or_default()))
        .any(|end| IPV4.contains(&end.kind()) && end.value() == address.octets())
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_datagram_makes_the_reader_panic(bytes: Vec<u8>) {
            for (_, body) in messages(&bytes) {
                let _ = name_if_of(body, Ipv4Addr::LOCALHOST);
            }
            let _ = name_if_of(&bytes, Ipv4Addr::LOCALHOST);
        }
    }
}
