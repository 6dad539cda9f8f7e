//! Failures as callers see them: a stable kind, the object, a message that is safe to show and
//! a hint.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What sort of failure it is; stable, part of the JSON and of the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request makes no sense.
    Invalid,
    /// There is no such object.
    NotFound,
    /// It exists already, with other properties.
    Conflict,
    /// The object's state does not allow it.
    WrongState,
    /// A quota would be exceeded.
    OverQuota,
    /// It needs `--force`, another owner or privileges.
    Refused,
    /// Somebody else is at it.
    Busy,
    /// It took too long.
    Timeout,
    /// Something it needs is not there: a tool, a network, an accelerator.
    Unavailable,
    /// The disk is full.
    DiskFull,
    /// A file is not what was written.
    Corrupt,
    /// A record of a newer version.
    NewerState,
    /// No builder for an image.
    ImageBuilderUnavailable,
    /// It was interrupted by Ctrl-C.
    Interrupted,
    /// It did not work; also every kind of a newer agent that this program does not know.
    #[serde(other)]
    Failed,
}

impl Kind {
    /// The process exit code for it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::Corrupt | Self::DiskFull => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Conflict
            | Self::WrongState
            | Self::OverQuota
            | Self::Refused
            | Self::NewerState => 4,
            Self::Busy | Self::Timeout | Self::Unavailable | Self::ImageBuilderUnavailable => 5,
            Self::Interrupted => 130,
        }
    }

    /// Its stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::WrongState => "wrong_state",
            Self::OverQuota => "over_quota",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::DiskFull => "disk_full",
            Self::Corrupt => "corrupt",
            Self::NewerState => "newer_state",
            Self::ImageBuilderUnavailable => "image_builder_unavailable",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A failed operation, as it travels and as `--json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort.
    pub kind: Kind,
    /// What went wrong, with its causes, on one line.
    pub message: String,
    /// The object it was about; empty for the host.
    pub object: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_documented_exit_codes_and_names() {
        for (kind, code) in [
            (Kind::Failed, 1),
            (Kind::Invalid, 2),
            (Kind::NotFound, 3),
            (Kind::OverQuota, 4),
            (Kind::WrongState, 4),
            (Kind::Timeout, 5),
        ] {
            assert_eq!(kind.exit_code(), code, "{}", kind.name());
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn a_kind_of_a_newer_agent_is_a_failure() {
        assert_eq!(serde_json::from_str::<Kind>("\"on_fire\"").unwrap(), Kind::Failed);
    }
}
