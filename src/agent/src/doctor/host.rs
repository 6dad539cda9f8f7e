//! The posture of a host that runs strangers' guests: what its kernel and its administrator leave
//! open between them.
//!
//! ```text
//! Facts::read ─▶ Facts ─▶ one pure function a check ─▶ [Check] ─▶ waive ─▶ shown, insisted on
//! ```
//!
//! What a host cannot or will not have is waived by name in `host.json`; that is the record of it,
//! and the check says so.

mod facts;

use std::path::Path;

use mvm_api::node::{Check, Health};
use serde::Deserialize;

use super::when;
use crate::service::Service;
pub(super) use facts::{Facts, Place};

/// Host kernels the makers of the Firecracker we run test it on, as far as the second number.
const TESTED_KERNELS: [(u32, u32); 2] = [(5, 10), (6, 1)];

/// KVM's own shortest period of a guest's timer, microseconds.
const LEAST_TIMER_US: u32 = 200;

/// Kernel settings, and from which value on they are as they should be.
const SETTINGS: [(&str, i64); 8] = [
    ("kernel.yama.ptrace_scope", 1),
    ("kernel.dmesg_restrict", 1),
    ("kernel.kptr_restrict", 1),
    ("kernel.unprivileged_bpf_disabled", 1),
    ("fs.protected_hardlinks", 1),
    ("fs.protected_symlinks", 1),
    ("fs.protected_fifos", 1),
    ("fs.protected_regular", 1),
];

/// What `bootstrap --production` does not insist on here, because `host.json` says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waiver {
    /// Pages of guests are merged.
    SamePageMerging,
    /// Memory may be swapped out.
    Swap,
    /// Two tenants may share a core at the same time.
    Smt,
    /// The processor leaks.
    Vulnerabilities,
    /// State is not encrypted.
    Encryption,
    /// A crash may write memory to disk.
    CoreDumps,
}

impl Waiver {
    /// The check it is about.
    fn check(self) -> &'static str {
        match self {
            Self::SamePageMerging => "same-page merging",
            Self::Swap => "swap",
            Self::Smt => "smt",
            Self::Vulnerabilities => "vulnerabilities",
            Self::Encryption => "encryption",
            Self::CoreDumps => "core dumps",
        }
    }
}

/// Marks what is waived: still shown, not insisted on.
pub(super) fn waive(checks: &mut [Check], waivers: &[Waiver]) {
    for check in checks.iter_mut().filter(|check| check.health != Health::Good) {
        if waivers.iter().any(|waiver| waiver.check() == check.name) {
            check.mandatory = false;
            check.found.push_str(" (waived in host.json)");
        }
    }
}

/// Every check of the posture.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    vec![
        same_page_merging(facts),
        smt(facts),
        vulnerabilities(facts),
        host_kernel(facts),
        huge_pages(facts),
        guest_timers(facts),
        core_dumps(facts),
        kernel_settings(facts),
        ownership(&facts.places),
        time_sync(facts),
    ]
}

fn same_page_merging(facts: &Facts) -> Check {
    let off = matches!(facts.ksm.as_deref(), None | Some("0"));
    let found = if off { "off" } else { "on: a guest can find out what others have in memory" };
    Check::new("same-page merging", when(off, Health::Warning), found)
        .remedy("echo 2 >/sys/kernel/mm/ksm/run, and keep ksmd or ksmtuned from starting")
        .mandatory()
}

fn smt(facts: &Facts) -> Check {
    let off = facts.smt_active.as_deref() != Some("1");
    let found = if off { "off" } else { "on: tenants that share a core can watch each other" };
    Check::new("smt", when(off, Health::Warning), found)
        .remedy("echo off >/sys/devices/system/cpu/smt/control, or nosmt for the kernel; with one tenant only, waive it in host.json: \"waive\": [\"smt\"]")
        .mandatory()
}

fn vulnerabilities(facts: &Facts) -> Check {
    let open = facts.vulnerabilities.iter().filter(|(_, state)| state.starts_with("Vulnerable"));
    let open: Vec<_> = open.map(|(name, _)| name.as_str()).collect();
    let found = match &open[..] {
        [] => "none the kernel knows of".to_owned(),
        some => format!("the kernel knows of: {}", some.join(", ")),
    };
    Check::new("vulnerabilities", when(open.is_empty(), Health::Warning), found)
        .remedy("install the processor's microcode and leave mitigations on")
        .mandatory()
}

fn host_kernel(facts: &Facts) -> Check {
    let mut numbers = facts.release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let tested = TESTED_KERNELS.contains(&version);
    let release = &facts.release;
    let found = match tested {
        true => format!("{release}, which Firecracker is tested on"),
        false => format!("{release}: Firecracker's makers test it on 5.10 and 6.1"),
    };
    Check::new("host kernel", when(tested, Health::Warning), found).remedy(
        "run a kernel of these series where you can; what was proven by 'mvm bootstrap' holds here",
    )
}

