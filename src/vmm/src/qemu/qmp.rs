//! A small QMP client: QEMU's monitor protocol, one JSON value per line over a unix socket.
//!
//! The other end is a process a hostile guest may have taken over. So every call has a deadline,
//! a line has a cap, events are counted, and an answer is only an answer when its id is ours.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// The longest line accepted, bytes; QEMU's longest real answers are some 100 KiB.
const MAX_LINE: usize = 1 << 20;
/// Events kept until somebody asks; older ones are dropped.
const MAX_EVENTS: usize = 64;

/// Why talking to the monitor failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket cannot be reached.
    #[error("failed to connect to the monitor {path}")]
    Connect {
        /// The socket.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("the connection to the monitor broke")]
    Io(#[source] io::Error),
    /// The other end is gone: QEMU ended, or dropped us.
    #[error("the monitor closed the connection")]
    Closed,
    /// No answer in time.
    #[error("the monitor did not answer {what} within {} ms", .after.as_millis())]
    Deadline {
        /// The command, or `greeting`.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// Something that is not QMP, or too long.
    #[error("the monitor spoke nonsense: {0}")]
    Protocol(String),
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's words, cut to 500 characters.
        reason: String,
    },
}

/// One connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    buffer: Vec<u8>,
    events: VecDeque<Event>,
    last_id: u64,
    version: String,
}

/// Something QEMU said unasked.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, like `MIGRATION`.
    pub name: String,
    /// Its data, `null` when it has none.
    pub data: Value,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    ret: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    data: Option<Value>,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Qmp {
    /// Connects to `<dir>/<name>` and negotiates. A monitor serves one client at a time, so this
    /// also waits for the one before us.
    ///
    /// # Errors
    /// [`QmpError`]; `Deadline` when another client holds the monitor.
    pub async fn connect(dir: &Path, name: &str, deadline: Duration) -> Result<Self, QmpError> {
        let stream = connect_in(dir, name).await.map_err(|source| QmpError::Connect {
            path: dir.join(name).display().to_string(),
            source,
        })?;
        Self::negotiate(stream, deadline).await
    }

    /// Reads the greeting and leaves negotiation mode.
    pub(crate) async fn negotiate(
        stream: UnixStream,
        deadline: Duration,
    ) -> Result<Self, QmpError> {
        let mut qmp = Self {
            stream,
            buffer: Vec::new(),
            events: VecDeque::new(),
            last_id: 0,
            version: String::new(),
        };
        let end = Instant::now() + deadline;
        let line = qmp.line_before(end, "greeting", deadline).await?;
        let greeting = parse(&line)?
            .greeting
            .ok_or_else(|| QmpError::Protocol("the first line is no greeting".into()))?;
        let number = |part: &str| greeting["version"]["qemu"][part].as_u64().unwrap_or(0);
        qmp.version = format!("{}.{}.{}", number("major"), number("minor"), number("micro"));
        qmp.execute("qmp_capabilities", json!({}), deadline).await?;
        Ok(qmp)
    }

    /// The version QEMU greeted with, like `7.2.22`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs a command and returns its answer.
    ///
    /// # Errors
    /// [`QmpError`]; after `Deadline` the connection stays usable, the late answer is ignored.
    pub async fn execute(
        &mut self,
        command: &'static str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<Value, QmpError> {
        self.call(command, arguments, None, deadline).await
    }

    /// Hands QEMU a descriptor under a name (`getfd`), for a later `fd:<name>`.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn pass_fd(
        &mut self,
        name: &str,
        fd: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        self.call("getfd", json!({ "fdname": name }), Some(fd), deadline).await.map(drop)
    }

    /// The next event of this name, from those already seen or still to come; `None` when none
    /// came within `wait`.
    ///
    /// # Errors
    /// [`QmpError`] when the connection breaks.
    pub async fn event(&mut self, name: &str, wait: Duration) -> Result<Option<Event>, QmpError> {
        let end = Instant::now() + wait;
        loop {
            while let Some(event) = self.events.pop_front() {
                if event.name == name {
                    return Ok(Some(event));
                }
            }
            match self.line_before(end, "event", wait).await {
                Ok(line) => self.note(parse(&line)?),
                Err(QmpError::Deadline { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    async fn call(
        &mut self,
        command: &'static str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
        deadline: Duration,
    ) -> Result<Value, QmpError> {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        let end = Instant::now() + deadline;
        let late = || QmpError::Deadline { what: command.to_owned(), after: deadline };
        timeout_at(end, self.send(format!("{request}\n").as_bytes(), fd))
            .await
            .map_err(|_| late())?
            .map_err(broken)?;
        loop {
            let line = self.line_before(end, command, deadline).await?;
            let message = parse(&line)?;
            if message.id != Some(id) {
                self.note(message);
                continue;
            }
            return match (message.ret, message.error) {
                (Some(value), _) => Ok(value),
                (None, Some(refusal)) => Err(refused(command, &refusal.desc)),
                (None, None) => Err(QmpError::Protocol("an answer without content".into())),
            };
        }
    }

    fn note(&mut self, message: Message) {
        let Some(name) = message.event else { return };
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event { name, data: message.data.unwrap_or(Value::Null) });
    }

    /// The descriptor rides on the first byte.
    async fn send(&self, mut bytes: &[u8], mut fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            let raw = fd.map(|fd| fd.as_raw_fd());
            let sent = self
                .stream
                .try_io(Interest::WRITABLE, || send_with(self.stream.as_raw_fd(), bytes, raw));
            match sent {
                Ok(sent) => (bytes, fd) = (&bytes[sent..], None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn line_before(
        &mut self,
        end: Instant,
        what: &str,
        after: Duration,
    ) -> Result<Vec<u8>, QmpError> {
        timeout_at(end, self.line())
            .await
            .map_err(|_| QmpError::Deadline { what: what.to_owned(), after })?
    }

    /// Cancel-safe: what was read stays in the buffer.
    async fn line(&mut self) -> Result<Vec<u8>, QmpError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + at + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            searched = self.buffer.len();
            if searched > MAX_LINE {
                return Err(QmpError::Protocol(format!("a line of over {MAX_LINE} bytes")));
            }
            if self.stream.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                return Err(QmpError::Closed);
            }
        }
    }
}

/// Connects to a socket in a directory whatever the length of the path: `sun_path` holds 107
/// bytes, `/proc/self/fd/<n>/<name>` is short.
///
/// # Errors
/// What opening the directory or connecting said.
pub async fn connect_in(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let dir = crate::files::open_dir(dir)?;
    UnixStream::connect(crate::files::short_path(&dir, name)).await
}

fn send_with(socket: RawFd, bytes: &[u8], fd: Option<RawFd>) -> io::Result<usize> {
    let fds: Vec<RawFd> = fd.into_iter().collect();
    let control: &[ControlMessage<'_>] = &[ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[] } else { control };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(sendmsg::<()>(socket, &[IoSlice::new(bytes)], control, flags, None)?)
}

/// A peer that hung up reads the same whichever call noticed.
fn broken(error: io::Error) -> QmpError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => QmpError::Closed,
        _ => QmpError::Io(error),
    }
}

fn parse(line: &[u8]) -> Result<Message, QmpError> {
    serde_json::from_slice(line).map_err(|error| QmpError::Protocol(error.to_string()))
}

fn refused(command: &'static str, reason: &str) -> QmpError {
    QmpError::Refused { command, reason: crate::text::printable(reason, 500) }
}

#[cfg(test)]
mod tests;
