//! Policies of a pool: how long things take at least, when an idle instance is parked, what may
//! never be taken away, and how requests reach it. Read from desired state; decided on by
//! `mvm-plan`, which never looks further than these values.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How long the loop leaves an instance alone that a person started, stopped, put to sleep or
/// woke, seconds. A person's own `agent reconcile` does not wait.
pub const MANUAL_OVERRIDE_SECONDS: u64 = 600;

/// The longest time a policy may name, seconds: one year.
pub const MAX_SECONDS: u64 = 366 * 24 * 3600;

/// Times of a pool's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimePolicy {
    /// An instance runs at least this long before the idle policy parks it, seconds. Steps
    /// towards counts a person changed do not wait for it.
    pub min_running_seconds: u64,
    /// An instance stays warm at least this long before the idle policy puts it to sleep, seconds.
    pub min_warm_seconds: u64,
    /// How long what people have open in a guest may go on before a plan takes it down, seconds.
    pub drain_timeout_seconds: u64,
    /// How long a guest may take to turn itself off before its VM is ended, seconds.
    pub graceful_shutdown_seconds: u64,
}

impl Default for RuntimePolicy {
    fn default() -> Self {
        Self {
            min_running_seconds: 60,
            min_warm_seconds: 30,
            drain_timeout_seconds: 30,
            graceful_shutdown_seconds: 15,
        }
    }
}

/// When idle instances are parked. Without times nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IdlePolicy {
    /// A running instance that was idle this long becomes warm, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_after_seconds: Option<u64>,
    /// A running or parked warm instance that was idle this long goes to sleep, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleep_after_seconds: Option<u64>,
    /// This many unnamed instances keep running however idle they are.
    pub keep_running: u32,
    /// This many parked unnamed instances stay warm however idle they are.
    pub keep_warm: u32,
}

impl IdlePolicy {
    /// Whether it ever parks anything.
    pub fn is_active(&self) -> bool {
        self.warm_after_seconds.is_some() || self.sleep_after_seconds.is_some()
    }
}

/// What the agent may never take from a pool's instances by itself.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// Nothing is protected.
    #[default]
    None,
    /// Stays in memory: may be paused to warm, is never put to sleep, stopped or removed.
    Pinned,
    /// Is not touched at all: never paused, put to sleep, stopped or removed. It is still brought
    /// up when it is down.
    Critical,
}

impl Protection {
    /// What a pool's own flags and its tenant's come to.
    pub fn of(tenant_pinned: bool, pinned: bool, critical: bool) -> Self {
        match (critical, pinned || tenant_pinned) {
            (true, _) => Self::Critical,
            (false, true) => Self::Pinned,
            (false, false) => Self::None,
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "not protected",
            Self::Pinned => "pinned",
            Self::Critical => "critical",
        })
    }
}

/// Which requests from outside reach a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The host name asked for.
    pub hostname: String,
    /// The TCP port in the guest.
    pub port: u16,
}
