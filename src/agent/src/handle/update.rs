//! Calls that change settings and owners, and explain what follows from them.

use std::time::Duration;

use mvm_api::agent::{ReconcileTenants, Report};
use mvm_api::tenant::View;
use mvm_api::update::{
    AdoptInstance, AdoptPool, AdoptTenant, Adopted, ExplainPool, PoolExplanation, PoolUpdated,
    UpdatePool, UpdateTenant,
};
use mvm_model::id::InstanceRef;
use mvm_model::intent::Object;
use mvm_model::record::ManagedBy;

use super::{Control, Handle};
use crate::error::{Error, Kind, Result};
use crate::service::Service;

impl Handle for UpdateTenant {
    async fn handle(self, service: &Service, _: &Control) -> Result<View> {
        let record = service.update_tenant(&self.tenant, self.update).await?;
        Ok(service.tenant_view(&record))
    }
}

impl Handle for UpdatePool {
    async fn handle(self, service: &Service, _: &Control) -> Result<PoolUpdated> {
        service.update_pool(&self.pool, self.update).await
    }
}

async fn adopt(service: &Service, object: Object, now: ManagedBy) -> Result<Adopted> {
    service.adopt(&object, now).await.map(|before| Adopted { before, now })
}

impl Handle for AdoptTenant {
    async fn handle(self, service: &Service, _: &Control) -> Result<Adopted> {
        adopt(service, Object::Tenant(self.tenant), self.to).await
    }
}

impl Handle for AdoptPool {
    async fn handle(self, service: &Service, _: &Control) -> Result<Adopted> {
        adopt(service, Object::Pool(self.pool), self.to).await
    }
}

impl Handle for AdoptInstance {
    async fn handle(self, service: &Service, _: &Control) -> Result<Adopted> {
        let name = match &self.instance.instance {
            InstanceRef::Name(name) => Some(name.clone()),
            InstanceRef::Id(_) => service.instance(&self.instance)?.name,
        };
        let Some(name) = name else {
            let text = format!("{} has no name: it belongs to its pool", self.instance);
            return Err(Error::new(Kind::Invalid, &self.instance, text)
                .hint(format!("mvm pool adopt {}", self.instance.pool)));
        };
        adopt(service, Object::Instance(self.instance.pool, name), self.to).await
    }
}

impl Handle for ExplainPool {
    async fn handle(self, service: &Service, _: &Control) -> Result<PoolExplanation> {
        service.explain_pool(&self.pool)
    }
}

impl Handle for ReconcileTenants {
    async fn handle(self, service: &Service, control: &Control) -> Result<Report> {
        let timeout = Duration::from_secs(self.timeout_seconds);
        let (progress, cancel) = (&control.progress, &control.cancel);
        service.reconcile_tenants(&self.tenants, timeout, progress, cancel).await
    }
}
