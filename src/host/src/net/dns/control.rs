//! The words between mvm (root) and the resolver, and how sockets cross.
//!
//! A frame is a length (u32, little endian) and that much JSON; descriptors ride on the length.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use mvm_model::{Digest, NetId};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::zone::Zone;

/// A resolver that speaks another version is replaced. The first one ran as a user that a VM may
/// have.
pub(super) const VERSION: u32 = 2;
const MAX_FRAME: u32 = 16 << 20;

/// What mvm asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Who are you, what do you have?
    Hello,
    /// Have this zone; with two descriptors (UDP, TCP) when its sockets are new.
    Put { zone: Zone, place: Place },
    /// Drop all other zones; without any left, end.
    Keep { net_ids: Vec<NetId> },
}

/// What the resolver answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Hello {
        version: u32,
        pid: u32,
        zones: BTreeMap<NetId, Held>,
    },
    Done,
    /// Everything is dropped; the process ends.
    Ending,
    Refused {
        reason: String,
    },
}

/// A zone the resolver has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub digest: Digest,
    pub place: Place,
}

/// Where sockets are bound: a bridge made anew needs new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub address: Ipv4Addr,
    pub bridge_index: u32,
}

/// Sends a frame with descriptors.
pub(super) fn send(stream: &UnixStream, body: &impl Serialize, fds: &[OwnedFd]) -> io::Result<()> {
    let body = serde_json::to_vec(body)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes();
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let riding = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&length)], riding, flags, None)?;
    let mut stream = stream;
    stream.write_all(&length[sent..])?;
    stream.write_all(&body)
}

/// Receives a frame; `None` when the other side has closed.
pub(super) fn receive<T: DeserializeOwned>(
    stream: &UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let (got, fds) = receive_length(stream, &mut length)?;
    if got == 0 {
        return Ok(None);
    }
    let mut stream = stream;
    stream.read_exact(&mut length[got..])?;
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&body)?, fds)))
}

fn receive_length(stream: &UnixStream, length: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut parts = [IoSliceMut::new(length)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just made these descriptors for us and nobody else has them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_carries_words_and_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut end, passed) = UnixStream::pair().unwrap();
        send(&here, &Request::Hello, &[passed.into()]).unwrap();
        let (request, fds) = receive::<Request>(&there).unwrap().unwrap();
        assert!(matches!(request, Request::Hello));
        let mut passed = std::fs::File::from(fds.into_iter().next().unwrap());
        passed.write_all(b"x").unwrap();
        end.read_exact(&mut [0]).unwrap();
        drop(here);
        assert!(receive::<Request>(&there).unwrap().is_none());
    }

    #[test]
    fn a_frame_that_is_too_long_or_no_json_is_an_error() {
        for bytes in [&[255u8; 8][..], &[3, 0, 0, 0, b'{', b'{', b'{'], &[9, 0, 0, 0, 1]] {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(bytes).unwrap();
            drop(here);
            assert!(receive::<Request>(&there).is_err());
        }
    }
}
