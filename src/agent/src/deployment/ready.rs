//! Waiting for the gateways of a deployment to be what they are for.

use std::time::{Duration, Instant};

use crate::guest::proto::WorkloadStatus;
use mvm_host::progress::Progress;
use mvm_model::TenantName;
use mvm_model::record::InstanceRecord;

use crate::error::{About, Error, Kind, Result};
use crate::handle::Control;
use crate::service::Service;

/// How long a gateway may take to listen. Under emulation a large program takes minutes.
const READY: Duration = Duration::from_secs(300);
/// How long its guest may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(500);

impl Service {
    /// What an instance's workload does.
    pub(super) async fn workload(&self, record: &InstanceRecord) -> Result<WorkloadStatus> {
        let client = self.guest(&record.path()).await?;
        client
            .status(ANSWER)
            .await
            .about(record.path(), "ask how its workload does")
            .map(|status| status.workload)
    }

    /// Waits until the running gateways' workloads are ready. One that is not in time is no
    /// failure of the deployment, which is complete: it comes back as a note.
    pub(super) async fn await_gateways(
        &self,
        tenant: &TenantName,
        control: &Control,
    ) -> Result<Vec<String>> {
        let all = self.records.tenant_instances(tenant).records;
        let mut notes = Vec::new();
        for record in all.iter().filter(|record| self.is_running_gateway(record)) {
            if !self.workload_ports(record).is_empty() {
                notes.extend(self.await_gateway(record, control).await?);
            }
        }
        Ok(notes)
    }

    async fn await_gateway(
        &self,
        record: &InstanceRecord,
        control: &Control,
    ) -> Result<Option<String>> {
        let started = Instant::now();
        let path = record.path();
        loop {
            let found = self.workload(record).await;
            if let Ok(workload) = &found
                && workload.ready
            {
                return Ok(None);
            }
            if control.is_cancelled() {
                let text = "interrupted while its gateway came up; everything else is there";
                return Err(Error::new(Kind::Interrupted, &path, text));
            }
            if started.elapsed() > READY {
                return Ok(Some(late(&path.to_string(), found.ok().as_ref())));
            }
            (control.progress)(Progress {
                what: format!("waiting for the gateway {path} to listen"),
                done: started.elapsed().as_secs(),
                total: None,
            });
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn late(path: &str, workload: Option<&WorkloadStatus>) -> String {
    let how = match workload {
        Some(status) if status.restarts > 0 => format!(", started again {} times", status.restarts),
        _ => String::new(),
    };
    format!(
        "{path} does not listen after {} s{how}; 'mvm instance logs {path}' shows what it says",
        READY.as_secs()
    )
}
