//! The privileged side of the sockets: binding a tenant's port 53, replacing a stuck resolver.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use mvm_model::record::TenantNetwork;
use nix::net::if_::if_nametoindex;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, UnixAddr, bind as bind_socket,
    getsockopt, listen, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;

use super::control::Place;

const PORT: u16 = 53;
const BACKLOG: i32 = 64;
/// A resolver that is just ending may hold the address a little longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a tenant's sockets belong now.
pub(super) fn place(network: &TenantNetwork) -> io::Result<Place> {
    let bridge_index = if_nametoindex(network.tenant_net_id.bridge().as_str())?;
    Ok(Place { address: network.ipv4_subnet.gateway(), bridge_index })
}

/// Binds UDP and TCP on a tenant's gateway address and to its bridge: nothing that came in by
/// another interface is delivered to them.
pub(super) fn bind(network: &TenantNetwork, place: Place) -> io::Result<[OwnedFd; 2]> {
    let bridge = network.tenant_net_id.bridge();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pair = open(SockType::Datagram, &bridge, place)
            .and_then(|udp| Ok([udp, open(SockType::Stream, &bridge, place)?]));
        match pair {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn open(kind: SockType, bridge: &str, place: Place) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&fd, sockopt::BindToDevice, &bridge.into())?;
    if kind == SockType::Stream {
        // Connections of an earlier resolver in TIME_WAIT are no obstacle.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    let address = SockaddrIn::from(SocketAddrV4::new(place.address, PORT));
    bind_socket(fd.as_raw_fd(), &address)?;
    if kind == SockType::Stream {
        listen(&fd, Backlog::new(BACKLOG)?)?;
    }
    Ok(fd)
}

/// Binds the control socket without listening: the resolver does that itself, so that the kernel
/// names *its* process to whoever connects.
pub(super) fn bind_control(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind_socket(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// Kills the process that listens at the other end of a connection.
pub(super) fn kill_listener(stream: &UnixStream) -> io::Result<()> {
    let pid = getsockopt(stream, sockopt::PeerCredentials)?.pid();
    if pid <= 1 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its process cannot be seen"));
    }
    match kill(Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