/// Costs every start time for a fault this processor does not have.
fn huge_pages(facts: &Facts) -> Check {
    let spared = facts
        .vulnerabilities
        .iter()
        .any(|(name, state)| name == "itlb_multihit" && state == "Not affected");
    let split = matches!(facts.nx_huge_pages.as_deref(), Some("Y" | "force"));
    let good = !(spared && split) || facts.favours_dynamic_groups;
    let found = if good { "no time is lost" } else { "starts wait for a mitigation nobody needs" };
    Check::new("huge pages", when(good, Health::Warning), found)
        .remedy("load kvm with nx_huge_pages=never, or mount cgroup2 with favordynmods")
}

/// A thread of the kernel's serves a guest's timer chip, outside of every limit of its VM.
fn guest_timers(facts: &Facts) -> Check {
    let good = facts.least_timer_us.is_none_or(|least| least >= LEAST_TIMER_US);
    let found = match good {
        true => "none can keep the kernel busy",
        false => "a guest's can keep the kernel busy outside of the VM's limits",
    };
    Check::new("guest timers", when(good, Health::Warning), found)
        .remedy("take min_timer_period_us from the options of the module kvm, and load it again")
}

/// The guests' own memory is never dumped: mvm starts each VMM with an empty filter for that.
fn core_dumps(facts: &Facts) -> Check {
    let pattern = facts.core_pattern.trim();
    let (program, to_program) = match pattern.strip_prefix('|') {
        Some(program) => (program.split(' ').next().unwrap_or_default(), true),
        None => (pattern, false),
    };
    // The limit counts for files only: a program gets everything.
    let good = match to_program {
        false => program.is_empty() || facts.core_limit == 0,
        true => program.ends_with("/false") || facts.coredump_keeps_nothing,
    };
    let found = match (good, to_program) {
        (true, _) => "mvm's memory is not written anywhere".to_owned(),
        (false, true) => {
            format!("{program} gets mvm's memory when it crashes, and secrets with it")
        }
        (false, false) => "a crash of mvm writes its memory to disk, and secrets with it".into(),
    };
    Check::new("core dumps", when(good, Health::Warning), found)
        .remedy("sysctl kernel.core_pattern='|/bin/false', or Storage=none and ProcessSizeMax=0 for systemd-coredump")
        .mandatory()
}

fn kernel_settings(facts: &Facts) -> Check {
    let value = |name: &str| facts.settings.iter().find(|(known, _)| known == name).map(|it| it.1);
    // One the kernel does not have guards something it does not have either.
    let weak = SETTINGS.iter().filter(|(name, least)| value(name).is_some_and(|it| it < *least));
    let mut weak: Vec<_> = weak.map(|(name, least)| format!("{name}={least}")).collect();
    if value("vm.unprivileged_userfaultfd").is_some_and(|it| it != 0) {
        weak.push("vm.unprivileged_userfaultfd=0".into());
    }
    let found = match &weak[..] {
        [] => "as they should be".to_owned(),
        some => format!("better: {}", some.join(" ")),
    };
    Check::new("kernel settings", when(weak.is_empty(), Health::Warning), found)
        .remedy("sysctl -w each of them, and keep them in /etc/sysctl.d/")
}

/// Whoever can replace what root runs or reads is root.
fn ownership(places: &[Place]) -> Check {
    let open = places.iter().find(|place| {
        // In a directory like /tmp nobody can rename what is another's.
        place.uid != 0 || (place.mode & 0o022 != 0 && place.mode & 0o1000 == 0)
    });
    let found = match open {
        None => "programs and state are root's, and so is the way to them".to_owned(),
        Some(place) => format!("{} can be changed by others than root", place.path.display()),
    };
    Check::new("ownership", when(open.is_none(), Health::Warning), found)
        .remedy("chown root and chmod go-w what is named, or keep mvm elsewhere")
        .mandatory()
}

fn time_sync(facts: &Facts) -> Check {
    let (health, found) = match facts.is_time_synced {
        true => (Health::Good, "the kernel's clock is kept right"),
        false => (Health::Warning, "nobody keeps the clock right"),
    };
    Check::new("time sync", health, found)
        .remedy("run chrony or systemd-timesyncd: certificates and guests need the right time")
}

impl Service {
    /// Adds the checks of the posture, and waives what the host's settings do.
    pub(super) fn posture(&self, mut checks: Vec<Check>) -> Vec<Check> {
        let dirs = &self.dirs;
        let paths = [&dirs.state, &dirs.run, &dirs.config, &self.exe];
        let found = facts(paths.map(|path| path.as_path()));
        checks.extend(self::checks(&found));
        // Settings that cannot be read waive nothing, and have a check of their own.
        waive(&mut checks, &self.settings().unwrap_or_default().waive);
        checks
    }
}

/// The facts of this host; `paths` are programs and directories of mvm's.
pub(super) fn facts<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Facts {
    let names = SETTINGS.iter().map(|(name, _)| *name).chain(["vm.unprivileged_userfaultfd"]);
    Facts::read(Path::new("/"), names, paths)
}

#[cfg(test)]
mod tests;
