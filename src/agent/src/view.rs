//! What the CLI and the API show of an object: the JSON of D§5, made from records and reality.

use std::net::Ipv4Addr;

use mvm_model::record::{InstanceRecord, Millis, PoolRecord, TenantRecord};
use mvm_model::state::{State, Status, Transition};
use mvm_model::{Digest, Mac};
use serde::Serialize;

use crate::service::Service;

/// One row of `instance list --json`.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceView {
    /// Its id.
    pub instance_id: String,
    /// Its tenant.
    pub tenant_id: String,
    /// Its pool.
    pub pool_id: String,
    /// Its name, when it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for.
    pub role: String,
    /// What it is.
    pub status: Status,
    /// The transition on its way: `starting`, `sleeping`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transition: Option<&'static str>,
    /// Its address.
    pub guest_ip: Option<Ipv4Addr>,
    /// Its MAC.
    pub mac: Mac,
    /// Its tap.
    pub tap_dev: String,
    /// Its VMM's pid, while there is one.
    pub pid: Option<u32>,
    /// VMM and accelerator, while there is one.
    pub vmm: Option<String>,
    /// The image revision it was booted from.
    pub revision: Option<Digest>,
    /// When it got its status, milliseconds since the epoch.
    pub since: Millis,
    /// Why it failed, or what the last transition had to do differently.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The word for a transition.
pub fn transition_word(transition: &Transition) -> &'static str {
    match transition {
        Transition::Starting => "starting",
        Transition::Warming => "warming",
        Transition::Resuming => "resuming",
        Transition::Sleeping { .. } => "falling asleep",
        Transition::Waking { .. } => "waking",
        Transition::Stopping => "stopping",
        Transition::Destroying => "being destroyed",
    }
}

/// A tenant with what it uses.
#[derive(Debug, Clone, Serialize)]
pub struct TenantView {
    /// The record.
    #[serde(flatten)]
    pub record: TenantRecord,
    /// The bridge.
    pub bridge: String,
    /// The guests' router and resolver.
    pub gateway: Ipv4Addr,
    /// What of its quotas is in use.
    pub usage: mvm_model::resources::Usage,
    /// Its pools.
    pub pools: usize,
    /// Its instances.
    pub instances: usize,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

/// A pool with what is in it.
#[derive(Debug, Clone, Serialize)]
pub struct PoolView {
    /// The record.
    #[serde(flatten)]
    pub record: PoolRecord,
    /// Who built the current revision.
    pub builder: Option<String>,
    /// Instances by status.
    pub actual: std::collections::BTreeMap<Status, usize>,
    /// Bytes its instances take on disk.
    pub disk_bytes: u64,
}

impl Service {
    /// One instance as people and tools see it.
    pub fn view(&self, record: &InstanceRecord) -> InstanceView {
        let observed = self.observe(record);
        let vm = observed.state.vm();
        let reason = match &observed.state {
            State::Failed { reason, .. } => Some(reason.clone()),
            _ => record.note.clone(),
        };
        let address = self.records.tenant(&record.tenant_id).ok().flatten();
        InstanceView {
            instance_id: record.instance_id.to_string(),
            tenant_id: record.tenant_id.to_string(),
            pool_id: record.pool_id.to_string(),
            name: record.name.as_ref().map(ToString::to_string),
            role: record.role.to_string(),
            status: observed.state.status(),
            transition: observed.transition.as_ref().map(transition_word),
            guest_ip: address.and_then(|tenant| record.address(tenant.network.ipv4_subnet).ok()),
            mac: record.mac(),
            tap_dev: record.tap(),
            pid: vm.map(|vm| vm.process.pid),
            vmm: vm.map(|vm| vm.vmm.to_string()),
            revision: record.revision.clone(),
            since: record.since,
            reason,
        }
    }

    /// A tenant as people and tools see it.
    pub fn tenant_view(&self, record: &TenantRecord) -> TenantView {
        let name = &record.tenant_id;
        TenantView {
            bridge: record.network.tenant_net_id.bridge(),
            gateway: record.network.ipv4_subnet.gateway(),
            usage: self.usage(name),
            pools: self.records.pools(name).records.len(),
            instances: self.records.tenant_instances(name).records.len(),
            disk_bytes: self.disk_bytes(&self.dirs.tenant(name)),
            record: record.clone(),
        }
    }

    /// A pool as people and tools see it.
    pub fn pool_view(&self, record: &PoolRecord) -> PoolView {
        let mut actual = std::collections::BTreeMap::new();
        for instance in self.records.instances(&record.path()).records {
            *actual.entry(self.observe(&instance).state.status()).or_default() += 1;
        }
        let manifest =
            record.current.as_ref().and_then(|digest| self.images().ok()?.get(digest).ok());
        PoolView {
            builder: manifest.map(|revision| revision.manifest.builder),
            actual,
            disk_bytes: self.pool_bytes(&record.path()),
            record: record.clone(),
        }
    }
}
