//! Asking a guest: one method per request, each with a deadline.

use std::sync::Arc;
use std::time::Duration;

use mvm_guest_proto::message::{
    Call, Done, Failure, Hello, Message, Outcome, Poweroff, Request, SecretsMounted, SecretsStep,
    SleepPrep, SleepPrepared, Status, Wake, Woken,
};
use mvm_guest_proto::mux::{Inbound, Mux, OpenError, Transport};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::error::{GuestError, clean};
use super::session::{Driving, OnLoss, Session, drive, fresh_nonce};
use super::stream::Stream;

/// A connection to a guest agent, or to the relay before it. Clones share it; it is closed when
/// the last clone and the last stream are dropped.
#[derive(Debug, Clone)]
pub struct GuestClient {
    pub(super) session: Session,
}

/// A fresh idempotency id.
pub fn fresh_id() -> String {
    fresh_nonce().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A call with its deadline.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    pub(super) doing: String,
    limit: Duration,
    deadline: Instant,
}

impl Asking {
    pub(super) fn new(doing: impl Into<String>, limit: Duration) -> Self {
        Self { doing: doing.into(), limit, deadline: Instant::now() + limit }
    }

    /// The limit counts anew from now: something moved.
    pub(super) fn moved(&mut self) {
        self.deadline = Instant::now() + self.limit;
    }

    /// Waits for `what`, not beyond the deadline.
    pub(super) async fn within<T>(&self, what: impl Future<Output = T>) -> Result<T, GuestError> {
        timeout_at(self.deadline, what)
            .await
            .map_err(|_| GuestError::Timeout { doing: self.doing.clone(), limit: self.limit })
    }

    pub(super) fn lost(&self, reason: Option<String>) -> GuestError {
        let reason = reason.unwrap_or_else(|| "the session ended".into());
        GuestError::Lost { doing: self.doing.clone(), reason }
    }

    pub(super) fn protocol(&self, what: impl Into<String>) -> GuestError {
        GuestError::Protocol { doing: self.doing.clone(), what: what.into() }
    }

    /// The typed outcome in the payload of a close.
    pub(super) fn outcome<T: DeserializeOwned>(&self, payload: &[u8]) -> Result<T, GuestError> {
        match Outcome::from_bytes(payload) {
            Ok(Outcome::Ok(value)) => Ok(value),
            Ok(Outcome::Error(failure)) => Err(GuestError::from_failure(&self.doing, &failure)),
            Err(what) => Err(self.protocol(clean(&what))),
        }
    }

    /// What an end of the stream means, other than an outcome.
    pub(super) fn ended(&self, stream: &Stream, inbound: &Inbound) -> GuestError {
        match inbound {
            Inbound::Reset(payload) => {
                GuestError::from_failure(&self.doing, &Failure::from_bytes(payload))
            }
            Inbound::Close(payload) => match self.outcome::<serde_json::Value>(payload) {
                Ok(_) => self.protocol("it ended before it began"),
                Err(error) => error,
            },
            _ => self.lost(stream.session_end()),
        }
    }
}

