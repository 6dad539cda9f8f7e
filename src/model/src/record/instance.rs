//! The record of an instance: what was asked for, what it is, and the transition on its way.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{ManagedBy, Millis};
use crate::desired::{InstanceSpec, Wanted};
use crate::id::{Digest, InstanceId, InstancePath, InstanceRef, PoolPath};
use crate::image::Role;
use crate::name::{InstanceName, PoolName, TenantName};
use crate::network::{BadNetwork, Mac, NetId, Offset, Subnet};
use crate::observed::{Failure, Parked};
use crate::resources::Resources;
use crate::state::{State, Transition};

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
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
    /// How often it woke from a snapshot.
    #[serde(default, skip_serializing_if = "Wakes::is_none")]
    pub wakes: Wakes,
}

/// Wakes from a snapshot, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wakes {
    /// All of them.
    pub count: u64,
    /// Those that took longer than they should.
    pub slow: u64,
    /// Why the last slow one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_because: Option<String>,
}

impl Wakes {
    fn is_none(&self) -> bool {
        self.count == 0
    }

    /// Counts one more, with its reasons for being slow.
    pub fn add(&mut self, slow: &[String]) {
        self.count = self.count.saturating_add(1);
        if !slow.is_empty() {
            self.slow = self.slow.saturating_add(1);
            self.slow_because = Some(slow.join("; "));
        }
    }
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
