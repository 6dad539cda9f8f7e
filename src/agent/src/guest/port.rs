//! A byte stream to a TCP port of a guest.

use std::sync::Arc;
use std::time::Duration;

use mvm_guest_proto::frame::DATA_CHUNK;
use mvm_guest_proto::message::{Call, FROM_GUEST, Message, OpenPort, Request, TO_GUEST};
use mvm_guest_proto::mux::Inbound;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};

use super::client::{Asking, GuestClient};
use super::error::{GuestError, clean};
use super::stream::Stream;

impl GuestClient {
    /// Connects to a TCP port on the guest's loopback. Shutting the write half down ends one
    /// direction, as with a socket; dropping it ends both. `limit` is for connecting only.
    ///
    /// # Errors
    /// [`GuestError::Refused`] when nothing listens there.
    pub async fn open_port(&self, port: u16, limit: Duration) -> Result<DuplexStream, GuestError> {
        let asking = Asking::new(format!("connecting to port {port}"), limit);
        let request = Request::OpenPort(OpenPort { port });
        let stream = self.open(&asking, &Call { id: String::new(), request })?;
        let connected = |message| matches!(message, Message::Connected).then_some(());
        Self::begin(&asking, &stream, connected).await?;
        let (ours, theirs) = duplex(4 * DATA_CHUNK);
        let stream = Arc::new(stream);
        let (reader, writer) = split(theirs);
        tokio::spawn(async move {
            let sending = tokio::spawn(send(Arc::clone(&stream), reader));
            receive(&stream, writer).await;
            // What is still to be sent has nobody to go to.
            sending.abort();
        });
        Ok(ours)
    }
}

/// Caller to guest, until the caller has no more or is gone.
async fn send(stream: Arc<Stream>, mut from: ReadHalf<DuplexStream>) {
    let mut buffer = vec![0; DATA_CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return stream.eof(TO_GUEST),
            Ok(n) => {
                if stream.send(TO_GUEST, &buffer[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Guest to caller, until the request ends or the caller is gone.
async fn receive(stream: &Stream, mut to: WriteHalf<DuplexStream>) {
    loop {
        match stream.recv().await {
            Inbound::Data(FROM_GUEST, bytes) => {
                let Ok(()) = to.write_all(&bytes).await else {
                    return;
                };
            }
            Inbound::Eof(FROM_GUEST) => {
                let _ = to.shutdown().await;
            }
            inbound if inbound.is_end() => {
                if let Inbound::Reset(payload) = &inbound {
                    let why = mvm_guest_proto::message::Failure::from_bytes(payload);
                    tracing::debug!(why = clean(&why.message), "a port's connection was reset");
                }
                let _ = to.shutdown().await;
                return;
            }
            _ => {}
        }
    }
}
