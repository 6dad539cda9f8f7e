//! What is good and what is not about this host, each with what to do about it.
//!
//! ```text
//! machine.rs   the machine: CPUs, capabilities, programs, limits, clock, swap
//! host.rs      its posture towards tenants: what leaks, who may change what
//! vmm.rs       Firecracker: version, build, limits
//! keeping.rs   what is kept: disk, encryption, records, key, garbage
//! strays.rs    what is here without a reason, and what was put aside
//! here         what acts: accelerators, network, agent
//! ```
//!
//! Reads only; what is stray is taken away by [`crate::stray`]. The same checks decide `bootstrap --production`, where every one marked
//! mandatory must pass.

mod host;
mod keeping;
mod machine;
mod strays;
mod vmm;

use mvm_api::wire::SOCKET;
use mvm_model::vm::{Accel, VmmKind};

pub use host::Waiver;
pub use mvm_api::node::{Check, Health};

use crate::disk::aside;
use crate::error::{Error, Kind, Result};
use crate::machine::Machine;
use crate::prove::Verdict;
use crate::service::Service;
use crate::socket::connect_in;

fn when(good: bool, otherwise: Health) -> Health {
    if good { Health::Good } else { otherwise }
}

impl Service {
    /// Every check that needs no guest.
    pub async fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.programs(), self.accelerators()];
        checks.extend(machine::checks());
        checks.extend(self.vmm_checks().await);
        let service = self.clone();
        match aside("look at what is kept", move || service.keeping()).await {
            Ok(keeping) => checks.extend(keeping),
            Err(error) => checks.push(Check::new("state", Health::Bad, error.chain())),
        }
        checks.push(self.agent_word().await);
        checks.push(self.supervisors());
        checks.extend(self.stray_checks().await);
        checks.extend(self.network_findings().await);
        self.posture(checks)
    }

    fn programs(&self) -> Check {
        let missing: Vec<_> = self.missing_programs().iter().map(|need| need.package).collect();
        let found = if missing.is_empty() {
            "all there".to_owned()
        } else {
            format!("missing: {}", missing.join(", "))
        };
        Check::new("programs", when(missing.is_empty(), Health::Bad), found)
            .remedy("mvm bootstrap")
            .mandatory()
    }

    /// What was proven since this boot; proving takes guests and is not done here.
    fn accelerators(&self) -> Check {
        accelerators(&self.known_verdicts())
    }

    /// Whether an agent serves this host.
    pub(crate) async fn agent_word(&self) -> Check {
        let run = &self.dirs.run;
        if !run.join(SOCKET).exists() {
            return Check::new("agent", Health::Good, "not running; commands act by themselves");
        }
        match connect_in(run, SOCKET).await {
            Ok(_) => Check::new("agent", Health::Good, "running"),
            Err(error) => {
                let found =
                    format!("{} is there and nobody answers: {error}", run.join(SOCKET).display());
                Check::new("agent", Health::Warning, found).remedy(
                    "start it again: mvm agent serve (commands act by themselves meanwhile)",
                )
            }
        }
    }

    /// A VM whose supervisor died goes on, but what it prints is lost until the next one comes.
    fn supervisors(&self) -> Check {
        let records = self.records.all_instances().records;
        let alone = records.iter().filter(|record| Machine::of(self, record).is_alone());
        let alone: Vec<_> = alone.map(|record| record.path().to_string()).collect();
        let found = match &alone[..] {
            [] => "every VM has its own".to_owned(),
            some => format!("{} lost theirs, first {}", some.len(), some[0]),
        };
        Check::new("supervisors", when(alone.is_empty(), Health::Warning), found)
            .remedy("the next command that needs the guest starts another, and so does the agent: 'mvm instance stats' does")
    }

    async fn network_findings(&self) -> Vec<Check> {
        let report = match self.verify_net().await {
            Ok(report) => report,
            Err(error) => {
                // Only the error's own advice: a wrong one would send people the wrong way.
                let check = Check::new("network", Health::Bad, error.chain());
                return vec![match error.hint {
                    Some(hint) => check.remedy(hint),
                    None => check,
                }];
            }
        };
        if report.findings.is_empty() {
            let good = "bridges, taps and rules are as they should be";
            return vec![Check::new("network", Health::Good, good)];
        }
        let check = |finding: &mvm_host::net::Finding| {
            Check::new(
                "network",
                Health::Warning,
                format!("{}: {}", finding.object, finding.problem),
            )
            .remedy(finding.remedy.clone())
        };
        report.findings.iter().map(check).collect()
    }

    /// What production insists on and this host lacks, but for the proof of KVM.
    pub async fn production_lacks(&self) -> Vec<String> {
        let checks = self.checks().await.into_iter();
        let lacking = checks.filter(|check| check.mandatory && check.health != Health::Good);
        lacking.map(|check| format!("{}: {}", check.name, check.found)).collect()
    }
}

/// Refuses a host that is not fit for production. `lacks` is what
/// [`Service::production_lacks`] found; of the verdicts only Firecracker's counts.
///
/// # Errors
/// [`Kind::Refused`], naming each missing thing.
pub fn insist_on_production(mut lacks: Vec<String>, verdicts: &[Verdict]) -> Result<()> {
    let production = |verdict: &&Verdict| verdict.vmm == VmmKind::Firecracker;
    match verdicts.iter().find(production) {
        Some(verdict) if verdict.is_proven() => {}
        Some(verdict) => lacks.push(verdict.to_string()),
        None => lacks.push("firecracker/kvm: not proven on this host".into()),
    }
    // Other VMMs do not count, but why KVM does not run guests is worth knowing.
    let kvm =
        verdicts.iter().find(|verdict| verdict.vmm == VmmKind::Qemu && verdict.accel == Accel::Kvm);
    lacks.extend(kvm.filter(|verdict| !verdict.is_proven()).map(ToString::to_string));
    refuse(&lacks)
}

fn refuse(missing: &[String]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!("this host is not ready for production: {}", missing.join("; "));
    Err(Error::new(Kind::Refused, "", text)
        .hint("mend each of these; for development leave --production away"))
}

/// None proven yet is no failure: the first start proves. None that works is.
fn accelerators(verdicts: &[Verdict]) -> Check {
    let told: Vec<_> = verdicts.iter().map(ToString::to_string).collect();
    let (health, found) = match verdicts.iter().find(|verdict| verdict.is_proven()) {
        Some(proven) => (Health::Good, proven.to_string()),
        None if verdicts.is_empty() => (Health::Warning, "nothing proven since this boot".into()),
        None => (Health::Bad, told.join("; ")),
    };
    let remedy = match verdicts.is_empty() {
        true => "'mvm bootstrap' proves it, and so does the first start",
        false => "mend one of these, then: mvm bootstrap",
    };
    Check::new("accelerators", health, found).remedy(remedy)
}

#[cfg(test)]
mod tests;
