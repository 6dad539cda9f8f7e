//! A client: asks an agent over its unix socket. One connection per call; the socket is local.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mvm_model::InstancePath;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::wire::{Event, GUEST_UPGRADE, GuestOf, MAX_LINE, PREFIX, Progress, SOCKET};
use crate::{Call, Failure, Kind};

/// How long an agent may take to accept a connection; it does nothing else meanwhile.
const ACCEPT: Duration = Duration::from_secs(5);

/// Whether an agent can be asked.
#[derive(Debug)]
pub enum Found {
    /// It answers.
    Agent(Client),
    /// There is none.
    Absent,
    /// There is one that we may not ask.
    Forbidden,
}

/// Asks one agent.
#[derive(Debug, Clone)]
pub struct Client {
    run: PathBuf,
}

/// A connection to a guest's agent.
pub trait GuestStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> GuestStream for T {}

impl Client {
    /// Looks for the agent of a run directory. Takes no time and needs no runtime.
    pub fn find(run: &Path) -> Found {
        let found = Directory::open(run)
            .and_then(|dir| std::os::unix::net::UnixStream::connect(dir.through(SOCKET)));
        match found {
            Ok(_) => Found::Agent(Self { run: run.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Found::Forbidden,
            Err(_) => Found::Absent,
        }
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        let dir = Directory::open(&self.run)?;
        let connected = tokio::time::timeout(ACCEPT, UnixStream::connect(dir.through(SOCKET)));
        connected.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Asks, passing signs of life on. When `cancel` ends first, the operation is asked to stop
    /// where it is safe, and its outcome is still waited for.
    ///
    /// # Errors
    /// What the operation failed with, or [`Kind::Unavailable`] when the agent is lost.
    pub async fn call<C: Call>(
        &self,
        call: &C,
        progress: impl Fn(Progress),
        cancel: impl Future<Output = ()>,
    ) -> Result<C::Reply, Failure> {
        let body = serde_json::to_vec(call).map_err(|error| odd(&error.to_string()))?;
        let response = self.post(&format!("{PREFIX}{}", C::NAME), body).await?;
        let value = self.follow(response, progress, cancel).await?;
        serde_json::from_value(value)
            .map_err(|error| odd(&format!("an answer this program does not know: {error}")))
    }

    /// Follows an operation from its first sign of life to its end.
    ///
    /// # Errors
    /// What it failed with, [`Kind::NotFound`] when there is none of that id.
    pub async fn watch(
        &self,
        operation: &str,
        progress: impl Fn(Progress),
        leave: impl Future<Output = ()>,
    ) -> Result<serde_json::Value, Failure> {
        let response = self.post(&operation_path(operation, "watch"), Vec::new()).await?;
        let mut leave = pin!(leave);
        let following = self.follow(response, progress, std::future::pending());
        tokio::select! {
            ended = following => ended,
            () = &mut leave => Err(Failure {
                kind: Kind::Interrupted,
                message: "no longer watched; the operation goes on".into(),
                object: operation.to_owned(),
                hint: None,
            }),
        }
    }

    /// A connection to an instance's guest agent, as if to its own socket.
    ///
    /// # Errors
    /// When the instance does not run or its guest cannot be reached.
    pub async fn guest(&self, instance: &InstancePath) -> Result<Box<dyn GuestStream>, Failure> {
        let body = serde_json::to_vec(&GuestOf { instance: instance.clone() })
            .map_err(|error| odd(&error.to_string()))?;
        let response = self.post(&format!("{PREFIX}guest"), body).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let value = self.follow(response, |_| (), std::future::pending()).await?;
            return Err(odd(&format!("an answer this program does not know: {value}")));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| lost(&error))?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, Failure> {
        let stream = self.connect().await.map_err(|error| lost(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
        tokio::spawn(connection.with_upgrades());
        let mut request = HttpRequest::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, "mvm")
            .header(CONTENT_TYPE, "application/json");
        if path.ends_with("/guest") {
            request = request.header(CONNECTION, "upgrade").header(UPGRADE, GUEST_UPGRADE);
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| odd(&error.to_string()))?;
        sender.send_request(request).await.map_err(|error| lost(&error))
    }

    async fn follow(
        &self,
        response: Response<Incoming>,
        progress: impl Fn(Progress),
        cancel: impl Future<Output = ()>,
    ) -> Result<serde_json::Value, Failure> {
        let mut lines = Lines { body: response.into_body(), buffer: Vec::new() };
        let mut cancel = pin!(cancel);
        let (mut operation, mut cancelled) = (None::<String>, false);
        loop {
            let event = tokio::select! {
                event = lines.next() => event?,
                () = &mut cancel, if !cancelled => {
                    cancelled = true;
                    let Some(operation) = &operation else { return Err(interrupted()) };
                    // Whether it stopped is said by its outcome.
                    let _ = self.post(&operation_path(operation, "cancel"), Vec::new()).await;
                    continue;
                }
            };
            match event {
                Event::Operation(id) => operation = Some(id),
                Event::Progress(sign) => progress(sign),
                Event::Reply(value) => return Ok(value),
                Event::Failed(failure) => return Err(failure),
            }
        }
    }
}

fn operation_path(id: &str, verb: &str) -> String {
    let id: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    format!("{PREFIX}operations/{id}/{verb}")
}

/// A run directory. Its path may be longer than a socket address holds (108 bytes), so its
/// sockets are reached through a descriptor.
struct Directory(std::fs::File);

impl Directory {
    fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        /// Only to name it: a directory we may pass through but not list is enough.
        const O_PATH: i32 = 0o10_000_000;
        std::fs::OpenOptions::new().read(true).custom_flags(O_PATH).open(path).map(Self)
    }

    fn through(&self, name: &str) -> PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()).into()
    }
}

/// The lines of an answer.
struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map_err(|error| odd(&format!("an answer that is no event: {error}")));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(odd("an answer without end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                }
                Some(Err(error)) => return Err(lost(&error)),
                None => return Err(lost(&"it closed the connection")),
            }
        }
    }
}

fn lost(why: &dyn std::fmt::Display) -> Failure {
    Failure {
        kind: Kind::Unavailable,
        message: format!("the agent was lost: {why}"),
        object: String::new(),
        hint: Some("'mvm status' shows whether it runs; what it began is completed or undone by the next command".into()),
    }
}

fn odd(what: &str) -> Failure {
    Failure {
        kind: Kind::Failed,
        message: what.to_owned(),
        object: String::new(),
        hint: Some(
            "is the agent of the same version as this program? 'mvm status' shows it".into(),
        ),
    }
}

fn interrupted() -> Failure {
    Failure {
        kind: Kind::Interrupted,
        message: "interrupted".into(),
        object: String::new(),
        hint: None,
    }
}
