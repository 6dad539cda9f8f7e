//! How calls travel: HTTP/1.1 on a unix socket, JSON in, a stream of JSON lines out.
//!
//! ```text
//! POST /v1/<noun>/<verb>            body: the call        → Event lines, the last is Reply or Failed
//! POST /v1/operations/<id>/watch                          → the same lines, from the operation's first
//! POST /v1/operations/<id>/cancel                         → 204; the operation stops where it is safe
//! POST /v1/guest  (Upgrade: mvm-guest)  body: GuestOf     → 101, then the guest protocol's bytes
//! ```
//!
//! A caller that leaves does not stop what it started; only `cancel` does.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Failure;

/// The socket's name in the run directory.
pub const SOCKET: &str = "agent.sock";
/// What every path begins with.
pub const PREFIX: &str = "/v1/";
/// The protocol a guest connection is upgraded to.
pub const GUEST_UPGRADE: &str = "mvm-guest";
/// The largest request, bytes: a desired state with its JSON escapes.
pub const MAX_REQUEST: usize = 40 << 20;
/// The longest line of an answer, bytes.
pub const MAX_LINE: usize = 64 << 20;

/// A line of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The operation has this id from now on; first, for what changes things.
    Operation(String),
    /// A sign of life.
    Progress(Progress),
    /// The end: it worked.
    Reply(Value),
    /// The end: it did not.
    Failed(Failure),
}

/// A sign of life from a long step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, for people.
    pub what: String,
    /// How much of it is done.
    pub done: u64,
    /// How much there is, when known.
    #[serde(default)]
    pub total: Option<u64>,
}

/// A record that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Asks for a connection to an instance's guest agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestOf {
    /// Which instance.
    pub instance: mvm_model::InstancePath,
}
