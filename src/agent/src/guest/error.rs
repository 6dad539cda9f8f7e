//! What can go wrong when a guest is asked something.

use std::time::Duration;

use mvm_guest_proto::message::{ErrorKind, Failure};

/// A call to a guest failed. `doing` says what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The guest did not answer in time. Whether it did what was asked is unknown; repeating
    /// the call with the same id is safe.
    #[error("{doing}: no answer within {:.1} s", limit.as_secs_f64())]
    Timeout {
        /// What was asked.
        doing: String,
        /// How long was waited.
        limit: Duration,
    },
    /// There is no guest agent to be heard behind the relay (booting, hung, or gone).
    #[error("{doing}: the guest agent does not answer")]
    Unavailable {
        /// What was asked.
        doing: String,
    },
    /// The guest agent is older than the request.
    #[error("{doing}: the guest agent does not know this request")]
    Unsupported {
        /// What was asked.
        doing: String,
    },
    /// What was named (a file, a user, a program) does not exist in the guest.
    #[error("{doing}: {message}")]
    NotFound {
        /// What was asked.
        doing: String,
        /// The guest's words, cleaned.
        message: String,
    },
    /// The guest understood and refused.
    #[error("{doing}: {message}")]
    Refused {
        /// What was asked.
        doing: String,
        /// The guest's words, cleaned.
        message: String,
    },
    /// The guest tried and failed, or the request made no sense to it.
    #[error("{doing}: {message}")]
    Failed {
        /// What was asked.
        doing: String,
        /// The stable word.
        kind: ErrorKind,
        /// The guest's words, cleaned.
        message: String,
    },
    /// The connection ended.
    #[error("{doing}: the connection to the guest agent was lost ({reason})")]
    Lost {
        /// What was asked.
        doing: String,
        /// Why, as far as it is known.
        reason: String,
    },
    /// The guest said something no guest agent says.
    #[error("{doing}: the guest agent broke the protocol: {what}")]
    Protocol {
        /// What was asked.
        doing: String,
        /// What it said.
        what: String,
    },
    /// Our end of a transfer failed.
    #[error("{doing}: the host's end failed")]
    Local {
        /// What was asked.
        doing: String,
        /// What happened here.
        #[source]
        source: std::io::Error,
    },
}

impl GuestError {
    /// What a guest's failure means for the caller.
    pub(super) fn from_failure(doing: &str, failure: &Failure) -> Self {
        let doing = doing.to_owned();
        let message = clean(&failure.message);
        match failure.kind {
            ErrorKind::Unsupported => Self::Unsupported { doing },
            ErrorKind::NotFound => Self::NotFound { doing, message },
            ErrorKind::Refused => Self::Refused { doing, message },
            ErrorKind::Unavailable => Self::Unavailable { doing },
            kind => Self::Failed { doing, kind, message },
        }
    }

    /// True when trying again later may help: nothing is wrong with the request itself.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Unavailable { .. } | Self::Lost { .. } => true,
            Self::Failed { kind, .. } => *kind == ErrorKind::Busy,
            _ => false,
        }
    }
}

/// Longest text for people that is taken from a guest.
const LONGEST_TEXT: usize = 1000;

/// A guest's text, fit for a terminal and a log: one line, no control characters.
pub(super) fn clean(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(LONGEST_TEXT).map(printable).collect()
}
