//! Records: what is kept on disk, one JSON file per tenant, pool and instance.
//!
//! Leases (offset, uid, net id) are derived by scanning these; there is no second source of
//! truth. A record written by a newer version is left alone.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::desired::{AddressRange, InstanceSpec, NetworkSpec, PoolSpec, TenantSpec, Wanted};
use crate::id::{Digest, InstanceId, InstancePath, InstanceRef, PoolPath};
use crate::image::{History, ImageSource, Origin, Role};
use crate::name::{InstanceName, PoolName, TenantName};
use crate::network::{BadNetwork, Mac, NetId, Offset, Subnet};
use crate::observed::{Failure, Parked};
use crate::policy::{IdlePolicy, Route, RuntimePolicy};
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
    /// What of its addresses this node may lease; the whole subnet when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_range: Option<AddressRange>,
    /// Every pool of it is pinned.
    #[serde(default)]
    pub pinned: bool,
    /// It was removed from its declaration: its instances are stopped, its data is kept.
    #[serde(default)]
    pub orphaned: bool,
    /// Built into mvm (the tenant `dev`): shown by `tenant list --all` only.
    #[serde(default)]
    pub builtin: bool,
    /// When it was created.
    pub created_at: Millis,
    /// Being destroyed: nothing may be created in it.
    #[serde(default)]
    pub destroying: bool,
}

impl TenantRecord {
    /// What it should be, without its pools.
    pub fn spec(&self) -> TenantSpec {
        TenantSpec {
            tenant_id: self.tenant_id.clone(),
            network: NetworkSpec {
                tenant_net_id: self.network.tenant_net_id,
                ipv4_subnet: self.network.ipv4_subnet,
                address_range: self.address_range,
            },
            quotas: self.quotas,
            egress: self.egress.clone(),
            pinned: self.pinned,
            secrets_hash: None,
            managed_by: self.managed_by,
            orphaned: self.orphaned,
            pools: Vec::new(),
        }
    }

    /// The record of a new tenant.
    pub fn new(spec: &TenantSpec, created_at: Millis) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            tenant_id: spec.tenant_id.clone(),
            network: TenantNetwork {
                tenant_net_id: spec.network.tenant_net_id,
                ipv4_subnet: spec.network.ipv4_subnet,
            },
            quotas: spec.quotas,
            egress: spec.egress.clone(),
            managed_by: spec.managed_by,
            address_range: spec.network.address_range,
            pinned: spec.pinned,
            orphaned: spec.orphaned,
            builtin: false,
            created_at,
            destroying: false,
        }
    }

    /// The same tenant as `spec` asks for. Its network is its for life and stays.
    #[must_use]
    pub fn updated(&self, spec: &TenantSpec) -> Self {
        Self {
            network: self.network,
            builtin: self.builtin,
            destroying: self.destroying,
            ..Self::new(spec, self.created_at)
        }
    }
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
    /// Its times.
    #[serde(default)]
    pub runtime_policy: RuntimePolicy,
    /// When its idle instances are parked.
    #[serde(default)]
    pub idle: IdlePolicy,
    /// Its instances stay in memory.
    #[serde(default)]
    pub pinned: bool,
    /// Its instances are never taken down.
    #[serde(default)]
    pub critical: bool,
    /// What reaches it from outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The secrets its instances see; every one of the tenant's when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_scopes: Option<Vec<String>>,
    /// It was removed from its declaration: its instances are stopped, its data is kept.
    #[serde(default)]
    pub orphaned: bool,
    /// How its image was asked for.
    #[serde(default)]
    pub origin: Origin,
    /// The revisions it uses and used.
    #[serde(default)]
    pub history: History,
    /// When it was created.
    pub created_at: Millis,
}

impl PoolRecord {
    /// What it should be, without its named instances.
    pub fn spec(&self) -> PoolSpec {
        PoolSpec {
            pool_id: self.pool_id.clone(),
            image: self.image.clone(),
            role: self.role.clone(),
            instance_resources: self.instance_resources,
            desired_counts: self.desired_counts,
            instances: None,
            runtime_policy: self.runtime_policy,
            idle: self.idle,
            pinned: self.pinned,
            critical: self.critical,
            routes: self.routes.clone(),
            secret_scopes: self.secret_scopes.clone(),
            managed_by: self.managed_by,
            orphaned: self.orphaned,
        }
    }

