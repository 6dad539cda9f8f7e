//! Calls about desired state.

use mvm_api::agent::{Desired, DesiredDocument, Reconcile, Report};

use super::{Control, Handle, unreadable};
use crate::error::Result;
use crate::intent;
use crate::reconcile::Options;
use crate::service::Service;

impl Handle for Desired {
    async fn handle(self, service: &Service, _: &Control) -> Result<DesiredDocument> {
        let mut problems = service.records.tenants().problems;
        for tenant in service.records.tenants().records {
            problems.extend(service.records.pools(&tenant.tenant_id).problems);
            problems.extend(service.records.tenant_instances(&tenant.tenant_id).problems);
        }
        let text = service.desired_document()?.to_json();
        Ok(DesiredDocument { text, unreadable: unreadable(problems) })
    }
}

impl Handle for Reconcile {
    async fn handle(self, service: &Service, control: &Control) -> Result<Report> {
        let parse = |text: String| intent::parse_document(&text, &self.name, self.form);
        let document = self.document.map(parse).transpose()?;
        let options = Options {
            prune: self.prune,
            delete_data: self.delete_data,
            timeout_seconds: self.timeout_seconds,
            person: true,
        };
        let Control { progress, cancel } = control.clone();
        service.reconcile(document, options, &progress, &cancel).await
    }
}
