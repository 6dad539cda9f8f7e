//! A mux driven by tokio: one task moves bytes, streams are used from any task.
//!
//! The task ([`drive`]) ends when the transport ends, the last user of the session is gone, or
//! the session is lost; with [`OnLoss::Reopen`] it opens a new one on the same transport instead,
//! again and again until the guest answers, and the slower the less a session lasts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mvm_guest_proto::mux::{Mux, OpenError, StreamKey};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};

use super::stream::Stream;

/// What happens when a session is lost while the transport stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnLoss {
    /// The connection is over.
    Stop,
    /// Another session is opened: the transport is lasting.
    Reopen,
}

/// A session several tasks use. The transport's task ends when all of them dropped it.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    user: Arc<LastUser>,
}

/// Tells the transport's task that nobody is left.
#[derive(Debug)]
pub(super) struct LastUser(Arc<Shared>);

impl Drop for LastUser {
    fn drop(&mut self) {
        self.0.lock().abandoned = true;
        self.0.output.notify_one();
    }
}

/// What the transport's task and the session's users share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is output, or nobody is left.
    output: Notify,
    /// The session opened or ended.
    changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) mux: Mux,
    wakers: HashMap<StreamKey, Arc<Notify>>,
    /// Why the transport's task ended.
    pub(super) ended: Option<String>,
    abandoned: bool,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the mux, then lets the transport's task send what came of it.
    pub(super) fn with_mux<T>(&self, change: impl FnOnce(&mut Mux) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state.mux);
        let has_output = !state.mux.output().is_empty();
        drop(state);
        if has_output {
            self.output.notify_one();
        }
        result
    }

    pub(super) fn forget(&self, key: StreamKey) {
        self.lock().wakers.remove(&key);
    }
}

impl Session {
    /// A session over `mux`, to be driven by [`drive`].
    pub(super) fn new(mux: Mux) -> Self {
        let state = State { mux, wakers: HashMap::new(), ended: None, abandoned: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            output: Notify::new(),
            changed: Notify::new(),
        });
        Self { user: Arc::new(LastUser(Arc::clone(&shared))), shared }
    }

    /// Waits until the session is open; says why when it ended instead.
    pub(super) async fn opened(&self) -> Result<(), String> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.shared.lock();
                if let Some(why) = &state.ended {
                    return Err(why.clone());
                }
                if state.mux.is_open() {
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    /// Opens a stream with a request.
    pub(super) fn open(&self, request: &[u8]) -> Result<Stream, OpenError> {
        let mut state = self.shared.lock();
        let key = state.mux.open(request)?;
        let waker = state.waker(key);
        drop(state);
        self.shared.output.notify_one();
        Ok(Stream::new(Arc::clone(&self.shared), key, waker, Some(Arc::clone(&self.user))))
    }

    /// Why the session is over, if it is.
    pub(super) fn ended(&self) -> Option<String> {
        self.shared.lock().ended.clone()
    }
}

impl State {
    fn waker(&mut self, key: StreamKey) -> Arc<Notify> {
        let waker = Arc::new(Notify::new());
        self.wakers.insert(key, Arc::clone(&waker));
        waker
    }

    fn wake_all(&self) {
        self.wakers.values().for_each(|waker| waker.notify_waiters());
    }
}

/// How the driving of a transport is to be done.
#[derive(Debug)]
pub(super) struct Driving {
    pub(super) on_loss: OnLoss,
    /// For the answering side: where requests go.
    pub(super) requests: Option<mpsc::UnboundedSender<(Stream, Vec<u8>)>>,
    /// A guest that says nothing at all for this long while a request waits is lost.
    pub(super) silence: Option<Duration>,
}

/// Moves bytes until the transport ends or nobody is left; returns why.
pub(super) async fn drive<T>(shared: Arc<Shared>, transport: T, driving: Driving) -> String
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let why = Driver::new(&shared, driving).run(transport).await;
    let mut state = shared.lock();
    state.mux.lost(&why);
    while state.mux.next_event().is_some() {}
    state.ended = Some(why.clone());
    state.wake_all();
    drop(state);
    shared.changed.notify_waiters();
    why
}

mod driver;
mod losses;

use driver::Driver;
pub(super) use driver::fresh_nonce;
