//! What is on a host without a reason, and what is done about it: `doctor --repair`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::node::Mode;

/// Makes right what can be made right without guessing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repair {
    /// Whether something is done or only said.
    pub mode: Mode,
    /// What is younger is left alone, seconds: somebody may be making it just now.
    pub min_age_seconds: u64,
}

/// What is done about a stray thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is ours and nothing needs it: it goes.
    Reclaim,
    /// What is true is written down: an interrupted command, a VM that is gone or was adopted.
    Settle,
    /// A record is made from the version before it, its state from what is true.
    Restore,
    /// It holds data nothing leads to, or cannot be read: it is moved aside and kept.
    Quarantine,
    /// It may be somebody else's, or somebody is at it.
    Leave,
    /// Only a person can decide.
    Ask,
}

impl Verdict {
    /// Whether a repair does something about it.
    pub fn acts(self) -> bool {
        matches!(self, Self::Reclaim | Self::Settle | Self::Restore | Self::Quarantine)
    }
}

/// Something that is here without a reason, or not as its record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stray {
    /// What it is: `VM i-0000beef, process 812`, `tap tn7i3`, a path.
    pub object: String,
    /// What is done about it.
    pub verdict: Verdict,
    /// What is wrong with it and why that is done.
    pub why: String,
}

/// What became of a stray thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Outcome {
    /// It was done.
    Done {
        /// Where it was moved, when it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        moved_to: Option<PathBuf>,
    },
    /// It would be done.
    Planned,
    /// It was no stray any more when it was looked at again.
    Gone,
    /// It could not be done.
    Failed {
        /// Why.
        message: String,
    },
}

/// A stray thing and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// What.
    #[serde(flatten)]
    pub stray: Stray,
    /// And then.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// Whether anything was done at all.
    pub mode: Mode,
    /// Object by object.
    pub handled: Vec<Handled>,
    /// What is still so after it, and why.
    pub left: Vec<Stray>,
    /// What is kept aside, from this repair and earlier ones.
    pub quarantine: Vec<PathBuf>,
}

impl Repaired {
    /// Whether nothing is left that should not be: what may be somebody else's does not count.
    pub fn is_clean(&self) -> bool {
        let failed = |handled: &Handled| matches!(handled.outcome, Outcome::Failed { .. });
        !self.handled.iter().any(failed)
            && self.left.iter().all(|stray| stray.verdict == Verdict::Leave)
    }
}
