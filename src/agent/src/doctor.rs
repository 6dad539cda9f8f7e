//! What is good and what is not about this host, each with what to do about it.
//!
//! ```text
//! machine.rs   the machine: CPUs, capabilities, programs, limits, clock, swap
//! keeping.rs   what is kept: disk, encryption, records, key, garbage
//! here         what acts: accelerators, network, agent, VMs of nobody
//! ```
//!
//! Reads only. The same checks decide `bootstrap --production`, where every one marked
//! mandatory must pass.

mod keeping;
mod machine;

use mvm_api::wire::SOCKET;
use mvm_model::vm::{Accel, VmmKind};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::prove::Verdict;
use crate::service::Service;
use crate::socket::connect_in;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    #[serde(rename = "ok")]
    Good,
    /// Works, but should be otherwise.
    #[serde(rename = "warn")]
    Warning,
    /// mvm cannot do its work.
    #[serde(rename = "fail")]
    Bad,
}

/// A check of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it came out.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// `bootstrap --production` insists on it.
    pub mandatory: bool,
}

impl Check {
    fn new(name: &str, health: Health, found: impl Into<String>) -> Self {
        let (name, found) = (name.to_owned(), found.into());
        Self { name, health, found, remedy: None, mandatory: false }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        if self.health != Health::Good {
            self.remedy = Some(remedy.into());
        }
        self
    }

    fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }
}

fn when(good: bool, otherwise: Health) -> Health {
    if good { Health::Good } else { otherwise }
}

impl Service {
    /// Every check that needs no guest.
    pub async fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.programs(), self.accelerators()];
        checks.extend(machine::checks());
        checks.extend(self.keeping());
        checks.push(self.agent_word().await);
        checks.extend(self.stray_vms());
        checks.extend(self.network_findings().await);
        checks
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

    /// VMs no record leads to: somebody removed or restored the state beside them.
    fn stray_vms(&self) -> Vec<Check> {
        let stray = self.stray_garbage().into_iter();
        let check = |kept: crate::gc::Kept| {
            let found = format!("{}: {}", kept.path.display(), kept.why);
            Check::new("stray VM", Health::Warning, found).remedy("end it, then: mvm node gc")
        };
        stray.map(check).collect()
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
