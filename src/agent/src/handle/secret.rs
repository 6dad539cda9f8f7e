//! Calls about tenants' secrets.

use mvm_api::secret::{Changed, List, Listed, Remove, Rotate, Set};

use super::{Control, Handle};
use crate::error::Result;
use crate::service::Service;

impl Handle for Set {
    async fn handle(self, service: &Service, _: &Control) -> Result<Changed> {
        service.set_secrets(self).await
    }
}

impl Handle for Rotate {
    async fn handle(self, service: &Service, _: &Control) -> Result<Changed> {
        service.rotate_secrets(&self.tenant).await
    }
}

impl Handle for Remove {
    async fn handle(self, service: &Service, _: &Control) -> Result<Changed> {
        service.remove_secrets(&self.tenant, self.doomed).await
    }
}

impl Handle for List {
    async fn handle(self, service: &Service, _: &Control) -> Result<Listed> {
        service.list_secrets(&self.tenant)
    }
}
