//! Running programs, byte streams to ports, and the messages while they run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::file::{Entry, FileStat};

/// Size of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// Run a program. Standard input comes on [`super::TO_GUEST`] until its end, output goes out on
/// [`super::FROM_GUEST`] and [`super::STDERR`]. A reset of the stream ends its session's
/// processes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; a program without `/` is looked for in `PATH`.
    pub argv: Vec<String>,
    /// Environment besides the guest's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory; the user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// `uid:gid`, or a name of `/etc/passwd`; root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With a terminal of this size: input, output and errors share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// The guest ends it after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecExit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl ExecExit {
    /// As a shell shows it: the code, or 128 plus the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Connect to a TCP port on the guest's loopback. Bytes go both ways; an end of data closes one
/// direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPort {
    /// The port.
    pub port: u16,
}

/// Said on a stream between its request and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Message {
    /// Guest: the program runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Host: the terminal has a new size.
    Resize(TtySize),
    /// Host: send this signal to the program's process group.
    Signal {
        /// Its number on Linux.
        number: i32,
    },
    /// Guest: the connection to the port stands.
    Connected,
    /// Guest: the file whose content follows.
    File(FileStat),
    /// Guest: some entries of a directory.
    Entries {
        /// In no particular order.
        entries: Vec<Entry>,
    },
    /// Of a later version; ignored.
    #[serde(other)]
    Unknown,
}

impl Message {
    /// The payload of a `Message` frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        super::to_bytes(self)
    }

    /// Reads the payload of a `Message` frame; `None` for what is no message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
