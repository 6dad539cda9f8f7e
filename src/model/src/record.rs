//! Records: what is kept on disk, one JSON file per tenant, pool and instance.
//!
//! Leases (offset, uid, net id) are derived by scanning these; there is no second source of
//! truth. A record written by a newer version is left alone.

mod instance;
mod lease;
mod pool;
mod tenant;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use instance::{InstanceRecord, Wakes};
pub use lease::{FIRST_VMM_UID, RESOLVER_UID, free_offset, free_uid};
pub use pool::PoolRecord;
pub use tenant::{TenantNetwork, TenantRecord};

/// The version of the records this program writes.
pub const SCHEMA_VERSION: u32 = 1;

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

/// Who may change an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ManagedBy {
    /// A person on this host.
    #[default]
    Local,
    /// The host's NixOS configuration.
    Nix,
    /// A coordinator.
    Coordinator,
}

/// What of the world a tenant's guests may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// Nothing.
    None,
    /// The public internet; never private, link-local or fleet addresses.
    #[default]
    Internet,
    /// These networks only.
    List(Vec<Ipv4Net>),
}

/// How many instances a pool should have in which status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DesiredCounts {
    /// Running.
    pub running: u32,
    /// Warm.
    pub warm: u32,
    /// Sleeping.
    pub sleeping: u32,
}

impl DesiredCounts {
    /// All together.
    pub fn total(self) -> u32 {
        self.running.saturating_add(self.warm).saturating_add(self.sleeping)
    }
}
