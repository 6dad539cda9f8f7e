//! One host's connection: a thread moves bytes between transport and mux, and each request has
//! a thread of its own that talks through a [`Stream`].
//!
//! ```text
//!  transport ⇄ [pump thread] ⇄ Mux (one lock) ⇄ Stream handles ⇄ [request threads]
//!                    ▲ wake                          ▲ one eventfd per stream
//! ```
//!
//! A request thread waits in `poll` on its stream's eventfd beside its own descriptors. When the
//! session is lost every stream is woken and sees [`Inbound::Lost`]; nothing else ends a
//! request thread from outside.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mvm_guest_proto::message::{ErrorKind, Failure, Message, Outcome};
use mvm_guest_proto::mux::{Event, Inbound, Mux, StreamKey};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::sys;

mod pump;

pub(crate) use pump::{Disconnect, serve};

/// State shared by the pump and the request threads of one transport.
pub(crate) struct Session {
    mux: Mutex<Mux>,
    /// Wakes the pump: there is output.
    output: EventFd,
    /// Wakes a request thread: something happened on its stream.
    wakers: Mutex<HashMap<StreamKey, Arc<EventFd>>>,
}

/// The stream's other end, or the stream, is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

fn event_fd() -> nix::Result<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    fn new() -> nix::Result<Self> {
        Ok(Self {
            mux: Mutex::new(Mux::guest(sys::fresh_nonce)),
            output: event_fd()?,
            wakers: Mutex::new(HashMap::new()),
        })
    }

    /// Changes the mux, then lets the pump send what came of it.
    fn with_mux<T>(&self, change: impl FnOnce(&mut Mux) -> T) -> T {
        let mut mux = lock(&self.mux);
        let result = change(&mut mux);
        let has_output = !mux.output().is_empty();
        drop(mux);
        if has_output {
            let _ = self.output.write(1);
        }
        result
    }

    fn wake(&self, key: StreamKey) {
        if let Some(waker) = lock(&self.wakers).get(&key) {
            let _ = waker.write(1);
        }
    }

    fn wake_all(&self) {
        for waker in lock(&self.wakers).values() {
            let _ = waker.write(1);
        }
    }
}

/// A request's stream, in the hands of its thread. Dropping it without an outcome tells the
/// host that the request failed.
pub(crate) struct Stream {
    session: Arc<Session>,
    key: StreamKey,
    waker: Arc<EventFd>,
    open: bool,
}

impl Stream {
    fn new(session: &Arc<Session>, key: StreamKey) -> nix::Result<Self> {
        let waker = Arc::new(event_fd()?);
        lock(&session.wakers).insert(key, Arc::clone(&waker));
        Ok(Self { session: Arc::clone(session), key, waker, open: true })
    }

    /// Readable when something may have happened on the stream; [`Stream::clear`] it first.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }

    /// An eventfd others can write to wake this stream's thread.
    pub(crate) fn waker(&self) -> Arc<EventFd> {
        Arc::clone(&self.waker)
    }

    /// Forgets earlier wake-ups.
    pub(crate) fn clear(&self) {
        let _ = self.waker.read();
    }

    /// What arrived, if anything did.
    pub(crate) fn try_recv(&self) -> Option<Inbound> {
        self.session.with_mux(|mux| mux.recv(self.key))
    }

    /// A control message ahead of data that is not wanted yet.
    pub(crate) fn try_message(&self) -> Option<Message> {
        let bytes = self.session.with_mux(|mux| mux.recv_message(self.key))?;
        Message::from_bytes(&bytes)
    }

    /// True while the host wants the outcome.
    pub(crate) fn is_live(&self) -> bool {
        lock(&self.session.mux).is_live(self.key)
    }

    /// Sends what there is room for.
    pub(crate) fn try_send(&self, channel: u8, bytes: &[u8]) -> usize {
        self.session.with_mux(|mux| mux.send(self.key, channel, bytes))
    }

    /// Waits until something may have happened on the stream.
    pub(crate) fn wait(&self) {
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::NONE);
        self.clear();
    }

    /// Waits for what arrives next; never an end.
    pub(crate) fn recv(&self) -> Result<Inbound, Gone> {
        loop {
            match self.try_recv() {
                Some(inbound) if inbound.is_end() => return Err(Gone),
                Some(inbound) => return Ok(inbound),
                None => self.wait(),
            }
        }
    }

    /// Sends all of `bytes`, waiting for credit.
    pub(crate) fn send(&self, channel: u8, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let n = self.try_send(channel, bytes);
            bytes = &bytes[n..];
            if n == 0 {
                self.is_live().then_some(()).ok_or(Gone)?;
                self.wait();
            }
        }
        Ok(())
    }

    /// Sends a control message, waiting for credit.
    pub(crate) fn message(&self, message: &Message) -> Result<(), Gone> {
        let bytes = message.to_bytes();
        while !self.session.with_mux(|mux| mux.message(self.key, &bytes)) {
            self.is_live().then_some(()).ok_or(Gone)?;
            self.wait();
        }
        Ok(())
    }

    /// Ends a channel.
    pub(crate) fn eof(&self, channel: u8) {
        self.session.with_mux(|mux| mux.eof(self.key, channel));
    }

    /// Ends the stream with the request's outcome.
    pub(crate) fn close<T: serde::Serialize>(self, outcome: Result<T, Failure>) {
        let outcome = match outcome {
            Ok(value) => Outcome::Ok(value),
            Err(failure) => Outcome::Error(failure),
        };
        self.close_with(&outcome.to_bytes());
    }

    /// Ends the stream with an outcome that is bytes already.
    pub(crate) fn close_with(mut self, outcome: &[u8]) {
        self.open = false;
        self.session.with_mux(|mux| mux.close(self.key, outcome));
    }

    /// Waits until everything sent so far left for the host, at most `millis`.
    pub(crate) fn flushed(session: &Session, millis: u64) {
        let end = std::time::Instant::now() + std::time::Duration::from_millis(millis);
        while !lock(&session.mux).output().is_empty() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The session the stream belongs to.
    pub(crate) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        lock(&self.session.wakers).remove(&self.key);
        if self.open {
            let failure = Failure::new(ErrorKind::Failed, "the guest agent gave the request up");
            self.session.with_mux(|mux| mux.reset(self.key, &failure));
        }
    }
}

/// Acts on what the mux noticed; requests go to `start`.
fn dispatch(session: &Arc<Session>, start: &mut impl FnMut(Stream, Vec<u8>)) {
    loop {
        let event = lock(&session.mux).next_event();
        match event {
            None => return,
            Some(Event::SessionOpened) => {}
            Some(Event::SessionLost(_) | Event::Writable) => session.wake_all(),
            Some(Event::Stream(key)) => session.wake(key),
            Some(Event::Request(key, request)) => match Stream::new(session, key) {
                Ok(stream) => start(stream, request),
                Err(_) => {
                    let failure = Failure::new(ErrorKind::Busy, "out of file descriptors");
                    session.with_mux(|mux| mux.reset(key, &failure));
                }
            },
        }
    }
}
