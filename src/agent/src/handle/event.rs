//! Calls about the audit log.

use mvm_api::event::{Event, List, Verified, Verify};

use super::{Control, Handle};
use crate::error::Result;
use crate::service::Service;

impl Handle for List {
    async fn handle(self, service: &Service, _: &Control) -> Result<Vec<Event>> {
        service.events(self.tenant.as_ref(), self.last)
    }
}

impl Handle for Verify {
    async fn handle(self, service: &Service, _: &Control) -> Result<Vec<Verified>> {
        service.verify_events(self.tenant.as_ref())
    }
}
