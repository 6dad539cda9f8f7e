//! The production VMM: whether it is there, whether it is a build we run, who vouches for it, and
//! what its VMs are limited by.

use std::fs;

use mvm_vmm::firecracker::{ALLOWED, Binaries, NotAllowed, Origin};
use mvm_vmm::systemd;

use super::{Check, Health};
use crate::service::Service;
use crate::settings::{LimitsPolicy, Settings};

/// How a build one trusts is made known.
const TRUST: &str =
    "compare its SHA-256 with its publisher's, then name it in host.json: firecracker_digests";

impl Service {
    pub(super) async fn vmm_checks(&self) -> Vec<Check> {
        let settings = match self.settings() {
            Ok(settings) => settings,
            Err(error) => {
                let check = Check::new("settings", Health::Bad, error.chain());
                return vec![check.remedy("mend host.json; until then no VM is started")];
            }
        };
        let found = self.firecracker().await;
        vec![firecracker(&found, &settings), limits(&settings)]
    }
}

fn firecracker(found: &Result<Binaries, NotAllowed>, settings: &Settings) -> Check {
    let binaries = match found {
        Ok(binaries) => binaries,
        Err(error) => {
            let health = match error {
                NotAllowed::NotFound { .. } => Health::Warning,
                _ => Health::Bad,
            };
            let remedy = format!(
                "install version {}: mvm bootstrap --firecracker DIR (the directory with \
                 firecracker and jailer); mvm uses QEMU meanwhile",
                ALLOWED.join(" or ")
            );
            return Check::new("firecracker", health, error.to_string()).remedy(remedy).mandatory();
        }
    };
    let (health, vouched) = match binaries.origin(&settings.firecracker_digests) {
        Origin::Published => (Health::Good, "its publisher's build"),
        Origin::Configured => (Health::Good, "a build this host trusts"),
        Origin::Unlisted => (Health::Warning, "unlisted: nobody vouches for this build"),
    };
    let found = format!(
        "{} at {}, {vouched}; sha256 {}",
        binaries.version,
        binaries.firecracker.display(),
        binaries.digest
    );
    Check::new("firecracker", health, found).remedy(TRUST).mandatory()
}

fn limits(settings: &Settings) -> Check {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let (limits, systemd) = (settings.limits, systemd::is_running());
    let remedy = match limits {
        LimitsPolicy::None => {
            "take 'limits' away from host.json, or MVM_LIMITS from the environment"
        }
        LimitsPolicy::Required => {
            "boot with systemd, or with control groups of version 2 (cpu, memory, pids)"
        }
    };
    let (health, found) = match (limits, systemd) {
        (LimitsPolicy::None, _) => {
            (Health::Warning, "VMs are started without limits: this host's settings say so")
        }
        (LimitsPolicy::Required, true) => (Health::Good, "each VM is a unit of systemd's"),
        (LimitsPolicy::Required, false) if controllers.contains("memory") => {
            (Health::Good, "each VM has a control group of its own")
        }
        (LimitsPolicy::Required, false) => {
            (Health::Warning, "neither systemd nor control groups: no Firecracker is started")
        }
    };
    Check::new("limits", health, found).remedy(remedy).mandatory()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_model::Digest;

    fn binaries() -> Binaries {
        Binaries {
            firecracker: "/usr/bin/firecracker".into(),
            jailer: "/usr/bin/jailer".into(),
            version: "1.15.1".into(),
            digest: Digest::of(b"a build"),
        }
    }

    #[test]
    fn a_build_nobody_vouches_for_keeps_a_host_from_production() {
        let check = firecracker(&Ok(binaries()), &Settings::default());
        assert!(check.mandatory && check.health == Health::Warning);
        assert!(check.found.contains("unlisted"));
        let firecracker_digests = vec![binaries().digest];
        let trusted = Settings { firecracker_digests, ..Settings::default() };
        assert_eq!(firecracker(&Ok(binaries()), &trusted).health, Health::Good);
    }

    #[test]
    fn another_version_is_refused_with_the_reason() {
        let found = Err(NotAllowed::Version { version: "1.16.1".into() });
        let check = firecracker(&found, &Settings::default());
        assert_eq!(check.health, Health::Bad);
        assert!(check.found.contains("bare pause and resume"), "{}", check.found);
        assert!(check.remedy.unwrap().contains("1.15.1"));
    }

    #[test]
    fn production_never_goes_without_limits() {
        let check = limits(&Settings { limits: LimitsPolicy::None, ..Settings::default() });
        assert!(check.mandatory && check.health == Health::Warning);
    }
}
