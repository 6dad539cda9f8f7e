//! The way to a guest behind a Firecracker: every client gets a connection of its own.
//!
//! ```text
//! guest.sock ◀─ client ═ bytes ═ v.sock in the jail: CONNECT 5252 ═▶ guest agent
//! ```
//!
//! Connections end when a snapshot is taken, or only tried; the next client makes the next one.
//! The socket is in a directory that is the VM's own, so it is reached without following links.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mvm_guest_proto::VSOCK_PORT;
use mvm_vmm::firecracker::connect_vsock;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::dial::{DialError, through_firecracker};

/// Clients served at once; others wait to be accepted.
const MOST_CLIENTS: usize = 64;
/// How long a guest may take to accept. Firecracker itself gives up after two seconds.
const ACCEPT: Duration = Duration::from_secs(5);

/// Serves clients for as long as it is polled.
pub async fn serve(root: PathBuf, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(MOST_CLIENTS));
    let mut clients = JoinSet::new();
    // Never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            // Keeps the set from growing with clients that left.
            Some(_) = clients.join_next() => continue,
        };
        match client {
            Ok((client, _)) => {
                let root = root.clone();
                clients.spawn(async move {
                    // A guest that is not there yet is a connection that ends at once.
                    let _ = pass(client, root).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors: those we have will be given back.
                tracing::warn!(%error, "cannot accept a client of the guest");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn pass(mut client: UnixStream, root: PathBuf) -> Result<(), DialError> {
    let socket = connect_vsock(&root).await;
    let path = root.join(mvm_vmm::firecracker::VSOCK_SOCKET);
    let socket = socket.map_err(|source| DialError::Connect { path: path.clone(), source })?;
    let mut guest = tokio::select! {
        guest = through_firecracker(socket, &path, VSOCK_PORT, ACCEPT) => guest?,
        // A client that gave up frees its place.
        () = hung_up(&client) => return Ok(()),
    };
    let _ = tokio::io::copy_bidirectional(&mut client, &mut guest).await;
    Ok(())
}

/// Completes when the other end is closed.
async fn hung_up(client: &UnixStream) {
    let mut peek = [0];
    loop {
        if client.readable().await.is_err() {
            return;
        }
        match nix::sys::socket::recv(
            std::os::fd::AsRawFd::as_raw_fd(client),
            &mut peek,
            nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(0) => return,
            // It said something: it is there, and what it said waits for the guest.
            Ok(_) => std::future::pending::<()>().await,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
