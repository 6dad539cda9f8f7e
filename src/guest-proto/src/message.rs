//! What is said on streams: requests, messages, outcomes. JSON maps inside control frames.
//!
//! Unknown fields are ignored and an unknown verb is answered `unsupported`, so that either
//! side may be older. A request is the payload of `Open`:
//! `{"verb":"exec","id":"…","argv":["/bin/true"]}`; its outcome is the payload of `Close`:
//! `{"ok":{…}}` or `{"error":{"kind":"refused","message":"…"}}`. Between the two come data and
//! [`Message`]s. `id` is the idempotency id: a repeated id of a verb that changes the guest
//! ([`Request::is_once`]) is answered with the first outcome.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod exec;
mod file;
mod life;

pub use exec::{Exec, ExecExit, Message, OpenPort, TtySize};
pub use file::{
    Entry, FileKind, FileStat, List, MakeDir, Path, ReadFile, Stat, Transferred, WriteFile,
};
pub use life::{
    Hello, Hooked, Identity, LogSource, Logs, Memory, Poweroff, SecretsMounted, SecretsStep,
    SleepPrep, SleepPrepared, Status, Wake, Woken, WorkloadState, WorkloadStatus,
};

/// Channel of bytes from host to guest: stdin, file content, port.
pub const TO_GUEST: u8 = 0;
/// Channel of bytes from guest to host: stdout, file content, port, log.
pub const FROM_GUEST: u8 = 1;
/// Channel of a process's standard error.
pub const STDERR: u8 = 2;
/// Longest idempotency id, path and user name, in bytes.
pub const MAX_PATH: usize = 4096;

/// What a host asks of a guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// Who are you? Answered with [`Hello`].
    Hello,
    /// How are you? Answered with [`Status`].
    Status,
    /// Run a program. Answered with [`ExecExit`].
    Exec(Exec),
    /// Send a file's content on [`FROM_GUEST`]. Answered with [`Transferred`].
    ReadFile(ReadFile),
    /// Replace a file with what comes on [`TO_GUEST`]. Answered with [`Transferred`].
    WriteFile(WriteFile),
    /// Name what is in a directory, in [`Message::Entries`]. Answered with `{}`.
    List(List),
    /// Describe a file. Answered with [`FileStat`].
    Stat(Stat),
    /// Make a directory. Answered with `{}`.
    MakeDir(MakeDir),
    /// Connect to a TCP port of the guest and pass bytes. Answered with `{}`.
    OpenPort(OpenPort),
    /// Send the end of a log on [`FROM_GUEST`]. Answered with [`Transferred`].
    Logs(Logs),
    /// Get ready to be put to sleep. Answered with [`SleepPrepared`].
    SleepPrep(SleepPrep),
    /// You were woken (or a sleep was called off). Answered with [`Woken`].
    Wake(Wake),
    /// Turn yourself off. Answered with `{}` before it happens.
    Poweroff(Poweroff),
    /// The secrets drive is about to change, or changed. Answered with [`SecretsMounted`].
    Secrets(SecretsStep),
}

/// Why a request was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotUnderstood {
    /// Not a map with a verb.
    Malformed(String),
    /// A verb of another version.
    Unsupported(String),
}

/// Every verb of this version.
pub const VERBS: [&str; 14] = [
    "hello",
    "status",
    "exec",
    "read-file",
    "write-file",
    "list",
    "stat",
    "make-dir",
    "open-port",
    "logs",
    "sleep-prep",
    "wake",
    "poweroff",
    "secrets",
];

/// A request with its idempotency id.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Idempotency id; empty for none.
    pub id: String,
    /// What is asked.
    pub request: Request,
}

impl Call {
    /// The payload of an `Open` frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut map = serde_json::to_value(&self.request).unwrap_or_default();
        if let (false, Some(map)) = (self.id.is_empty(), map.as_object_mut()) {
            map.insert("id".into(), self.id.clone().into());
        }
        to_bytes(&map)
    }

    /// Reads the payload of an `Open` frame.
    ///
    /// # Errors
    /// [`NotUnderstood`], which the guest answers with `invalid` or `unsupported`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotUnderstood> {
        let malformed = |what: String| NotUnderstood::Malformed(what);
        let map: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        let verb = map.get("verb").and_then(|verb| verb.as_str());
        let verb = verb.ok_or_else(|| malformed("a request is a map with a verb".into()))?;
        if !VERBS.contains(&verb) {
            return Err(NotUnderstood::Unsupported(verb.chars().take(64).collect()));
        }
        let id = match map.get("id").and_then(|id| id.as_str()) {
            Some(id) if id.len() > 128 => return Err(malformed("the id is too long".into())),
            id => id.unwrap_or_default().to_owned(),
        };
        let request = serde_json::from_value(map).map_err(|error| malformed(error.to_string()))?;
        Ok(Self { id, request })
    }
}

impl Request {
    /// True for verbs whose repetition with the same id must not happen twice.
    pub fn is_once(&self) -> bool {
        matches!(self, Self::WriteFile(_) | Self::SleepPrep(_) | Self::Wake(_) | Self::Poweroff(_))
    }
}

/// Kind of a failure; stable words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The verb or option is of another version.
    Unsupported,
    /// The request makes no sense.
    Invalid,
    /// The file, user or program does not exist.
    NotFound,
    /// Understood and refused; the message says why.
    Refused,
    /// Too much at once.
    Busy,
    /// A deadline within the guest passed.
    Timeout,
    /// The guest agent does not answer (said by the relay).
    Unavailable,
    /// The one who asked went away.
    Cancelled,
    /// It was tried and failed; also any kind of a later version.
    #[serde(other)]
    Failed,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable word.
    pub kind: ErrorKind,
    /// For people.
    #[serde(default)]
    pub message: String,
}

impl Failure {
    /// A failure with its message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The payload of a `Reset` frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// Reads the payload of a `Reset` frame; an unreadable one is still a failure.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Self::new(ErrorKind::Failed, "reset without a reason"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome<T> {
    /// Done.
    Ok(T),
    /// Not done.
    Error(Failure),
}

impl<T: Serialize> Outcome<T> {
    /// The payload of a `Close` frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }
}

impl<T: DeserializeOwned> Outcome<T> {
    /// Reads the payload of a `Close` frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

/// The empty answer, `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Done {}

pub(crate) fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    // Cannot fail: every value here is maps with string keys, strings and numbers.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