impl GuestClient {
    /// Opens a session with the agent (or relay) at the other end of `transport`.
    ///
    /// # Errors
    /// [`GuestError::Timeout`] when nobody answers, [`GuestError::Lost`] when the transport ends.
    pub async fn connect<T>(
        transport: T,
        kind: Transport,
        limit: Duration,
    ) -> Result<Self, GuestError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asking = Asking::new("connecting to the guest agent", limit);
        let session = Session::new(Mux::host(fresh_nonce(), kind));
        let driving = Driving { on_loss: OnLoss::Stop, requests: None, silence: None };
        tokio::spawn(drive(Arc::clone(&session.shared), transport, driving));
        asking.within(session.opened()).await?.map_err(|why| asking.lost(Some(why)))?;
        Ok(Self { session })
    }

    /// Why the connection is over; `None` while it stands.
    pub fn ended(&self) -> Option<String> {
        self.session.ended()
    }

    /// Opens a stream with a request.
    pub(super) fn open(&self, asking: &Asking, call: &Call) -> Result<Stream, GuestError> {
        let doing = asking.doing.clone();
        self.session.open(&call.to_bytes()).map_err(|error| match error {
            OpenError::NoSession => asking.lost(self.ended()),
            OpenError::TooManyStreams => GuestError::from_failure(
                &doing,
                &Failure::new(
                    mvm_guest_proto::message::ErrorKind::Busy,
                    "too many requests at once on one connection",
                ),
            ),
            OpenError::TooLarge => GuestError::from_failure(
                &doing,
                &Failure::new(
                    mvm_guest_proto::message::ErrorKind::Invalid,
                    "the request is too large",
                ),
            ),
        })
    }

    /// Asks a question that is answered without data.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        doing: impl Into<String>,
        limit: Duration,
        id: &str,
        request: Request,
    ) -> Result<T, GuestError> {
        let asking = Asking::new(doing, limit);
        let stream = self.open(&asking, &Call { id: id.to_owned(), request })?;
        loop {
            match asking.within(stream.recv()).await? {
                Inbound::Close(payload) => return asking.outcome(&payload),
                inbound if inbound.is_end() => return Err(asking.ended(&stream, &inbound)),
                _ => {}
            }
        }
    }

    /// Who the agent is.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn hello(&self, limit: Duration) -> Result<Hello, GuestError> {
        self.ask("asking the guest who it is", limit, "", Request::Hello).await
    }

    /// How the guest is.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn status(&self, limit: Duration) -> Result<Status, GuestError> {
        let status: Status = self.ask("asking for status", limit, "", Request::Status).await?;
        Ok(printable(status))
    }

    /// Prepares the guest to be put to sleep. Safe to repeat with the same `id`.
    ///
    /// # Errors
    /// [`GuestError::Refused`] when a hook fails or the secrets are in use.
    pub async fn sleep_prep(
        &self,
        id: &str,
        request: SleepPrep,
        limit: Duration,
    ) -> Result<SleepPrepared, GuestError> {
        self.ask("preparing to sleep", limit, id, Request::SleepPrep(request)).await
    }

    /// Tells the guest that it was woken, or that a sleep was called off. Safe to repeat with
    /// the same `id`; a repetition does not set the clock again.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn wake(
        &self,
        id: &str,
        request: Wake,
        limit: Duration,
    ) -> Result<Woken, GuestError> {
        self.ask("waking the guest", limit, id, Request::Wake(request)).await
    }

    /// Takes a step of changing the secrets of a guest that runs. Safe to repeat.
    ///
    /// # Errors
    /// [`GuestError::Refused`] while a process holds them, [`GuestError::Unsupported`] from a
    /// guest agent that is older.
    pub async fn secrets(
        &self,
        step: SecretsStep,
        limit: Duration,
    ) -> Result<SecretsMounted, GuestError> {
        self.ask("changing the guest's secrets", limit, "", Request::Secrets(step)).await
    }

    /// Turns the guest off; returns once it has begun to. Safe to repeat with the same `id`.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn poweroff(
        &self,
        id: &str,
        request: Poweroff,
        limit: Duration,
    ) -> Result<(), GuestError> {
        let doing = "powering the guest off";
        self.ask::<Done>(doing, limit, id, Request::Poweroff(request)).await.map(drop)
    }

    /// Waits for the beginning of a request with data: the first message for which `wanted`
    /// gives something.
    pub(super) async fn begin<T>(
        asking: &Asking,
        stream: &Stream,
        wanted: impl Fn(Message) -> Option<T>,
    ) -> Result<T, GuestError> {
        loop {
            match asking.within(stream.recv()).await? {
                Inbound::Message(bytes) => {
                    if let Some(begun) = Message::from_bytes(&bytes).and_then(&wanted) {
                        return Ok(begun);
                    }
                }
                Inbound::Data(..) => return Err(asking.protocol("data before its beginning")),
                inbound if inbound.is_end() => return Err(asking.ended(stream, &inbound)),
                _ => {}
            }
        }
    }
}

/// A status whose texts are fit for a terminal.
fn printable(mut status: Status) -> Status {
    status.problems.truncate(64);
    status.problems.iter_mut().for_each(|problem| *problem = clean(problem));
    status.boot_id.retain(|c| c.is_ascii_hexdigit() || c == '-');
    status.boot_id.truncate(36);
    status.workload.error = status.workload.error.as_deref().map(clean);
    status
}
