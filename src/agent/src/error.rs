//! The one error every operation of the agent ends in: a stable kind, the object, a message that
//! is safe to show, its cause and a hint.
//!
//! Lower layers have their own typed errors; they are told apart here, once, by [`Classify`].

use std::fmt;

use mvm_host::drive::DriveError;
use mvm_host::file::FileError;
use mvm_host::lock::LockError;

use mvm_api::Failure;
pub use mvm_api::Kind;

/// A failed operation.
#[derive(Debug)]
pub struct Error {
    /// What sort.
    pub kind: Kind,
    /// The object it was about: `acme/workers/i-…`; empty for the host.
    pub object: String,
    /// What we were doing and what went wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error about `object`.
    pub fn new(kind: Kind, object: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { kind, object: object.to_string(), message: message.into(), hint: None, source: None }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// As it travels to a caller: nothing of it is left out but its types.
    pub fn failure(&self) -> Failure {
        Failure {
            kind: self.kind,
            message: self.chain(),
            object: self.object.clone(),
            hint: self.hint.clone(),
        }
    }

    /// Says which object it was about, where that was not known below.
    #[must_use]
    pub fn of(mut self, object: impl fmt::Display) -> Self {
        if self.object.is_empty() {
            self.object = object.to_string();
        }
        self
    }

    /// The message with all its causes, on one line.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure { kind, message, object, hint } = failure;
        Self { kind, object, message, hint, source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Sorts a lower layer's error into a [`Kind`] with a hint.
pub trait Classify {
    /// The kind and the hint.
    fn classify(&self) -> (Kind, Option<String>);
}

/// Turns a lower layer's failure into an [`Error`] about an object.
pub trait About<T> {
    /// Wraps the error: `doing` completes "cannot …".
    ///
    /// # Errors
    /// The same failure, classified.
    fn about(self, object: impl fmt::Display, doing: &str) -> Result<T>;
}

impl<T, E> About<T> for std::result::Result<T, E>
where
    E: Classify + std::error::Error + Send + Sync + 'static,
{
    fn about(self, object: impl fmt::Display, doing: &str) -> Result<T> {
        self.map_err(|error| {
            let (kind, hint) = error.classify();
            let mut wrapped = Error::new(kind, object, format!("cannot {doing}")).because(error);
            wrapped.hint = hint;
            wrapped
        })
    }
}

impl Classify for FileError {
    fn classify(&self) -> (Kind, Option<String>) {
        if self.is_full() {
            let hint = "free some space: 'mvm node disk' shows what takes it, 'mvm node gc' frees what nothing needs; nothing was lost";
            (Kind::DiskFull, Some(hint.into()))
        } else if self.is_denied() {
            (Kind::Refused, Some("run it as root".into()))
        } else {
            (Kind::Failed, None)
        }
    }
}

impl Classify for DriveError {
    fn classify(&self) -> (Kind, Option<String>) {
        match self {
            Self::File(error) => error.classify(),
            Self::Format { why, .. } if why.contains("No space left") => {
                (Kind::DiskFull, Some("free some space and try again; nothing was lost".into()))
            }
            Self::Format { .. } => {
                (Kind::Failed, Some("'mvm bootstrap' installs what is missing".into()))
            }
            Self::TooLarge { .. } => {
                (Kind::Invalid, Some("secrets and configuration share 1 MiB".into()))
            }
            Self::Lost { .. } => (
                Kind::Corrupt,
                Some("put it back (is its disk mounted?), or destroy the instance".into()),
            ),
            Self::Resized { .. } => (
                Kind::Corrupt,
                Some("put the drive back to its size; it is never reformatted".into()),
            ),
        }
    }
}

impl Classify for LockError {
    fn classify(&self) -> (Kind, Option<String>) {
        match self {
            Self::Held { .. } => (Kind::Busy, Some("wait for it to finish and try again".into())),
            Self::File(error) => error.classify(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_tells_every_cause_once() {
        let error = Error::new(Kind::Failed, "acme", "cannot create").because("disk on fire");
        assert_eq!(error.chain(), "cannot create: disk on fire");
        assert_eq!(error.to_string(), "cannot create");
    }
}
