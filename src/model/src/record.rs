//! Records: what is kept on disk, one JSON file per tenant, pool and instance.
//!
//! Leases (offset, uid, net id) are derived by scanning these; there is no second source of
//! truth. A record written by a newer version is left alone.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::id::{Digest, InstanceId, InstancePath, InstanceRef, PoolPath};
use crate::image::{ImageSource, Role};
use crate::name::{InstanceName, PoolName, TenantName};
use crate::network::{BadNetwork, Mac, NetId, Offset, Subnet};
use crate::resources::{Quotas, Resources};
use crate::state::{State, Transition};

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

/// A tenant's network, its for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantNetwork {
    /// Numbers the bridge and the taps.
    pub tenant_net_id: NetId,
    /// Its addresses.
    pub ipv4_subnet: Subnet,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Its name.
    pub tenant_id: TenantName,
    /// Its network.
    pub network: TenantNetwork,
    /// Its limits.
    pub quotas: Quotas,
    /// What its guests may reach.
    #[serde(default)]
    pub egress: Egress,
    /// Who may change it.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// Built into mvm (the tenant `dev`): shown by `tenant list --all` only.
    #[serde(default)]
    pub builtin: bool,
    /// When it was created.
    pub created_at: Millis,
    /// Being destroyed: nothing may be created in it.
    #[serde(default)]
    pub destroying: bool,
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

/// A pool of like instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The owning tenant.
    pub tenant_id: TenantName,
    /// Its name.
    pub pool_id: PoolName,
    /// Where its image comes from.
    pub image: ImageSource,
    /// What its instances are for.
    pub role: Role,
    /// What each instance is given.
    pub instance_resources: Resources,
    /// How many of them.
    #[serde(default)]
    pub desired_counts: DesiredCounts,
    /// The image revision new boots use; `None` until built.
    #[serde(default)]
    pub current: Option<Digest>,
    /// Who may change it.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// When it was created.
    pub created_at: Millis,
}

impl PoolRecord {
    /// `<tenant>/<pool>`.
    pub fn path(&self) -> PoolPath {
        PoolPath { tenant: self.tenant_id.clone(), pool: self.pool_id.clone() }
    }
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Its id.
    pub instance_id: InstanceId,
    /// Its name, when it is a named one.
    #[serde(default)]
    pub name: Option<InstanceName>,
    /// The owning tenant.
    pub tenant_id: TenantName,
    /// Its pool.
    pub pool_id: PoolName,
    /// What it is for.
    pub role: Role,
    /// Its network's number, from the tenant, so that a record explains itself.
    pub net_id: NetId,
    /// Its position in the tenant's subnet.
    pub offset: Offset,
    /// The uid and gid its VMM runs as, its for life.
    pub uid: u32,
    /// What it is given.
    pub resources: Resources,
    /// The revision it was last booted from.
    #[serde(default)]
    pub revision: Option<Digest>,
    /// What it is.
    pub state: State,
    /// The transition on its way, if any.
    #[serde(default)]
    pub transition: Option<Transition>,
    /// The number its next snapshot gets.
    #[serde(default)]
    pub next_generation: u64,
    /// When it got its state.
    pub since: Millis,
    /// When it was created.
    pub created_at: Millis,
    /// Something a person should know about the last transition (a cold boot instead of a
    /// resume, an aborted sleep); cleared by the next.
    #[serde(default)]
    pub note: Option<String>,
    /// Labels, for people and tools.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl InstanceRecord {
    /// `<tenant>/<pool>/<id>`.
    pub fn path(&self) -> InstancePath {
        InstancePath { pool: self.pool_path(), instance: InstanceRef::Id(self.instance_id) }
    }

    /// `<tenant>/<pool>`.
    pub fn pool_path(&self) -> PoolPath {
        PoolPath { tenant: self.tenant_id.clone(), pool: self.pool_id.clone() }
    }

    /// The host name its guest gets, and its first DNS label.
    pub fn hostname(&self) -> String {
        self.name.as_ref().map_or_else(|| self.instance_id.to_string(), ToString::to_string)
    }

    /// Its tap.
    pub fn tap(&self) -> String {
        self.net_id.tap(self.offset)
    }

    /// Its MAC.
    pub fn mac(&self) -> Mac {
        Mac::new(self.net_id, self.offset)
    }

    /// Its address.
    ///
    /// # Errors
    /// When the offset is outside the subnet, which only a changed record can be.
    pub fn address(&self, subnet: Subnet) -> Result<Ipv4Addr, BadNetwork> {
        subnet.address(self.offset)
    }
}

/// The lowest free offset for a new instance. The tenant's first gateway instance takes `.2`
/// for life; everyone else starts at `.3`.
pub fn free_offset(subnet: Subnet, role: &Role, taken: &[Offset]) -> Option<Offset> {
    let is_free = |offset: &Offset| !taken.contains(offset);
    if *role == Role::Gateway && is_free(&Offset::GATEWAY_INSTANCE) {
        return Some(Offset::GATEWAY_INSTANCE);
    }
    (Offset::FIRST.0..=subnet.max_offset().0).map(Offset).find(is_free)
}

/// The first uid VMMs run as: in the range the operating system's own allocations (accounts,
/// `subuid`, `DynamicUser`, container uids) leave free, 1,879,048,192 to 2,147,483,647.
pub const FIRST_VMM_UID: u32 = 1_900_000_000;

/// The lowest free uid for a new instance.
pub fn free_uid(taken: &[u32]) -> u32 {
    let mut uid = FIRST_VMM_UID;
    while taken.contains(&uid) {
        uid += 1;
    }
    uid
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn small() -> Subnet {
        "10.240.9.0/28".parse().unwrap()
    }

    #[test]
    fn the_first_gateway_takes_two_and_keeps_it() {
        let taken = &mut Vec::new();
        assert_eq!(free_offset(small(), &Role::Worker, taken), Some(Offset(3)));
        assert_eq!(free_offset(small(), &Role::Gateway, taken), Some(Offset(2)));
        taken.push(Offset(2));
        assert_eq!(free_offset(small(), &Role::Gateway, taken), Some(Offset(3)));
    }

    #[test]
    fn a_full_subnet_has_no_offset() {
        let taken: Vec<Offset> = (2..=14).map(Offset).collect();
        assert_eq!(free_offset(small(), &Role::Worker, &taken), None);
    }

    proptest! {
        #[test]
        fn offsets_are_never_leased_twice(taken in proptest::collection::vec(2u16..15, 0..14)) {
            let taken: Vec<Offset> = taken.into_iter().map(Offset).collect();
            if let Some(offset) = free_offset(small(), &Role::Worker, &taken) {
                prop_assert!(!taken.contains(&offset) && small().address(offset).is_ok());
            }
        }
    }
}
