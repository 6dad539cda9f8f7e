//! Calls about this host.

use mvm_api::node::{
    Checks, Collection, Doctor, Gc, GetDisk, GetInfo, GetOverview, GetStats, NodeDisk, NodeInfo,
    NodeStats, Overview,
};

use mvm_api::repair::{Repair, Repaired};

use super::{Control, Handle};
use crate::error::Result;
use crate::service::Service;

impl Handle for GetInfo {
    async fn handle(self, service: &Service, _: &Control) -> Result<NodeInfo> {
        service.node_info().await
    }
}

impl Handle for GetStats {
    async fn handle(self, service: &Service, _: &Control) -> Result<NodeStats> {
        Ok(service.node_stats().await)
    }
}

impl Handle for GetDisk {
    async fn handle(self, service: &Service, _: &Control) -> Result<NodeDisk> {
        service.node_disk().await
    }
}

impl Handle for Gc {
    async fn handle(self, service: &Service, control: &Control) -> Result<Collection> {
        service.node_gc(self.mode, control.progress.clone(), control.cancel.clone()).await
    }
}

impl Handle for GetOverview {
    async fn handle(self, service: &Service, _: &Control) -> Result<Overview> {
        service.overview().await
    }
}

impl Handle for Doctor {
    async fn handle(self, service: &Service, _: &Control) -> Result<Checks> {
        Ok(Checks { checks: service.checks().await, vmms: service.proofs_made() })
    }
}

impl Handle for Repair {
    async fn handle(self, service: &Service, _: &Control) -> Result<Repaired> {
        service.repair(self.mode, std::time::Duration::from_secs(self.min_age_seconds)).await
    }
}
