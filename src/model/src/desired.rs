//! DesiredState: everything one node should be, schema 1.
//!
//! ```text
//!  a person's file ──┐ strict: unknown fields are problems
//!                    ├─► desired::read ─► Document ─► check ─► intent::merge ─► plan::host
//!  another daemon ───┘ tolerant: unknown fields are ignored
//! ```
//!
//! One reader serves both ([`Reader`]). It reports every problem of a document with its object
//! and a hint, and leaves out only the objects that have one: a malformed pool never blocks its
//! neighbours. A document that left something out prunes nothing (see [`Document::tolerate`]).
//! An empty or truncated document is an error of its own and never means "delete everything".
//!
//! The fields are described for people in `docs/agent.md`, for programs in
//! `docs/reference/desired-state.schema.json`; a test holds all three together.

mod check;
mod document;
mod fields;
mod read;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, InstanceId};
use crate::image::{ImageSource, Role};
use crate::name::{InstanceName, PoolName, TenantName};
use crate::network::{NetId, Offset, Subnet};
use crate::policy::{IdlePolicy, Protection, Route, RuntimePolicy};
use crate::record::{DesiredCounts, Egress, ManagedBy};
use crate::resources::{Quotas, Resources};
use crate::state::Status;

pub use check::{check, check_quotas, check_tenants};
pub use document::{Document, Problem, Problems, Unreadable};
pub(crate) use fields::{Fields, parse};
pub use read::read;
pub(crate) use read::{tenants, version};

/// The version of the documents this program writes and the newest it reads.
pub const SCHEMA_VERSION: u32 = 1;

/// The largest document, bytes.
pub const MAX_DOCUMENT: usize = 16 << 20;

/// Who wrote a document, and so how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A person: an unknown field is a mistake.
    Strict,
    /// One of our own daemons, maybe a newer one: unknown fields are ignored.
    Tolerant,
}

/// Everything one node should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DesiredState {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The node it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Its number; an older one is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The number of whoever may write it; an older writer is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The tenants.
    pub tenants: Vec<TenantSpec>,
    /// Whether tenants it does not name are taken down.
    pub prune_unknown_tenants: bool,
    /// Whether pools its tenants do not name are taken down.
    pub prune_unknown_pools: bool,
}

impl Default for DesiredState {
    fn default() -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            node_id: None,
            generation: None,
            epoch: None,
            tenants: Vec::new(),
            prune_unknown_tenants: false,
            prune_unknown_pools: false,
        }
    }
}

impl DesiredState {
    /// A tenant of it.
    pub fn tenant(&self, name: &TenantName) -> Option<&TenantSpec> {
        self.tenants.iter().find(|tenant| tenant.tenant_id == *name)
    }

    /// As the file `agent desired` writes: JSON for people, with a final line end.
    pub fn to_json(&self) -> String {
        // Cannot fail: every field is a string, a number, a list or a map with string keys.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// The offsets a node may lease by itself, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    /// The first.
    pub first: Offset,
    /// The last.
    pub last: Offset,
}

impl AddressRange {
    /// Whether it holds an offset.
    pub fn contains(self, offset: Offset) -> bool {
        (self.first..=self.last).contains(&offset)
    }
}

/// A tenant's network, its for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Numbers the bridge and the taps.
    pub tenant_net_id: NetId,
    /// Its addresses.
    pub ipv4_subnet: Subnet,
    /// What of them this node may lease; the whole subnet when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_range: Option<AddressRange>,
}

impl NetworkSpec {
    /// Whether this node may lease an offset by itself.
    pub fn may_lease(&self, offset: Offset) -> bool {
        self.address_range.is_none_or(|range| range.contains(offset))
            && self.ipv4_subnet.address(offset).is_ok()
    }
}

/// What a tenant should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSpec {
    /// Its name.
    pub tenant_id: TenantName,
    /// Its network.
    pub network: NetworkSpec,
    /// Its limits.
    #[serde(default)]
    pub quotas: Quotas,
    /// What its guests may reach.
    #[serde(default)]
    pub egress: Egress,
    /// Every pool of it is [`Protection::Pinned`].
    #[serde(default)]
    pub pinned: bool,
    /// Digest of its secrets. No setting: what is delivered are the secrets this host has, and a
    /// document that names another digest is told so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets_hash: Option<Digest>,
    /// Who may change it.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// It was removed from its declaration: its instances are stopped, its data is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub orphaned: bool,
    /// Its pools.
    #[serde(default)]
    pub pools: Vec<PoolSpec>,
}

impl TenantSpec {
    /// A pool of it.
    pub fn pool(&self, name: &PoolName) -> Option<&PoolSpec> {
        self.pools.iter().find(|pool| pool.pool_id == *name)
    }

    /// Whether both ask for the same tenant, its pools, owner and secrets aside.
    pub fn same_settings(&self, other: &Self) -> bool {
        self.network == other.network
            && self.quotas == other.quotas
            && self.egress == other.egress
            && self.pinned == other.pinned
            && self.orphaned == other.orphaned
    }

