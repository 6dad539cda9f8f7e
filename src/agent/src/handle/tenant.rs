//! Calls about tenants.

use mvm_api::tenant::{Create, Destroy, Info, List, Listed, View};

use super::{Control, Handle, unreadable};
use crate::error::Result;
use crate::service::Service;
use crate::tenant::NewTenant;

impl Handle for Create {
    async fn handle(self, service: &Service, _: &Control) -> Result<View> {
        let new = NewTenant {
            name: self.tenant,
            net_id: self.net_id,
            subnet: self.subnet,
            quotas: self.quotas,
            egress: self.egress,
            builtin: false,
        };
        let record = service.create_tenant(new).await?;
        Ok(service.tenant_view(&record))
    }
}

impl Handle for List {
    async fn handle(self, service: &Service, _: &Control) -> Result<Listed> {
        let found = service.records.tenants();
        let tenants = found.records.iter().map(|record| service.tenant_view(record)).collect();
        Ok(Listed { tenants, unreadable: unreadable(found.problems) })
    }
}

impl Handle for Info {
    async fn handle(self, service: &Service, _: &Control) -> Result<View> {
        Ok(service.tenant_view(&service.tenant(&self.tenant)?))
    }
}

impl Handle for Destroy {
    async fn handle(self, service: &Service, _: &Control) -> Result<()> {
        service.destroy_tenant(&self.tenant).await
    }
}
