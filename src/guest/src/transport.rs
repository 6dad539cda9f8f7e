//! Where hosts come from: the virtio-serial port, AF_VSOCK, a unix socket.
//!
//! Each way in has a thread; each connection too. A request is answered by
//! [`crate::verbs::answer`] in a thread of its own, at most [`MAX_REQUESTS`] at once.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mvm_guest_proto::message::{ErrorKind, Failure};
use mvm_guest_proto::{PORT_NAME, VSOCK_PORT};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, getpeername, listen,
    socket,
};

use crate::guest::Guest;
use crate::session::{Disconnect, Stream, serve};

/// Requests worked on at once, over all connections.
const MAX_REQUESTS: usize = 96;
/// Connections served at once.
const MAX_CONNECTIONS: usize = 16;
/// How long until accepting is tried again after it failed.
const AGAIN: Duration = Duration::from_millis(100);
/// Stack of a request's thread; they hold small buffers only.
const STACK: usize = 256 * 1024;

/// Serves every way in that exists. Returns at once; the threads live on.
pub(crate) fn serve_all(guest: &Arc<Guest>) {
    match find_port() {
        Some(port) => drop(spawn(guest, "port", move |guest| serve_port(guest, &port))),
        None => guest.note("no virtio-serial port for the agent"),
    }
    spawn(guest, "vsock", serve_vsock);
}

/// Whether a thread was started.
#[derive(PartialEq)]
enum Spawned {
    Yes,
    No,
}

fn spawn(
    guest: &Arc<Guest>,
    name: &str,
    run: impl FnOnce(&Arc<Guest>) + Send + 'static,
) -> Spawned {
    let served = Arc::clone(guest);
    let thread = thread::Builder::new().name(name.into()).stack_size(STACK);
    match thread.spawn(move || run(&served)) {
        Ok(_) => Spawned::Yes,
        Err(error) => {
            guest.note(&format!("cannot start thread {name}: {error}"));
            Spawned::No
        }
    }
}

/// The device of the port called [`PORT_NAME`]. There is no udev, so no link by name.
fn find_port() -> Option<String> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let ours = |port: &fs::DirEntry| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT_NAME)
    };
    let port = ports.into_iter().find(ours)?;
    Some(format!("/dev/{}", port.file_name().to_str()?))
}

fn serve_port(guest: &Arc<Guest>, path: &str) {
    let port = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    let outcome = match port {
        Ok(port) => serve(&port, Disconnect::Passing, |stream, call| start(guest, stream, call)),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    };
    if let Err(error) = outcome {
        guest.note(&format!("{path}: {error}"));
    }
}

fn serve_vsock(guest: &Arc<Guest>) {
    let listener = match listen_vsock() {
        Ok(listener) => listener,
        // No vsock device in this machine.
        Err(Errno::EAFNOSUPPORT | Errno::ENODEV | Errno::EADDRNOTAVAIL) => return,
        Err(error) => return guest.note(&format!("cannot listen on vsock: {error}")),
    };
    let is_host = |peer: &OwnedFd| {
        getpeername::<VsockAddr>(peer.as_raw_fd())
            .is_ok_and(|address| address.cid() == libc::VMADDR_CID_HOST)
    };
    accept_all(guest, &listener, is_host);
}

fn listen_vsock() -> nix::Result<OwnedFd> {
    let listener = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, VSOCK_PORT))?;
    listen(&listener, Backlog::new(16)?)?;
    Ok(listener)
}

/// Serves a unix socket at `path`, which must not exist.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn serve_unix(guest: &Arc<Guest>, path: &Path) -> std::io::Result<()> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let spawned = spawn(guest, "unix", move |guest| accept_all(guest, &listener, |_| true));
    match spawned {
        Spawned::Yes => Ok(()),
        Spawned::No => Err(std::io::ErrorKind::OutOfMemory.into()),
    }
}

/// Serves whoever connects. Never ends: a guest that no longer accepts cannot be reached again.
fn accept_all(guest: &Arc<Guest>, listener: &impl AsFd, welcome: impl Fn(&OwnedFd) -> bool) -> ! {
    let connections = Arc::new(AtomicUsize::new(0));
    let mut last = None;
    loop {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let peer = match accept4(listener.as_fd().as_raw_fd(), flags) {
            // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
            Err(error) => {
                // Of the one who connected, or of a guest that lacks something for now.
                if last.replace(error) != Some(error) {
                    guest.note(&format!("cannot accept: {error}"));
                }
                thread::sleep(AGAIN);
                continue;
            }
        };
        if !welcome(&peer) || connections.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            continue;
        }
        connections.fetch_add(1, Ordering::Relaxed);
        let count = Arc::clone(&connections);
        let spawned = spawn(guest, "connection", move |guest| {
            // A connection that breaks is nobody's news.
            let _ = serve(&peer, Disconnect::Final, |stream, call| start(guest, stream, call));
            count.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned == Spawned::No {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Gives a request a thread.
fn start(guest: &Arc<Guest>, stream: Stream, call: Vec<u8>) {
    if guest.requests.fetch_add(1, Ordering::Relaxed) >= MAX_REQUESTS {
        guest.requests.fetch_sub(1, Ordering::Relaxed);
        return stream.close::<()>(Err(Failure::new(ErrorKind::Busy, "too many requests at once")));
    }
    let answering = Arc::clone(guest);
    let thread = thread::Builder::new().name("request".into()).stack_size(STACK);
    let started = thread.spawn(move || {
        crate::verbs::answer(&answering, stream, &call);
        answering.requests.fetch_sub(1, Ordering::Relaxed);
    });
    if let Err(error) = started {
        // The closure, and with it the stream, was dropped: the host was told.
        guest.requests.fetch_sub(1, Ordering::Relaxed);
        guest.note(&format!("cannot start a request's thread: {error}"));
    }
}
