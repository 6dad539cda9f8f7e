//! Shares a guest's one virtio-serial port among many local clients.
//!
//! ```text
//!  client ═ session ═╗                          ╔═ session on the port (reopened for ever)
//!  client ═ session ═╬═ one splice per request ═╣
//!  client ═ session ═╝                          ╚═► guest
//! ```
//!
//! Each request of a client becomes a stream of the guest's session. Both hops have credit of
//! their own and a splice takes from one only what the other took, so a slow client slows its
//! own requests and nothing else. A client that vanishes takes its requests with it; a guest
//! that does not answer ends requests with `unavailable` instead of leaving them hanging.

use std::sync::Arc;
use std::time::Duration;

use mvm_guest_proto::message::{ErrorKind, Failure};
use mvm_guest_proto::mux::{Inbound, Mux, OpenError, Transport};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::session::{Driving, OnLoss, Session, drive, fresh_nonce};
use super::stream::Stream;

/// Clients served at once; others wait to be accepted.
const MOST_CLIENTS: usize = 64;
/// Requests of one client at once; below what the guest takes in all, so that no one client
/// takes everything.
const MOST_REQUESTS: usize = 32;
/// How long a request waits for a guest that is not there yet.
const PATIENCE: Duration = Duration::from_secs(2);
/// A guest that says nothing at all for this long while a request waits is not there.
const SILENCE: Duration = Duration::from_secs(10);

/// How a relay is set up. The default is right for guests; tests are less patient.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a request waits for a guest that is not there yet.
    pub absent: Duration,
    /// A guest that says nothing at all for this long while a request waits is not there.
    pub silent: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { absent: PATIENCE, silent: SILENCE }
    }
}

/// Serves clients of `listener` on `guest` until the guest's end closes; returns why it did.
/// Dropping the future ends everything.
pub async fn serve<T>(guest: T, listener: UnixListener) -> String
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve_with(guest, listener, Patience::default()).await
}

/// [`serve`] with another patience.
pub async fn serve_with<T>(guest: T, listener: UnixListener, patience: Patience) -> String
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let session = Session::new(Mux::host(fresh_nonce(), Transport::Lasting));
    let driving =
        Driving { on_loss: OnLoss::Reopen, requests: None, silence: Some(patience.silent) };
    let clients = accept(&listener, &session, patience);
    tokio::select! {
        why = drive(Arc::clone(&session.shared), guest, driving) => why,
        why = clients => why,
    }
}

async fn accept(listener: &UnixListener, guest: &Session, patience: Patience) -> String {
    let places = Arc::new(Semaphore::new(MOST_CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return "the relay ended".into();
        };
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            // Keeps the set from growing with clients that left.
            Some(_) = clients.join_next() => continue,
        };
        match client {
            Ok((client, _)) => {
                let guest = guest.clone();
                clients.spawn(async move {
                    serve_client(client, guest, patience).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors: those we have will be given back.
                tracing::warn!(%error, "cannot accept a client of the guest relay");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one client until it leaves, which ends its requests.
async fn serve_client(client: UnixStream, guest: Session, patience: Patience) {
    let (sender, mut requests) = mpsc::unbounded_channel();
    let session = Session::new(Mux::guest(fresh_nonce));
    let driving = Driving { on_loss: OnLoss::Stop, requests: Some(sender), silence: None };
    let driver = drive(Arc::clone(&session.shared), client, driving);
    let serving = async {
        let mut splices = JoinSet::new();
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some((stream, _)) if splices.len() >= MOST_REQUESTS => {
                        stream.reset(&Failure::new(ErrorKind::Busy, "too many requests at once"));
                    }
                    Some((stream, request)) => {
                        splices.spawn(splice(stream, guest.clone(), request, patience));
                    }
                    None => return,
                },
                Some(_) = splices.join_next() => {}
            }
        }
    };
    // Dropping the splices drops their streams, which tells the guest.
    tokio::select! {
        _ = driver => {}
        () = serving => {}
    }
}

/// Passes one request on and everything that belongs to it, both ways.
async fn splice(client: Stream, guest: Session, request: Vec<u8>, patience: Patience) {
    let opened = tokio::select! {
        opened = timeout(patience.absent, guest.opened()) => matches!(opened, Ok(Ok(()))),
        () = client.ended() => return,
    };
    let failure = |kind, message| Failure::new(kind, message);
    let stream = match guest.open(&request) {
        Ok(stream) if opened => stream,
        Ok(_) | Err(OpenError::NoSession) => {
            let why = "the guest agent does not answer";
            return client.reset(&failure(ErrorKind::Unavailable, why));
        }
        Err(OpenError::TooManyStreams) => {
            return client.reset(&failure(ErrorKind::Busy, "too many requests at once"));
        }
        Err(OpenError::TooLarge) => {
            return client.reset(&failure(ErrorKind::Invalid, "the request is too large"));
        }
    };
    let end = tokio::select! {
        end = guest_to_client(&stream, &client) => end,
        () = client_to_guest(&client, &stream) => End::ClientLeft,
    };
    match end {
        End::Closed(outcome) => client.close(&outcome),
        End::Reset(payload) => client.reset(&Failure::from_bytes(&payload)),
        End::GuestLost => {
            let why = "the guest agent stopped answering";
            client.reset(&failure(ErrorKind::Unavailable, why));
        }
        End::ClientLeft => {}
    }
}

/// How a request ended.
enum End {
    Closed(Vec<u8>),
    Reset(Vec<u8>),
    GuestLost,
    ClientLeft,
}

async fn guest_to_client(guest: &Stream, client: &Stream) -> End {
    loop {
        let passed = match guest.recv().await {
            // The client heard it from us.
            Inbound::Opened => Ok(()),
            Inbound::Data(channel, bytes) => client.send(channel, &bytes).await,
            Inbound::Message(bytes) => client.raw_message(&bytes).await,
            Inbound::Eof(channel) => {
                client.eof(channel);
                Ok(())
            }
            Inbound::Close(outcome) => return End::Closed(outcome),
            Inbound::Reset(payload) => return End::Reset(payload),
            Inbound::Lost => return End::GuestLost,
        };
        if passed.is_err() {
            return End::ClientLeft;
        }
    }
}

/// Returns when the client gave the request up. A guest that takes nothing more is no end: what
/// it says of the request is still to come.
async fn client_to_guest(client: &Stream, guest: &Stream) {
    loop {
        let inbound = client.recv().await;
        if inbound.is_end() {
            return;
        }
        let pass = async {
            match inbound {
                Inbound::Data(channel, bytes) => drop(guest.send(channel, &bytes).await),
                Inbound::Message(bytes) => drop(guest.raw_message(&bytes).await),
                Inbound::Eof(channel) => guest.eof(channel),
                _ => {}
            }
        };
        tokio::select! {
            () = pass => {}
            () = client.ended() => return,
        }
    }
}
