//! Calls about whole deployments.

use mvm_api::deployment::{Connect, Dashboard, Deployed, New};

use super::{Control, Handle};
use crate::error::Result;
use crate::service::Service;

impl Handle for New {
    async fn handle(self, service: &Service, control: &Control) -> Result<Deployed> {
        service.deploy(self, control).await
    }
}

impl Handle for Connect {
    async fn handle(self, service: &Service, _: &Control) -> Result<Dashboard> {
        service.dashboard(&self.name).await
    }
}
