//! Calls about pools.

use mvm_api::pool::{Create, Destroy, Info, List, Listed, Scale, Scaled, View};

use super::{Control, Handle, unreadable};
use crate::error::Result;
use crate::pool::{self, NewPool};
use crate::service::Service;

impl Handle for Create {
    async fn handle(self, service: &Service, _: &Control) -> Result<View> {
        let new = NewPool {
            path: self.pool,
            image: self.image,
            role: self.role,
            resources: self.resources,
        };
        let record = service.create_pool_from(new, self.origin).await?;
        Ok(service.pool_view(&record))
    }
}

impl Handle for List {
    async fn handle(self, service: &Service, _: &Control) -> Result<Listed> {
        let tenants = match self.tenant {
            Some(tenant) => vec![service.tenant(&tenant)?],
            None => service.records.tenants().records,
        };
        let mut listed = Listed { pools: Vec::new(), unreadable: Vec::new() };
        for tenant in tenants {
            let found = service.records.pools(&tenant.tenant_id);
            listed.pools.extend(found.records.iter().map(|record| service.pool_view(record)));
            listed.unreadable.extend(unreadable(found.problems));
        }
        Ok(listed)
    }
}

impl Handle for Info {
    async fn handle(self, service: &Service, _: &Control) -> Result<View> {
        Ok(service.pool_view(&service.pool(&self.pool)?))
    }
}

impl Handle for Scale {
    async fn handle(self, service: &Service, _: &Control) -> Result<Scaled> {
        let wanted =
            pool::Scale { running: self.running, warm: self.warm, sleeping: self.sleeping };
        let created = service.scale_pool(&self.pool, wanted).await?;
        let have = service.records.instances(&self.pool).records;
        Ok(Scaled {
            pool: service.pool_view(&service.pool(&self.pool)?),
            created: created.iter().map(|record| record.path().to_string()).collect(),
            unnamed: have.iter().filter(|record| record.name.is_none()).count(),
        })
    }
}

impl Handle for Destroy {
    async fn handle(self, service: &Service, _: &Control) -> Result<()> {
        service.destroy_pool(&self.pool).await
    }
}
