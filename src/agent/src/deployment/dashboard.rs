//! Everything of one tenant at a glance.

use std::time::Duration;

use mvm_api::deployment::{Dashboard, Gateway};
use mvm_model::TenantName;
use mvm_model::image::Role;
use mvm_model::record::{InstanceRecord, TenantRecord};
use mvm_model::state::Status;

use crate::error::Result;
use crate::service::Service;

/// How long a gateway's guest may take to say how it does.
const ANSWER: Duration = Duration::from_secs(2);

impl Service {
    /// A tenant with its pools, instances and gateways.
    ///
    /// # Errors
    /// When there is no such tenant.
    pub async fn dashboard(&self, name: &TenantName) -> Result<Dashboard> {
        let tenant = self.tenant(name)?;
        let pools = self.records.pools(name).records;
        let mut instances = self.records.tenant_instances(name).records;
        instances.sort_by_key(|record| (record.role != Role::Gateway, record.offset));
        let mut gateways = Vec::new();
        for record in instances.iter().filter(|record| self.is_running_gateway(record)) {
            gateways.push(self.gateway(&tenant, record).await);
        }
        Ok(Dashboard {
            tenant: self.tenant_view(&tenant),
            pools: pools.iter().map(|record| self.pool_view(record)).collect(),
            instances: instances.iter().map(|record| self.view(record)).collect(),
            gateways,
        })
    }

    pub(super) fn is_running_gateway(&self, record: &InstanceRecord) -> bool {
        record.role == Role::Gateway && self.observe(record).state.status() == Status::Running
    }

    async fn gateway(&self, tenant: &TenantRecord, record: &InstanceRecord) -> Gateway {
        let address = record.address(tenant.network.ipv4_subnet).ok();
        let ports = self.workload_ports(record);
        let ready = match ports.is_empty() {
            true => None,
            false => {
                tokio::time::timeout(ANSWER, self.workload(record)).await.ok().and_then(Result::ok)
            }
        };
        Gateway {
            instance: record.path().to_string(),
            addresses: address
                .iter()
                .flat_map(|ip| ports.iter().map(move |port| format!("{ip}:{port}")))
                .collect(),
            ready: ready.map(|workload| workload.ready),
        }
    }

    /// The ports an instance's workload listens on, as its image says.
    pub(super) fn workload_ports(&self, record: &InstanceRecord) -> Vec<u16> {
        let Some(digest) = &record.revision else { return Vec::new() };
        let revision = self.images().ok().and_then(|images| images.get(digest).ok());
        revision.and_then(|revision| revision.manifest.workload).map_or_else(Vec::new, |w| w.ports)
    }
}
