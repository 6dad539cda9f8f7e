//! Calls about the audit log: what was done to tenants.

use mvm_model::TenantName;
use serde::{Deserialize, Serialize};

/// What was done, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Only to this tenant, which may be gone.
    #[serde(default)]
    pub tenant: Option<TenantName>,
    /// Only the last so many.
    pub last: usize,
}

/// Whether nothing that is kept was changed or removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Only this tenant's.
    #[serde(default)]
    pub tenant: Option<TenantName>,
}

/// One tenant's log, verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The tenant.
    pub tenant: TenantName,
    /// The number of its last event.
    pub last: u64,
    /// The first thing that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts the tenant's events.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub at: u64,
    /// Whose it is.
    pub tenant: String,
    /// What it was done to: `acme/workers/i-…`.
    pub object: String,
    /// What was done: `instance.start`.
    pub event: String,
    /// How it went.
    pub outcome: Outcome,
    /// More, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Who did it: the command and the user.
    pub by: String,
    /// Digest of the line before; empty for the first.
    pub previous: String,
}

/// How an event went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Done,
    /// It failed; the detail says why.
    Failed,
}
