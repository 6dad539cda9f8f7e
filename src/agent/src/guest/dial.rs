//! Reaching the socket behind which a guest agent is.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A socket could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The VMM did not pass the connection on to the guest.
    #[error("{}: the guest does not listen on port {port}: {answer}", path.display())]
    NotListening {
        /// The socket.
        path: PathBuf,
        /// The guest's vsock port.
        port: u32,
        /// What came instead of a welcome.
        answer: String,
    },
    /// No answer in time.
    #[error("{}: no answer within {:.1} s", path.display(), limit.as_secs_f64())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
}

/// Longest welcome of a VMM: `OK <port>` and a line end.
const LONGEST_WELCOME: usize = 32;

/// Connects to a unix socket: the relay's.
///
/// # Errors
/// [`DialError`].
pub async fn connect_unix(path: &Path, limit: Duration) -> Result<UnixStream, DialError> {
    let timed_out = |_| DialError::Timeout { path: path.to_owned(), limit };
    timeout(limit, UnixStream::connect(path))
        .await
        .map_err(timed_out)?
        .map_err(|source| DialError::Connect { path: path.to_owned(), source })
}

/// Connects to a guest's vsock port through Firecracker's unix socket.
///
/// # Errors
/// [`DialError::NotListening`] while the guest is not up.
pub async fn connect_firecracker(
    path: &Path,
    port: u32,
    limit: Duration,
) -> Result<UnixStream, DialError> {
    through_firecracker(connect_unix(path, limit).await?, path, port, limit).await
}

/// Makes a connection to Firecracker's unix socket one to a guest's vsock port. `path` is for
/// messages.
///
/// # Errors
/// [`DialError::NotListening`] while the guest is not up.
pub async fn through_firecracker(
    mut socket: UnixStream,
    path: &Path,
    port: u32,
    limit: Duration,
) -> Result<UnixStream, DialError> {
    let answer = timeout(limit, welcome(&mut socket, port)).await;
    let answer = answer.map_err(|_| DialError::Timeout { path: path.to_owned(), limit })?;
    match answer {
        Ok(answer) if answer.starts_with("OK ") => Ok(socket),
        Ok(answer) => Err(DialError::NotListening { path: path.to_owned(), port, answer }),
        Err(error) => {
            let answer = error.to_string();
            Err(DialError::NotListening { path: path.to_owned(), port, answer })
        }
    }
}

/// Asks for `port` and reads one line, byte by byte: what follows is the guest's.
async fn welcome(socket: &mut UnixStream, port: u32) -> io::Result<String> {
    socket.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut line = Vec::new();
    loop {
        match socket.read_u8().await {
            Ok(b'\n') => return Ok(super::error::clean(&String::from_utf8_lossy(&line))),
            Ok(byte) if line.len() < LONGEST_WELCOME => line.push(byte),
            Ok(_) => return Err(io::Error::other("the answer is too long")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::Error::other("the connection was closed"));
            }
            Err(error) => return Err(error),
        }
    }
}
