//! Moves bytes between a transport and a session's mux.
//!
//! Edge-triggered `epoll`: a virtio-serial port without a host is readable (end of file) and
//! hung up all the time, so only *changes* may wake us. Reading goes on until the transport
//! has nothing more, and pauses while too much output waits.
//!
//! A virtio-serial port learns that a host came or left later than it gets that host's bytes.
//! An end of file there is therefore believed only when it lasts, and never ends a handshake:
//! the host whose bytes were just read is there.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Session, Stream, dispatch, lock};

/// What an end of file on the transport means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disconnect {
    /// The connection is over; the pump returns.
    Final,
    /// The host may come back on the same descriptor (virtio-serial).
    Passing,
}

const TRANSPORT: u64 = 1;
const OUTPUT: u64 = 2;

/// Serves one transport until it ends. `transport` is non-blocking.
///
/// # Errors
/// What the transport said, unless it is an end.
pub(crate) fn serve(
    transport: &impl AsFd,
    disconnect: Disconnect,
    mut start: impl FnMut(Stream, Vec<u8>),
) -> nix::Result<()> {
    let session = Arc::new(Session::new()?);
    if disconnect == Disconnect::Passing && std::process::id() != 1 {
        // An agent before us may have had a session here.
        lock(&session.mux).disown();
    }
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
    epoll.add(transport, EpollEvent::new(interest | EpollFlags::EPOLLET, TRANSPORT))?;
    epoll.add(&session.output, EpollEvent::new(EpollFlags::EPOLLIN, OUTPUT))?;
    let mut buffer = vec![0; 32 * 1024];
    let mut readable = true;
    let mut absence = Absence::default();
    let outcome = loop {
        if let Err(error) = send(&session, transport) {
            break Err(error);
        }
        dispatch(&session, &mut start);
        let wants_input = lock(&session.mux).wants_input();
        if readable && wants_input {
            match nix::unistd::read(transport, &mut buffer) {
                Ok(0) if disconnect == Disconnect::Final => break Ok(()),
                Ok(0) => {
                    readable = false;
                    if absence.is_certain(&session) {
                        lock(&session.mux).lost("the host left");
                    }
                }
                Ok(n) => {
                    absence = Absence::default();
                    session.with_mux(|mux| mux.feed(&buffer[..n]));
                    buffer[..n].fill(0);
                }
                Err(Errno::EAGAIN) => {
                    absence = Absence::default();
                    readable = false;
                }
                Err(Errno::EINTR) => {}
                Err(error) => break Err(error),
            }
            continue;
        }
        let mut events = [EpollEvent::empty(); 2];
        match epoll.wait(&mut events, absence.timeout()) {
            // Time to look again whether the host is really away.
            Ok(0) => readable = true,
            Ok(n) => readable |= events[..n].iter().any(|event| event.data() == TRANSPORT),
            Err(Errno::EINTR) => {}
            Err(error) => break Err(error),
        }
        let _ = session.output.read();
    };
    lock(&session.mux).lost("the transport ended");
    session.wake_all();
    outcome
}

/// Sends until the transport takes no more.
fn send(session: &Session, transport: &impl AsFd) -> nix::Result<()> {
    loop {
        let mut mux = lock(&session.mux);
        let output = mux.output();
        if output.is_empty() {
            return Ok(());
        }
        match nix::unistd::write(transport, output) {
            Ok(n) => mux.sent(n),
            Err(Errno::EAGAIN) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// How long a port has looked as if its host were away, while a session is open.
#[derive(Debug, Default)]
struct Absence {
    since: Option<Instant>,
}

/// Absence that lasts this long is real.
const CERTAIN: Duration = Duration::from_millis(50);

impl Absence {
    /// The port says that nobody is there; true when a session ends with that.
    fn is_certain(&mut self, session: &Session) -> bool {
        if !lock(&session.mux).is_open() {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let is_certain = since.elapsed() >= CERTAIN;
        if is_certain {
            self.since = None;
        }
        is_certain
    }

    /// When to look again.
    fn timeout(&self) -> EpollTimeout {
        match self.since {
            None => EpollTimeout::NONE,
            Some(_) => EpollTimeout::from(50_u8),
        }
    }
}
