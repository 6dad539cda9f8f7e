//! Calls about instances.

use mvm_api::instance::{
    Change, Changed, Create, Destroy, GetStats, HostLog, HostLogSource, HostLogText, Info, List,
    Listed, Phase, Stats, View,
};
use mvm_api::net::{Finding, Report, Verify};
use mvm_host::net::Severity;
use mvm_model::PoolPath;
use mvm_model::record::InstanceRecord;
use mvm_vmm::supervisor::{CONSOLE_LOG, VMM_LOG, ring};

use super::{Control, Handle, unreadable};
use crate::error::{Error, Kind, Result};
use crate::records::Found;
use crate::service::Service;

/// The most that is read of a log on the host, bytes; it keeps no more.
const MOST_LOG: u64 = 1 << 20;

impl Handle for Create {
    async fn handle(self, service: &Service, _: &Control) -> Result<View> {
        let record = service.create_instance(&self.pool, self.name).await?;
        Ok(service.view(&record))
    }
}

impl Handle for List {
    async fn handle(self, service: &Service, _: &Control) -> Result<Listed> {
        let found = found(self, service)?;
        let instances = service.views(&found.records);
        Ok(Listed { instances, unreadable: unreadable(found.problems) })
    }
}

fn found(list: List, service: &Service) -> Result<Found<InstanceRecord>> {
    match (list.tenant, list.pool) {
        (Some(tenant), Some(pool)) => {
            let path = PoolPath { tenant, pool };
            service.pool(&path)?;
            Ok(service.records.instances(&path))
        }
        (Some(tenant), None) => {
            service.tenant(&tenant)?;
            Ok(service.records.tenant_instances(&tenant))
        }
        (None, Some(_)) => Err(Error::new(Kind::Invalid, "", "a pool needs its tenant")),
        (None, None) => Ok(service.records.all_instances()),
    }
}

impl Handle for Info {
    async fn handle(self, service: &Service, _: &Control) -> Result<View> {
        Ok(service.view(&service.instance(&self.instance)?))
    }
}

impl Handle for GetStats {
    async fn handle(self, service: &Service, _: &Control) -> Result<Stats> {
        Ok(service.stats(&service.instance(&self.instance)?).await)
    }
}

impl Handle for Change {
    async fn handle(self, service: &Service, control: &Control) -> Result<Changed> {
        let outcome = service.change(&self.instance, self.verb, &control.cancel).await?;
        Ok(Changed {
            view: service.view(&outcome.record),
            already: outcome.already.map(Into::into),
            note: outcome.record.note,
            slow: outcome.slow,
            phases: outcome.phases.iter().map(phase).collect(),
        })
    }
}

fn phase(phase: &crate::driver::Phase) -> Phase {
    Phase { name: phase.name.into(), ms: phase.took.as_secs_f64() * 1000.0 }
}

impl Handle for Destroy {
    async fn handle(self, service: &Service, _: &Control) -> Result<()> {
        service.instance(&self.instance)?;
        service.destroy_instance(&self.instance).await
    }
}

impl Handle for HostLog {
    async fn handle(self, service: &Service, _: &Control) -> Result<HostLogText> {
        let record = service.instance(&self.instance)?;
        let log = match self.source {
            HostLogSource::Console => CONSOLE_LOG,
            HostLogSource::Vmm => VMM_LOG,
        };
        let bytes = ring::read(&service.dirs.vm(record.instance_id).join(log), MOST_LOG);
        let bytes = bytes.map_err(|error| {
            let text = "there is no log of a VM of it on this host";
            Error::new(Kind::NotFound, &self.instance, text).because(error)
        })?;
        let text = printable(&bytes);
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let from = lines.len().saturating_sub(self.lines as usize);
        Ok(HostLogText { lines: lines[from..].to_vec() })
    }
}

/// What a guest printed must not drive a person's terminal: only text, tabs and line ends.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

impl Handle for Verify {
    async fn handle(self, service: &Service, _: &Control) -> Result<Report> {
        let report = service.verify_and_probe_net().await?;
        let severity = |severity| match severity {
            Severity::Error => "error".to_owned(),
            Severity::Warning => "warning".to_owned(),
        };
        Ok(Report {
            clean: report.is_clean(),
            tenants: report.tenants,
            ports: report.ports,
            probed: report.probed,
            findings: report
                .findings
                .into_iter()
                .map(|finding| Finding {
                    severity: severity(finding.severity),
                    object: finding.object,
                    problem: finding.problem,
                    remedy: finding.remedy,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_log_cannot_drive_the_terminal() {
        assert_eq!(super::printable(b"a\x1b[2Jb\r\n\tc\x07"), "a[2Jb\n\tc");
    }
}