    /// The same without pools, as a tenant's own record holds it.
    pub fn without_pools(&self) -> Self {
        Self { pools: Vec::new(), secrets_hash: self.secrets_hash.clone(), ..self.clone_settings() }
    }

    fn clone_settings(&self) -> Self {
        Self {
            tenant_id: self.tenant_id.clone(),
            network: self.network,
            quotas: self.quotas,
            egress: self.egress.clone(),
            pinned: self.pinned,
            secrets_hash: None,
            managed_by: self.managed_by,
            orphaned: self.orphaned,
            pools: Vec::new(),
        }
    }
}

/// What a pool should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    /// Its name.
    pub pool_id: PoolName,
    /// Where its image comes from.
    pub image: ImageSource,
    /// What its instances are for, its for life.
    pub role: Role,
    /// What each instance is given.
    pub instance_resources: Resources,
    /// How many unnamed instances in which status.
    #[serde(default)]
    pub desired_counts: DesiredCounts,
    /// The named instances; `None` says nothing about them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Vec<InstanceSpec>>,
    /// Its times.
    #[serde(default)]
    pub runtime_policy: RuntimePolicy,
    /// When its idle instances are parked.
    #[serde(default)]
    pub idle: IdlePolicy,
    /// See [`Protection::Pinned`].
    #[serde(default)]
    pub pinned: bool,
    /// See [`Protection::Critical`].
    #[serde(default)]
    pub critical: bool,
    /// What reaches it from outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The secrets its instances see; every one of the tenant's when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_scopes: Option<Vec<String>>,
    /// Who may change it.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// It was removed from its declaration: its instances are stopped, its data is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub orphaned: bool,
}

impl PoolSpec {
    /// A pool with nothing but what it needs.
    pub fn new(pool_id: PoolName, image: ImageSource, resources: Resources) -> Self {
        Self {
            pool_id,
            image,
            role: Role::Worker,
            instance_resources: resources,
            desired_counts: DesiredCounts::default(),
            instances: None,
            runtime_policy: RuntimePolicy::default(),
            idle: IdlePolicy::default(),
            pinned: false,
            critical: false,
            routes: Vec::new(),
            secret_scopes: None,
            managed_by: ManagedBy::Local,
            orphaned: false,
        }
    }

    /// The named instances it speaks about.
    pub fn named(&self) -> &[InstanceSpec] {
        self.instances.as_deref().unwrap_or_default()
    }

    /// What the agent may not take from its instances.
    pub fn protection(&self, tenant_pinned: bool) -> Protection {
        Protection::of(tenant_pinned, self.pinned, self.critical)
    }

    /// Whether both ask for the same pool, its named instances and owner aside.
    pub fn same_settings(&self, other: &Self) -> bool {
        self.image == other.image
            && self.role == other.role
            && self.instance_resources == other.instance_resources
            && self.desired_counts == other.desired_counts
            && self.runtime_policy == other.runtime_policy
            && self.idle == other.idle
            && (self.pinned, self.critical) == (other.pinned, other.critical)
            && self.routes == other.routes
            && self.secret_scopes == other.secret_scopes
            && self.orphaned == other.orphaned
    }
}

/// What a named instance should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Its id, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// Its name, unique within the pool.
    pub name: InstanceName,
    /// Its position in the subnet; the lowest free one when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<Offset>,
    /// Its status.
    pub desired: Wanted,
    /// For people and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its own data drive's size, MiB; the pool's when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_disk_mib: Option<u64>,
    /// Its own revision; the pool's current one when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Digest>,
    /// Who may change it.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// It was removed from its declaration: it is stopped, its data is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub orphaned: bool,
}

impl InstanceSpec {
    /// A named instance that should run.
    pub fn new(name: InstanceName) -> Self {
        Self {
            instance_id: None,
            name,
            offset: None,
            desired: Wanted::Running,
            labels: BTreeMap::new(),
            data_disk_mib: None,
            revision: None,
            managed_by: ManagedBy::Local,
            orphaned: false,
        }
    }

    /// Whether both ask for the same instance, its owner and what only one of them names (id,
    /// offset, size of its data drive) aside.
    pub fn same_settings(&self, other: &Self) -> bool {
        fn agree<T: PartialEq>(left: &Option<T>, right: &Option<T>) -> bool {
            left.is_none() || right.is_none() || left == right
        }
        agree(&self.instance_id, &other.instance_id)
            && agree(&self.offset, &other.offset)
            && self.desired == other.desired
            && self.labels == other.labels
            && agree(&self.data_disk_mib, &other.data_disk_mib)
            && self.revision == other.revision
            && self.orphaned == other.orphaned
    }
}

/// A status that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// vCPUs execute.
    Running,
    /// vCPUs paused, memory kept.
    Warm,
    /// Snapshot on disk.
    Sleeping,
    /// Off.
    Stopped,
}

impl Wanted {
    /// The status it asks for.
    pub fn status(self) -> Status {
        match self {
            Self::Running => Status::Running,
            Self::Warm => Status::Warm,
            Self::Sleeping => Status::Sleeping,
            Self::Stopped => Status::Stopped,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status().fmt(f)
    }
}

#[cfg(test)]
mod tests;
