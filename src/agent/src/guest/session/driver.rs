//! The task that owns a transport.

use std::sync::Arc;
use std::time::Duration;

use mvm_guest_proto::block::Nonce;
use mvm_guest_proto::mux::Event;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use super::losses::Losses;
use super::{Driving, OnLoss, Shared};
use crate::guest::stream::Stream;

/// Bytes read or written at once.
const PIECE: usize = 64 * 1024;
/// How long the first attempt to open a session waits for an answer; doubles up to the last.
const FIRST_ATTEMPT: Duration = Duration::from_secs(2);
const LAST_ATTEMPT: Duration = Duration::from_secs(30);

/// Random bytes for a session.
pub(in crate::guest) fn fresh_nonce() -> Nonce {
    let mut nonce = Nonce::default();
    // Without random bytes nothing on this host is safe; zeros would only fail to be accepted
    // if a stale session had them too.
    if getrandom::fill(&mut nonce).is_err() {
        tracing::error!("the kernel has no random bytes");
    }
    nonce
}

/// When, with no session, something is to be done about it.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// What was said so far is given up for another attempt.
    GiveUp(Instant),
    /// The first attempt after a loss.
    Reopen(Instant),
}

impl Next {
    fn at(self) -> Instant {
        match self {
            Self::GiveUp(at) | Self::Reopen(at) => at,
        }
    }
}

/// What moves the bytes.
pub(super) struct Driver<'a> {
    shared: &'a Arc<Shared>,
    driving: Driving,
    /// Bytes taken from the mux that the transport did not take yet.
    chunk: Vec<u8>,
    /// When a byte last came.
    heard: Instant,
    /// Since when a request waits to be seen by the guest.
    waiting_since: Option<Instant>,
    next: Next,
    attempt: Duration,
    opened: Option<Instant>,
    losses: Losses,
}

/// Why one turn of the driver is the last.
enum Turn {
    Next,
    Last(String),
}

impl<'a> Driver<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, driving: Driving) -> Self {
        let now = Instant::now();
        Self {
            shared,
            driving,
            chunk: Vec::new(),
            heard: now,
            waiting_since: None,
            next: Next::GiveUp(now + FIRST_ATTEMPT),
            attempt: FIRST_ATTEMPT,
            opened: None,
            losses: Losses::default(),
        }
    }

    pub(super) async fn run<T>(mut self, transport: T) -> String
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reader, mut writer) = tokio::io::split(transport);
        let mut buffer = vec![0; PIECE];
        loop {
            if let Turn::Last(why) = self.dispatch() {
                return why;
            }
            let wants_input = {
                let mut state = self.shared.lock();
                if state.abandoned {
                    return "closed".into();
                }
                if self.chunk.is_empty() {
                    let output = state.mux.output();
                    self.chunk.extend_from_slice(&output[..output.len().min(PIECE)]);
                    let taken = self.chunk.len();
                    state.mux.sent(taken);
                }
                state.mux.wants_input()
            };
            let watch = self.next_look();
            tokio::select! {
                read = reader.read(&mut buffer), if wants_input => match read {
                    Ok(0) => return "the other end closed it".into(),
                    Ok(n) => {
                        self.heard = Instant::now();
                        self.shared.with_mux(|mux| mux.feed(&buffer[..n]));
                    }
                    Err(error) => return error.to_string(),
                },
                written = writer.write(&self.chunk), if !self.chunk.is_empty() => match written {
                    Ok(0) => return "the other end takes nothing".into(),
                    Ok(n) => drop(self.chunk.drain(..n)),
                    Err(error) => return error.to_string(),
                },
                // Also while writing is stuck: a new request may have to be watched for silence.
                () = self.shared.output.notified() => {}
                () = sleep_until(watch.unwrap_or_else(Instant::now)), if watch.is_some() => {}
            }
            self.look();
        }
    }

    /// When silence, or an unanswered attempt, has to be looked at.
    fn next_look(&mut self) -> Option<Instant> {
        let state = self.shared.lock();
        if !state.mux.is_open() {
            drop(state);
            self.waiting_since = None;
            return (self.driving.on_loss == OnLoss::Reopen).then_some(self.next.at());
        }
        let awaits = state.mux.awaits_answer();
        drop(state);
        let silence = self.driving.silence?;
        if !awaits {
            self.waiting_since = None;
            return None;
        }
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        Some(since.max(self.heard) + silence)
    }

    /// Gives up a session or an attempt whose time has come.
    fn look(&mut self) {
        let now = Instant::now();
        if self.next_look().is_none_or(|at| at > now) {
            return;
        }
        let is_open = self.shared.lock().mux.is_open();
        if is_open {
            self.shared.with_mux(|mux| mux.lost("the guest is silent"));
        } else if matches!(self.next, Next::Reopen(_)) {
            self.reopen();
        } else if self.chunk.is_empty() && self.shared.lock().mux.output().is_empty() {
            // Nobody answered what was sent completely: say it again.
            self.attempt = (self.attempt * 2).min(LAST_ATTEMPT);
            self.reopen();
        } else {
            // Nobody takes it yet, so saying more would not help.
            self.next = Next::GiveUp(now + self.attempt);
        }
    }

    fn reopen(&mut self) {
        self.chunk.clear();
        self.next = Next::GiveUp(Instant::now() + self.attempt);
        self.shared.with_mux(|mux| mux.reopen(fresh_nonce()));
    }

    /// Opens another session, at once or after a while.
    fn lose(&mut self, why: &str) {
        let now = Instant::now();
        let lasted = self.opened.take().map(|opened| now - opened);
        let loss = self.losses.note(lasted);
        if loss.is_news {
            let times = self.losses.total;
            tracing::warn!(%why, times, "the session with the guest agent was lost");
        }
        self.chunk.clear();
        self.next = Next::Reopen(now + loss.pause);
        if loss.pause.is_zero() {
            self.reopen();
        }
    }

    /// Wakes whoever an event concerns and hands out requests.
    fn dispatch(&mut self) -> Turn {
        let mut lost = None;
        loop {
            let mut state = self.shared.lock();
            let Some(event) = state.mux.next_event() else {
                break;
            };
            match event {
                Event::SessionOpened => {
                    self.attempt = FIRST_ATTEMPT;
                    self.opened = Some(Instant::now());
                    self.shared.changed.notify_waiters();
                }
                Event::SessionLost(why) => {
                    state.wake_all();
                    self.shared.changed.notify_waiters();
                    lost = Some(why.to_string());
                }
                Event::Writable => state.wake_all(),
                Event::Stream(key) => {
                    state.wakers.get(&key).into_iter().for_each(|it| it.notify_waiters());
                }
                Event::Request(key, request) => {
                    let waker = state.waker(key);
                    drop(state);
                    let stream = Stream::new(Arc::clone(self.shared), key, waker, None);
                    // Without anybody to answer it the stream is dropped, which says so.
                    if let Some(requests) = &self.driving.requests {
                        let _ = requests.send((stream, request));
                    }
                }
            }
        }
        match (lost, self.driving.on_loss) {
            (None, _) => Turn::Next,
            (Some(why), OnLoss::Stop) => Turn::Last(why),
            (Some(why), OnLoss::Reopen) => {
                self.lose(&why);
                Turn::Next
            }
        }
    }
}
