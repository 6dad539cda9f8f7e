//! Calls about tenants.

use std::net::Ipv4Addr;

use mvm_model::record::{Egress, TenantRecord};
use mvm_model::resources::{Claim, Quotas, Usage};
use mvm_model::{NetId, Subnet, TenantName};
use serde::{Deserialize, Serialize};

/// Creates a tenant with its bridge and rules. Starts nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Its name.
    pub tenant: TenantName,
    /// Its net id; allocated when `None`.
    #[serde(default)]
    pub net_id: Option<NetId>,
    /// Its subnet; follows from the net id when `None`.
    #[serde(default)]
    pub subnet: Option<Subnet>,
    /// Its limits.
    #[serde(default)]
    pub quotas: Quotas,
    /// What its guests may reach.
    #[serde(default)]
    pub egress: Egress,
}

/// All tenants.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// What [`List`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listed {
    /// The tenants, by name.
    pub tenants: Vec<View>,
    /// Records that could not be read.
    pub unreadable: Vec<crate::wire::Unreadable>,
}

/// One tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Info {
    /// Which.
    pub tenant: TenantName,
}

/// Destroys a tenant with everything it has.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroy {
    /// Which.
    pub tenant: TenantName,
}

/// A tenant with what it uses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct View {
    /// The record.
    #[serde(flatten)]
    pub record: TenantRecord,
    /// The bridge.
    pub bridge: String,
    /// The guests' router and resolver.
    pub gateway: Ipv4Addr,
    /// What of its quotas is in use.
    pub usage: Usage,
    /// Its pools.
    pub pools: usize,
    /// Its instances.
    pub instances: usize,
    /// Bytes on disk: data drives, snapshots and records; images are shared and not its.
    pub disk_bytes: u64,
    /// What its instances claim of the disk quota.
    pub disk_claim: Claim,
}