    /// The record of a new pool.
    pub fn new(tenant_id: TenantName, spec: PoolSpec, created_at: Millis) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            tenant_id,
            pool_id: spec.pool_id,
            image: spec.image,
            role: spec.role,
            instance_resources: spec.instance_resources,
            desired_counts: spec.desired_counts,
            current: None,
            managed_by: spec.managed_by,
            runtime_policy: spec.runtime_policy,
            idle: spec.idle,
            pinned: spec.pinned,
            critical: spec.critical,
            routes: spec.routes,
            secret_scopes: spec.secret_scopes,
            orphaned: spec.orphaned,
            origin: Origin::default(),
            history: History::default(),
            created_at,
        }
    }

    /// The same pool as `spec` asks for. Its role is its for life and stays. With another image
    /// it has no current revision until that is built; what runs or sleeps keeps its own.
    #[must_use]
    pub fn updated(&self, spec: PoolSpec) -> Self {
        let same_image = spec.image == self.image;
        let origin = Origin {
            typed: self.origin.typed.clone().filter(|_| same_image),
            builder: self.origin.builder,
        };
        Self {
            role: self.role.clone(),
            current: self.current.clone().filter(|_| same_image),
            origin,
            history: self.history.clone(),
            ..Self::new(self.tenant_id.clone(), spec, self.created_at)
        }
    }

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
    /// What a named instance should be; an unnamed one is what its pool's counts ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Wanted>,
    /// The revision a named instance asks for; the pool's current one when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_revision: Option<Digest>,
    /// The data drive a named instance asks for, MiB; the pool's size when `None`. It gets it at
    /// its next cold boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_data_disk_mib: Option<u64>,
    /// Who may change a named instance.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// It was removed from its declaration: it is stopped, its data is kept.
    #[serde(default)]
    pub orphaned: bool,
    /// When a person last started, stopped, warmed, woke it or put it to sleep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manual: Option<Millis>,
    /// Its last step, if that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Why it is warm or sleeping.
    #[serde(default)]
    pub parked: Parked,
}

impl InstanceRecord {
    /// What it should be, when it is a named one.
    pub fn spec(&self) -> Option<InstanceSpec> {
        Some(InstanceSpec {
            instance_id: Some(self.instance_id),
            name: self.name.clone()?,
            offset: Some(self.offset),
            desired: self.desired.unwrap_or(Wanted::Stopped),
            labels: self.labels.clone(),
            data_disk_mib: self.own_data_disk_mib,
            revision: self.pinned_revision.clone(),
            managed_by: self.managed_by,
            orphaned: self.orphaned,
        })
    }

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
pub fn free_offset(network: &NetworkSpec, role: &Role, taken: &[Offset]) -> Option<Offset> {
    let is_free = |offset: &Offset| !taken.contains(offset) && network.may_lease(*offset);
    if *role == Role::Gateway && is_free(&Offset::GATEWAY_INSTANCE) {
        return Some(Offset::GATEWAY_INSTANCE);
    }
    (Offset::FIRST.0..=network.ipv4_subnet.max_offset().0).map(Offset).find(is_free)
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

    fn small() -> NetworkSpec {
        NetworkSpec {
            tenant_net_id: NetId::new(9).unwrap(),
            ipv4_subnet: "10.240.9.0/28".parse().unwrap(),
            address_range: None,
        }
    }

    #[test]
    fn the_first_gateway_takes_two_and_keeps_it() {
        let taken = &mut Vec::new();
        assert_eq!(free_offset(&small(), &Role::Worker, taken), Some(Offset(3)));
        assert_eq!(free_offset(&small(), &Role::Gateway, taken), Some(Offset(2)));
        taken.push(Offset(2));
        assert_eq!(free_offset(&small(), &Role::Gateway, taken), Some(Offset(3)));
    }

    #[test]
    fn only_what_this_node_may_lease_is_leased() {
        let range = AddressRange { first: Offset(5), last: Offset(6) };
        let ours = NetworkSpec { address_range: Some(range), ..small() };
        assert_eq!(free_offset(&ours, &Role::Gateway, &[]), Some(Offset(5)));
        assert_eq!(free_offset(&ours, &Role::Worker, &[Offset(5), Offset(6)]), None);
    }

    #[test]
    fn a_full_subnet_has_no_offset() {
        let taken: Vec<Offset> = (2..=14).map(Offset).collect();
        assert_eq!(free_offset(&small(), &Role::Worker, &taken), None);
    }

    proptest! {
        #[test]
        fn offsets_are_never_leased_twice(taken in proptest::collection::vec(2u16..15, 0..14)) {
            let taken: Vec<Offset> = taken.into_iter().map(Offset).collect();
            if let Some(offset) = free_offset(&small(), &Role::Worker, &taken) {
                prop_assert!(!taken.contains(&offset) && small().may_lease(offset));
            }
        }
    }
}
