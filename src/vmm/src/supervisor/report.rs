//! The one line a shim says to whoever started it: the VM runs, or why it does not.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

use mvm_model::vm::ProcessId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt};

use super::StartError;

/// The longest report, bytes.
const MAX_REPORT: u64 = 64 << 10;

/// The outcome of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// The VMM answers: it boots, or waits for a restore.
    Started(ProcessId),
    /// It does not run.
    Failed(Failure),
}

/// Why a VM was not started, in a form that survives a pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Which of [`StartError`]'s variants, in kebab case: stable.
    pub kind: String,
    /// The error with its causes.
    pub message: String,
    /// Last lines the VMM said, made printable.
    pub last_log: Vec<String>,
}

impl Report {
    /// Writes the line.
    ///
    /// # Errors
    /// What writing said: nobody listens any more.
    pub fn send(&self, mut to: impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        to.write_all(&line)?;
        to.flush()
    }

    /// Reads the line; `UnexpectedEof` when the shim died before it said anything.
    ///
    /// # Errors
    /// What reading said; `InvalidData` for anything else than a report.
    pub fn receive(from: impl Read) -> io::Result<Self> {
        let mut line = Vec::new();
        BufReader::new(from.take(MAX_REPORT)).read_until(b'\n', &mut line)?;
        parse(&line)
    }

    /// Reads the line in a runtime; `TimedOut` when none came in time.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub async fn receive_within(from: impl AsyncRead + Unpin, wait: Duration) -> io::Result<Self> {
        let mut line = Vec::new();
        let mut from = tokio::io::BufReader::new(from.take(MAX_REPORT));
        tokio::time::timeout(wait, from.read_until(b'\n', &mut line))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        parse(&line)
    }
}

fn parse(line: &[u8]) -> io::Result<Report> {
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(line).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

impl From<&StartError> for Failure {
    fn from(error: &StartError) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            message.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        let last_log = error.last_log().to_vec();
        Self { kind: error.kind().to_owned(), message, last_log }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_report_survives_the_pipe_and_anything_else_is_an_error() {
        let error = StartError::Tap;
        let sent = Report::Failed(Failure::from(&error));
        let mut bytes = Vec::new();
        sent.send(&mut bytes).unwrap();
        assert_eq!(Report::receive(&bytes[..]).unwrap(), sent);
        assert_eq!(Report::receive_within(&bytes[..], READ).await.unwrap(), sent);
        for (bad, kind) in [
            (&b""[..], io::ErrorKind::UnexpectedEof),
            (b"panicked at\n", io::ErrorKind::InvalidData),
            (&bytes[..9], io::ErrorKind::InvalidData),
        ] {
            assert_eq!(Report::receive(bad).unwrap_err().kind(), kind);
            let error = Report::receive_within(bad, READ).await.unwrap_err();
            assert_eq!(error.kind(), kind);
        }
        let (_silent, end) = tokio::io::duplex(8);
        let error = Report::receive_within(end, Duration::from_millis(5)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    const READ: Duration = Duration::from_secs(5);
}
