//! Logs of a guest.

use std::time::Duration;

use mvm_guest_proto::message::{Call, FROM_GUEST, Logs, Request, Transferred};
use mvm_guest_proto::mux::Inbound;

use super::client::{Asking, GuestClient};
use super::error::GuestError;
use super::stream::Stream;

/// A log as it comes. Its bytes are the guest's: not fit for a terminal as they are.
#[derive(Debug)]
pub struct LogStream {
    stream: Stream,
    asking: Asking,
    follow: bool,
}

impl GuestClient {
    /// The end of a log, and with `logs.follow` what is written from now on. `limit` is the
    /// longest time to wait for what is there already.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn logs(&self, logs: Logs, limit: Duration) -> Result<LogStream, GuestError> {
        let asking = Asking::new("reading logs", limit);
        let follow = logs.follow;
        let call = Call { id: String::new(), request: Request::Logs(logs) };
        let stream = self.open(&asking, &call)?;
        match asking.within(stream.recv()).await? {
            inbound if inbound.is_end() => Err(asking.ended(&stream, &inbound)),
            // The guest saw the request.
            _ => Ok(LogStream { stream, asking, follow }),
        }
    }
}

impl LogStream {
    /// The next bytes; `None` at the end of a log that is not followed. Cancel-safe.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        loop {
            let inbound = match self.follow {
                true => self.stream.recv().await,
                false => self.asking.within(self.stream.recv()).await?,
            };
            match inbound {
                Inbound::Data(FROM_GUEST, bytes) => {
                    self.asking.moved();
                    return Ok(Some(bytes));
                }
                Inbound::Close(payload) => {
                    return self.asking.outcome::<Transferred>(&payload).map(|_| None);
                }
                inbound if inbound.is_end() => {
                    return Err(self.asking.ended(&self.stream, &inbound));
                }
                _ => {}
            }
        }
    }
}
