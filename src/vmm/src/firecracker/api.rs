//! A client of Firecracker's API: HTTP over the unix socket in its jail.
//!
//! The other end is a process a hostile guest may have taken over. So the socket is reached
//! without following a link, every call has a deadline, bodies have a cap both ways, and there is
//! one connection at a time, made anew for each call: nothing is left of a call that was given up.
//! The API serves one request after another, so while a snapshot is written everything waits.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::files;

/// Where the socket is in a jail's root.
pub(crate) const SOCKET: &str = "run/api.sock";
/// The largest request Firecracker takes, bytes.
const MAX_REQUEST: usize = 51_200;
/// The largest answer that is read; real ones are some kilobytes.
const MAX_ANSWER: usize = 1 << 20;

/// Why talking to Firecracker failed.
#[derive(Debug, thiserror::Error)]
pub enum FirecrackerError {
    /// Nothing says that there is such a VM, or how it is reached.
    #[error("no record leads to the VM")]
    NoRecord(#[source] Option<io::Error>),
    /// The socket cannot be reached.
    #[error("failed to connect to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke: it ended, or spoke nonsense.
    #[error("the connection broke at {what}: {reason}")]
    Broken {
        /// The request.
        what: String,
        /// What happened.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer to {what} within {} ms", .after.as_millis())]
    Deadline {
        /// The request.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// Firecracker refused.
    #[error("Firecracker refused {what}: {reason}")]
    Refused {
        /// The request.
        what: String,
        /// Its words, cut to 500 characters.
        reason: String,
    },
    /// A request larger than Firecracker takes.
    #[error("{what} is too large")]
    TooLarge {
        /// The request.
        what: String,
    },
}

/// One request that changes something: all of them are answered with nothing but a status.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    /// `PUT` to set up and to act, `PATCH` to change.
    pub(crate) method: Method,
    /// Like `/drives/data`.
    pub(crate) path: String,
    /// The body.
    pub(crate) body: serde_json::Value,
}

impl Call {
    /// Sets something up, or acts.
    pub(crate) fn put(path: impl Into<String>, body: &impl Serialize) -> Self {
        // Cannot fail: our own types are numbers, words and lists.
        let body = serde_json::to_value(body).unwrap_or_default();
        Self { method: Method::PUT, path: path.into(), body }
    }

    /// Changes something.
    pub(crate) fn patch(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self { method: Method::PATCH, ..Self::put(path, body) }
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What `GET /` says.
#[derive(Debug, Deserialize)]
pub(crate) struct InstanceInfo {
    /// `Not started`, `Running` or `Paused`.
    pub(crate) state: String,
}

#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

/// A way to one Firecracker's API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    root: PathBuf,
}

impl Api {
    /// The API of the Firecracker whose jail has this root.
    pub(crate) fn of(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes a call.
    pub(crate) async fn call(&self, call: &Call, limit: Duration) -> Result<(), FirecrackerError> {
        let body = serde_json::to_vec(&call.body).unwrap_or_default();
        if body.len() > MAX_REQUEST {
            return Err(FirecrackerError::TooLarge { what: call.name() });
        }
        let request = Request::builder().method(&call.method).uri(&call.path);
        let request = request.header("Content-Type", "application/json");
        self.within(call.name(), request.body(Full::from(body)), limit).await.map(drop)
    }

    /// What it is and does.
    pub(crate) async fn info(&self, limit: Duration) -> Result<InstanceInfo, FirecrackerError> {
        let request = Request::builder().method(Method::GET).uri("/").body(Full::default());
        let answer = self.within("GET /".into(), request, limit).await?;
        serde_json::from_slice(&answer).map_err(|error| FirecrackerError::Broken {
            what: "GET /".into(),
            reason: error.to_string(),
        })
    }

    async fn within(
        &self,
        what: String,
        request: hyper::http::Result<Request<Full<Bytes>>>,
        limit: Duration,
    ) -> Result<Bytes, FirecrackerError> {
        let broken = |reason: String| FirecrackerError::Broken { what: what.clone(), reason };
        let request = request.map_err(|error| broken(error.to_string()))?;
        let exchange = async {
            let stream = self.connect().await?;
            exchange(stream, request).await.map_err(|reason| broken(reason.to_string()))
        };
        let (status, body) = match timeout(limit, exchange).await {
            Ok(answer) => answer?,
            Err(_) => return Err(FirecrackerError::Deadline { what, after: limit }),
        };
        if status.is_success() {
            return Ok(body);
        }
        let reason = match serde_json::from_slice::<Fault>(&body) {
            Ok(fault) => crate::text::printable(&fault.fault_message, 500),
            Err(_) => status.to_string(),
        };
        Err(FirecrackerError::Refused { what, reason })
    }

    /// A connection, over which nothing was said yet: its process listens.
    pub(crate) async fn connect(&self) -> Result<UnixStream, FirecrackerError> {
        let connected = files::connect_beneath(&self.root, SOCKET).await;
        connected
            .map_err(|source| FirecrackerError::Connect { socket: self.root.join(SOCKET), source })
    }
}

/// One request and its whole answer.
async fn exchange(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?;
        Ok((status, body.to_bytes()))
    };
    let driving = async {
        // Its end is seen by who waits for the answer, too.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = driving => Err("it ended".into()),
    }
}

#[cfg(test)]
mod tests;
