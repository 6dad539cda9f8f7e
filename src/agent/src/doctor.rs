//! What is good and what is not about this host, each with what to do about it.
//!
//! Reads only. The same checks decide `bootstrap --production`, where every one marked
//! mandatory must pass.

use std::fs;
use std::path::Path;

use mvm_host::file;
use mvm_model::vm::{Accel, VmmKind};
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::prove::Verdict;
use crate::service::Service;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Good,
    /// Works, but should be otherwise.
    Warning,
    /// mvm cannot do its work.
    Bad,
}

/// A check of this host.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// `bootstrap --production` insists on it.
    pub mandatory: bool,
}

impl Check {
    fn new(name: &'static str, health: Health, found: impl Into<String>) -> Self {
        Self { name, health, found: found.into(), remedy: None, mandatory: false }
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
        let mut checks = vec![
            self.programs(),
            kvm_device(),
            cgroup_v2(),
            nftables(),
            netlink(),
            self.disk(),
            self.encryption(),
            swap(),
            self.broken_records(),
        ];
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

    fn disk(&self) -> Check {
        let free = file::free_bytes(&self.dirs.state).unwrap_or(0) >> 20;
        let found = format!("{free} MiB free at {}", self.dirs.state.display());
        Check::new("disk", when(free > 4096, Health::Warning), found)
            .remedy("images and snapshots need a few GiB")
    }

    fn encryption(&self) -> Check {
        let encrypted = is_encrypted(&self.dirs.state);
        let found = match encrypted {
            true => "state is on encrypted storage".to_owned(),
            false => format!("{} is not on a dm-crypt device", self.dirs.state.display()),
        };
        Check::new("encryption", when(encrypted, Health::Warning), found)
            .remedy("snapshots hold guests' memory: put the state directory on an encrypted disk")
    }

    fn broken_records(&self) -> Check {
        let mut problems = self.records.tenants().problems;
        problems.extend(self.records.all_instances().problems);
        let found = match problems.first() {
            None => "all readable".to_owned(),
            Some(first) => format!(
                "{} damaged, first {}: {}",
                problems.len(),
                first.path.display(),
                first.problem
            ),
        };
        Check::new("records", when(problems.is_empty(), Health::Bad), found)
            .remedy("restore the file from a backup, or move it away")
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
            return vec![Check::new(
                "network",
                Health::Good,
                "bridges, taps and rules are as they should be",
            )];
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

fn kvm_device() -> Check {
    let found = match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok("/dev/kvm can be opened (whether it runs guests is proven by 'mvm bootstrap')"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err("/dev/kvm not found".to_owned())
        }
        Err(error) => Err(format!("/dev/kvm: {error}")),
    };
    let health = when(found.is_ok(), Health::Warning);
    let text = found.map_or_else(|text| text, str::to_owned);
    Check::new("kvm", health, text)
        .remedy("enable virtualisation in the firmware, or nested virtualisation in the outer hypervisor; mvm emulates meanwhile")
        .mandatory()
}

fn cgroup_v2() -> Check {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let lacks: Vec<_> = ["cpu", "io", "memory", "pids"]
        .into_iter()
        .filter(|name| !controllers.split_whitespace().any(|have| have == *name))
        .collect();
    let found = match lacks.is_empty() {
        true => format!("controllers: {}", controllers.trim()),
        false => format!("cgroup v2 lacks: {}", lacks.join(", ")),
    };
    Check::new("cgroup v2", when(lacks.is_empty(), Health::Warning), found)
        .remedy("boot with systemd.unified_cgroup_hierarchy=1; without it VMs run without limits")
        .mandatory()
}

fn nftables() -> Check {
    let found = mvm_host::packages::find_program("nft");
    let text = found
        .as_ref()
        .map_or_else(|| "nft is not installed".to_owned(), |path| path.display().to_string());
    Check::new("nftables", when(found.is_some(), Health::Bad), text)
        .remedy("mvm bootstrap")
        .mandatory()
}

fn netlink() -> Check {
    let tun = Path::new("/dev/net/tun").exists();
    let text = if tun { "/dev/net/tun is there" } else { "/dev/net/tun is missing" };
    Check::new("base networking", when(tun, Health::Bad), text).remedy("modprobe tun").mandatory()
}

fn swap() -> Check {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let count = swaps.lines().skip(1).count();
    let text =
        if count == 0 { "none".to_owned() } else { format!("{count} swap areas are active") };
    Check::new("swap", when(count == 0, Health::Warning), text)
        .remedy("guests' memory can reach the disk: turn swap off or encrypt it")
}

/// Whether the file system below `path` is on a dm-crypt device, directly or through others.
fn is_encrypted(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = path.metadata() else { return false };
    let (major, minor) = (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()));
    is_crypt_device(&Path::new("/sys/dev/block").join(format!("{major}:{minor}")), 8)
}

fn is_crypt_device(device: &Path, depth: u8) -> bool {
    let uuid = fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
    if uuid.starts_with("CRYPT-") || depth == 0 {
        return depth > 0;
    }
    let below = fs::read_dir(device.join("slaves")).into_iter().flatten().flatten();
    let mut below = below.map(|entry| entry.path()).peekable();
    below.peek().is_some() && below.all(|device| is_crypt_device(&device, depth - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_good_needs_no_remedy() {
        assert!(Check::new("x", Health::Good, "fine").remedy("nothing").remedy.is_none());
        assert!(Check::new("x", Health::Bad, "broken").remedy("mend it").remedy.is_some());
    }

    #[test]
    fn production_names_each_missing_thing() {
        let error =
            refuse(&["kvm: /dev/kvm not found".into(), "cgroup v2: lacks cpu".into()]).unwrap_err();
        assert_eq!(error.kind.exit_code(), 4);
        assert!(
            error.message.contains("/dev/kvm not found") && error.message.contains("lacks cpu")
        );
        assert!(refuse(&[]).is_ok());
    }

    #[test]
    fn encryption_is_found_through_stacked_devices() {
        let dir = tempfile::tempdir().unwrap();
        let (top, below) = (dir.path().join("dm-1"), dir.path().join("dm-1/slaves/dm-0"));
        fs::create_dir_all(below.join("dm")).unwrap();
        fs::create_dir_all(top.join("dm")).unwrap();
        fs::write(top.join("dm/uuid"), "LVM-x").unwrap();
        assert!(!is_crypt_device(&top, 8));
        fs::write(below.join("dm/uuid"), "CRYPT-LUKS2-x").unwrap();
        assert!(is_crypt_device(&top, 8));
    }
}
