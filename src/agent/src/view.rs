//! What the CLI and the API show of an object: the JSON of D§5, made from records and reality.

use std::collections::HashMap;

pub use mvm_api::instance::View as InstanceView;
pub use mvm_api::pool::View as PoolView;
pub use mvm_api::tenant::View as TenantView;
use mvm_model::Subnet;
use mvm_model::record::{InstanceRecord, PoolRecord, TenantRecord};
use mvm_model::state::{State, Transition};

use crate::service::Service;

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

impl Service {
    /// One instance as people and tools see it.
    pub fn view(&self, record: &InstanceRecord) -> InstanceView {
        let tenant = self.records.tenant(&record.tenant_id).ok().flatten();
        self.view_in(record, tenant.map(|tenant| tenant.network.ipv4_subnet))
    }

    /// Many instances as people and tools see them; their tenants are read once.
    pub fn views(&self, records: &[InstanceRecord]) -> Vec<InstanceView> {
        let tenants = self.records.tenants().records.into_iter();
        let subnets: HashMap<_, _> =
            tenants.map(|tenant| (tenant.tenant_id, tenant.network.ipv4_subnet)).collect();
        let view =
            |record: &InstanceRecord| self.view_in(record, subnets.get(&record.tenant_id).copied());
        records.iter().map(view).collect()
    }

    fn view_in(&self, record: &InstanceRecord, subnet: Option<Subnet>) -> InstanceView {
        let observed = self.observe(record);
        let vm = observed.state.vm();
        let reason = match &observed.state {
            State::Failed { reason, .. } => Some(reason.clone()),
            _ => record.note.clone(),
        };
        InstanceView {
            instance_id: record.instance_id.to_string(),
            tenant_id: record.tenant_id.to_string(),
            pool_id: record.pool_id.to_string(),
            name: record.name.as_ref().map(ToString::to_string),
            role: record.role.to_string(),
            status: observed.state.status(),
            transition: observed.transition.as_ref().map(|on| transition_word(on).into()),
            guest_ip: subnet.and_then(|subnet| record.address(subnet).ok()),
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
            disk_bytes: self.tenant_bytes(record),
            disk_claim: self.claim(&self.records.tenant_instances(name).records),
            record: record.clone(),
        }
    }

    /// A pool as people and tools see it.
    pub fn pool_view(&self, record: &PoolRecord) -> PoolView {
        let mut actual = std::collections::BTreeMap::new();
        for instance in self.records.instances(&record.path()).records {
            *actual.entry(self.observe(&instance).state.status()).or_default() += 1;
        }
        PoolView {
            builder: self.builder_of(record),
            revisions: self.revision_views(record),
            actual,
            disk_bytes: self.pool_bytes(&record.path()),
            disk_claim: self.claim(&self.records.instances(&record.path()).records),
            record: record.clone(),
        }
    }
}
