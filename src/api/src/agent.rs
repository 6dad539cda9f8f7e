//! Calls about the agent itself: its desired state, reconciling, what it is doing.

use mvm_model::TenantName;
use mvm_model::record::Millis;
use serde::{Deserialize, Serialize};

use crate::Kind;
use crate::wire::Unreadable;

/// How the agent is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetStatus {}

/// Has the loop look at the host now: something changed that nobody asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nudge {}

/// What [`GetStatus`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// This host's id.
    pub node_id: String,
    /// When it started, milliseconds since the epoch.
    pub started_at: Millis,
    /// Seconds between two rounds of its loop.
    pub interval_seconds: u64,
    /// The desired state file it watches.
    #[serde(default)]
    pub desired: Option<String>,
    /// The file with an Intent it watches.
    #[serde(default)]
    pub intent: Option<String>,
    /// When its loop last finished a round.
    #[serde(default)]
    pub last_round: Option<Millis>,
    /// What that round came to.
    #[serde(default)]
    pub last_report: Option<Report>,
    /// Why a file it watches is not applied, or not all of it.
    #[serde(default)]
    pub problem: Option<String>,
}

/// The present desired state of this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desired {}

/// What [`Desired`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DesiredDocument {
    /// The document, as a file holds it.
    pub text: String,
    /// Records that could not be read, and so are missing in it.
    pub unreadable: Vec<Unreadable>,
}

/// Applies a desired state and makes it so.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    /// The document; what the records ask for when `None`.
    #[serde(default)]
    pub document: Option<String>,
    /// Its name, for errors.
    #[serde(default)]
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub form: DocumentForm,
    /// Takes down what it does not name.
    #[serde(default)]
    pub prune: bool,
    /// With pruning: deletes data too.
    #[serde(default)]
    pub delete_data: bool,
    /// Gives up after so long, seconds.
    pub timeout_seconds: u64,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentForm {
    /// One node's desired state.
    #[default]
    DesiredState,
    /// A whole Intent: what it no longer names is orphaned.
    Intent,
}

/// Makes some tenants what their records ask for, now: what was done by hand does not hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileTenants {
    /// Which.
    pub tenants: Vec<TenantName>,
    /// Begins nothing more after so long, seconds.
    pub timeout_seconds: u64,
}

/// What a reconcile did and left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The generation of the applied document.
    #[serde(default)]
    pub generation: Option<u64>,
    /// What changed in the records.
    pub applied: Vec<String>,
    /// What was not changed.
    pub refused: Vec<Refused>,
    /// The objects of those that an agent's loop tries again.
    #[serde(default)]
    pub pending: Vec<String>,
    /// The steps that were taken.
    pub done: Vec<String>,
    /// The steps that failed.
    pub failed: Vec<FailedStep>,
    /// What is left for later, and why.
    pub notes: Vec<NoteView>,
    /// How often the host was looked at and planned for.
    pub passes: u32,
    /// Whether nothing is left to do but what waits.
    pub converged: bool,
    /// When the first of what waits for a time is due.
    #[serde(default)]
    pub next_due: Option<Millis>,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

/// A change that was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// To what.
    pub object: String,
    /// Why.
    pub problem: String,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// What sort.
    pub kind: Kind,
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStep {
    /// The step.
    pub step: String,
    /// On what.
    pub object: String,
    /// What sort of failure.
    pub kind: Kind,
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
}

/// Something that is left for later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteView {
    /// On what.
    pub object: String,
    /// Why.
    pub reason: String,
    /// What a person can do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// When it no longer holds.
    #[serde(default)]
    pub until: Option<Millis>,
}

/// The operations that change things: those on their way and the last ones that ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListOperations {}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id: `op-` and a number.
    pub id: String,
    /// What was asked: `instance/change`.
    pub name: String,
    /// The verb, in one word: `start`.
    #[serde(default)]
    pub verb: String,
    /// What it is done to: `acme/workers/alice`; empty when it is about the whole host.
    #[serde(default)]
    pub object: String,
    /// Who asked: a user id.
    pub by: u32,
    /// When, milliseconds since the epoch.
    pub started_at: Millis,
    /// How it ended; `None` while it is on its way.
    #[serde(default)]
    pub ended: Option<Ended>,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "how")]
pub enum Ended {
    /// As it should.
    Done {
        /// When.
        at: Millis,
    },
    /// It failed.
    Failed {
        /// When.
        at: Millis,
        /// Why.
        message: String,
    },
}
