//! One request's stream, used from any task.

use std::sync::Arc;

use mvm_guest_proto::message::{ErrorKind, Failure, Message};
use mvm_guest_proto::mux::{Inbound, StreamKey};
use tokio::sync::Notify;

use super::session::{LastUser, Shared};

/// The stream, or its other end, is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// A stream. Dropping it before its end tells the other side that nobody waits any more.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    key: StreamKey,
    waker: Arc<Notify>,
    /// Keeps the session's transport open as long as the stream is used.
    _user: Option<Arc<LastUser>>,
}

impl Stream {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: StreamKey,
        waker: Arc<Notify>,
        user: Option<Arc<LastUser>>,
    ) -> Self {
        Self { shared, key, waker, _user: user }
    }

    /// Tries until `attempt` gives something, woken by whatever happens on the stream.
    async fn until<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        loop {
            let woken = self.waker.notified();
            tokio::pin!(woken);
            // Before the attempt, so that what happens right after it is not missed.
            woken.as_mut().enable();
            if let Some(result) = attempt() {
                return result;
            }
            woken.await;
        }
    }

    /// What arrives next. Cancel-safe.
    pub(super) async fn recv(&self) -> Inbound {
        self.until(|| self.shared.with_mux(|mux| mux.recv(self.key))).await
    }

    /// True while neither side ended it.
    fn is_live(&self) -> bool {
        self.shared.lock().mux.is_live(self.key)
    }

    /// Waits until the other side gave the stream up or the session ended.
    pub(super) async fn ended(&self) {
        self.until(|| (!self.is_live()).then_some(())).await;
    }

    /// Sends all of `bytes`, waiting for credit.
    pub(super) async fn send(&self, channel: u8, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let sent = self
                .until(|| match self.shared.with_mux(|mux| mux.send(self.key, channel, bytes)) {
                    0 if self.is_live() => None,
                    0 => Some(Err(Gone)),
                    n => Some(Ok(n)),
                })
                .await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Sends a control message, waiting for credit.
    pub(super) async fn message(&self, message: &Message) -> Result<(), Gone> {
        self.raw_message(&message.to_bytes()).await
    }

    /// Sends a control message that is bytes already.
    pub(super) async fn raw_message(&self, bytes: &[u8]) -> Result<(), Gone> {
        self.until(|| match self.shared.with_mux(|mux| mux.message(self.key, bytes)) {
            true => Some(Ok(())),
            false if self.is_live() => None,
            false => Some(Err(Gone)),
        })
        .await
    }

    /// Ends a channel.
    pub(super) fn eof(&self, channel: u8) {
        self.shared.with_mux(|mux| mux.eof(self.key, channel));
    }

    /// Answering side: ends the stream with its outcome.
    pub(super) fn close(self, outcome: &[u8]) {
        self.shared.with_mux(|mux| mux.close(self.key, outcome));
    }

    /// Gives the stream up, saying why.
    pub(super) fn reset(self, failure: &Failure) {
        self.shared.with_mux(|mux| mux.reset(self.key, failure));
    }

    /// Why the whole session is over, if it is.
    pub(super) fn session_end(&self) -> Option<String> {
        self.shared.lock().ended.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.forget(self.key);
        // Nothing happens when the stream has ended.
        let cancelled = Failure::new(ErrorKind::Cancelled, "nobody waits for it any more");
        self.shared.with_mux(|mux| mux.reset(self.key, &cancelled));
    }
}
