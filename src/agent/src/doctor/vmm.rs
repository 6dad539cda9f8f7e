//! The production VMM: whether it is there, whether it is a build we run, who vouches for it, and
//! what its VMs are limited by.

use std::fs;

use mvm_vmm::firecracker::{ALLOWED, Binaries, NotAllowed, Origin};
use mvm_vmm::systemd;

use super::{Check, Health};
use crate::launch::CONTROLLERS;
use crate::service::Service;
use crate::settings::{LimitsPolicy, Settings};

/// How a build one trusts is made known.
const TRUST: &str = "compare both SHA-256 with their publisher's, then name them in host.json: \
                     firecracker_digests";

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
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
        let limits = limits(&settings, systemd::is_running(), &controllers.unwrap_or_default());
        vec![firecracker(&found, &settings), limits]
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
    let (health, vouched) = match binaries.origins(&settings.firecracker_digests) {
        [Origin::Unlisted, _] => (Health::Warning, "unlisted: nobody vouches for this build"),
        [_, Origin::Unlisted] => {
            (Health::Warning, "its jailer is unlisted: nobody vouches for that build")
        }
        [Origin::Published, Origin::Published] => (Health::Good, "its publisher's build"),
        [_, _] => (Health::Good, "a build this host trusts"),
    };
    let found = format!(
        "{} at {}, {vouched}; sha256 {}, of its jailer {}",
        binaries.version,
        binaries.firecracker.display(),
        binaries.digest,
        binaries.jailer_digest
    );
    Check::new("firecracker", health, found).remedy(TRUST).mandatory()
}

/// systemd makes a unit without the controllers too, and leaves out what it cannot limit.
fn limits(settings: &Settings, systemd: bool, controllers: &str) -> Check {
    let has = |name: &str| controllers.split_whitespace().any(|have| have == name);
    let lacks: Vec<_> = CONTROLLERS.into_iter().filter(|name| !has(name)).collect();
    let remedy = match settings.limits {
        LimitsPolicy::None => {
            "take 'limits' away from host.json, or MVM_LIMITS from the environment"
        }
        LimitsPolicy::Required => {
            "boot with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable="
        }
    };
    let (health, found) = match (settings.limits, &lacks[..], systemd) {
        (LimitsPolicy::None, ..) => {
            (Health::Warning, "VMs are started without limits: this host's settings say so".into())
        }
        (LimitsPolicy::Required, [], true) => {
            (Health::Good, "each VM is a unit of systemd's".into())
        }
        (LimitsPolicy::Required, [], false) => {
            (Health::Good, "each VM has a control group of its own".into())
        }
        (LimitsPolicy::Required, lacks, _) => {
            let lacks = lacks.join(", ");
            (Health::Warning, format!("cgroup v2 lacks {lacks}: no Firecracker is started"))
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
            jailer_digest: Digest::of(b"its jailer"),
        }
    }

    #[test]
    fn a_build_nobody_vouches_for_keeps_a_host_from_production() {
        let check = firecracker(&Ok(binaries()), &Settings::default());
        assert!(check.mandatory && check.health == Health::Warning);
        assert!(check.found.contains("unlisted"));
        let naming = |firecracker_digests| {
            let trusted = Settings { firecracker_digests, ..Settings::default() };
            firecracker(&Ok(binaries()), &trusted)
        };
        let half = naming(vec![binaries().digest]);
        assert_eq!(half.health, Health::Warning);
        assert!(half.found.contains("its jailer is unlisted"), "{}", half.found);
        assert_eq!(naming(vec![binaries().jailer_digest]).health, Health::Warning);
        let both = naming(vec![binaries().digest, binaries().jailer_digest]);
        assert_eq!(both.health, Health::Good);
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
        let all = "cpuset cpu io memory pids\n";
        let none = Settings { limits: LimitsPolicy::None, ..Settings::default() };
        let check = limits(&none, true, all);
        assert!(check.mandatory && check.health == Health::Warning);
        for systemd in [true, false] {
            assert_eq!(limits(&Settings::default(), systemd, all).health, Health::Good);
        }
    }

    #[test]
    fn a_unit_limits_nothing_where_the_kernel_cannot() {
        // The last is what `cgroup_disable=memory` leaves; "cpuset" is not "cpu".
        for (controllers, lacks) in
            [("", "cpu, memory, pids"), ("cpuset memory pids", "cpu"), ("cpu io pids", "memory")]
        {
            let check = limits(&Settings::default(), true, controllers);
            assert_eq!(check.health, Health::Warning, "{controllers}");
            assert!(check.found.contains(&format!("lacks {lacks}:")), "{}", check.found);
        }
    }
}
