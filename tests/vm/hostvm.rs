//! The host VM itself: that it is a host as users have them, that a real Firecracker runs real
//! guests there in the shape the product uses, and that its power cuts are honest.
//!
//! One machine serves all scenarios; the last ones reboot it and cut its power.

#[path = "../common/mod.rs"]
mod common;
#[path = "hostvm/firecracker.rs"]
mod firecracker;
#[path = "../common/hostvm/mod.rs"]
#[allow(dead_code, reason = "not every binary says every word")]
mod hostvm;
#[path = "hostvm/power.rs"]
mod power;
#[path = "hostvm/product.rs"]
mod product;

use std::process::ExitCode;

use common::Outcome;
use hostvm::HostVm;

fn main() -> ExitCode {
    common::main::<HostVm>(
        "hostvm",
        &[
            ("boot_a_host_with_systemd", boot_a_host_with_systemd),
            ("this_build_is_installed", product::this_build_is_installed),
            ("doctor_and_bootstrap_speak", product::doctor_and_bootstrap_speak),
            ("a_bare_firecracker_runs_a_guest", firecracker::a_bare_firecracker_runs_a_guest),
            ("a_jailed_firecracker_runs_a_guest", firecracker::a_jailed_firecracker_runs_a_guest),
            ("a_jailed_vm_is_a_unit", firecracker::a_jailed_vm_is_a_unit),
            ("a_reboot_is_another_boot", power::a_reboot_is_another_boot),
            ("a_power_cut_takes_what_was_not_synced", power::a_power_cut_takes_what_was_not_synced),
            ("a_cache_with_a_battery_keeps_it", power::a_cache_with_a_battery_keeps_it),
        ],
    )
}

/// Debian 12 as its users have it: systemd, cgroup v2 with every controller, KVM, tun.
fn boot_a_host_with_systemd(host: &HostVm) -> Outcome {
    assert_eq!(host.sh("systemctl is-system-running || true"), "running");
    assert!(host.sh("uname -r").starts_with("6.1."));
    let controllers = host.text("/sys/fs/cgroup/cgroup.controllers");
    for controller in ["cpuset", "cpu", "io", "memory", "pids"] {
        assert!(controllers.split(' ').any(|it| it == controller), "{controllers}");
    }
    // Opening it needs a processor that can; a file of that name is not enough.
    host.sh(": <> /dev/kvm; : <> /dev/net/tun");
    assert_eq!(host.sh("ls /sys/class/net"), "lo");
    Outcome::Passed
}
