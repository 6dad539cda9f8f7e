//! The host VM itself: that it is a host as users have them, that a real Firecracker runs real
//! guests there in the shape the product uses, and that its power cuts are honest.
//!
//! One machine serves all scenarios; the last ones reboot it and cut its power.

#[path = "../common/mod.rs"]
mod common;
#[path = "hostvm/confined.rs"]
mod confined;
#[path = "hostvm/firecracker.rs"]
mod firecracker;
#[path = "../common/hostvm/mod.rs"]
#[allow(dead_code, reason = "not every binary says every word")]
mod hostvm;
#[path = "hostvm/instance.rs"]
mod instance;
#[path = "hostvm/network.rs"]
mod network;
#[path = "hostvm/power.rs"]
mod power;
#[path = "hostvm/product.rs"]
mod product;

use std::process::ExitCode;

use common::Outcome;
use common::harness::Place;
use common::world::told;
use hostvm::{HostVm, PowerCut};

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "--shell") {
        return by_hand();
    }
    common::main::<HostVm>(
        "hostvm",
        &[
            ("boot_a_host_with_systemd", boot_a_host_with_systemd),
            ("this_build_is_installed", product::this_build_is_installed),
            (
                "doctor_explains_which_firecracker_is_run",
                product::doctor_explains_which_firecracker_is_run,
            ),
            ("a_directory_is_all_bootstrap_takes", product::a_directory_is_all_bootstrap_takes),
            ("a_jailed_vm_is_a_unit", firecracker::a_jailed_vm_is_a_unit),
            ("an_instance_runs_as_a_unit", instance::an_instance_runs_as_a_unit),
            ("every_thread_of_the_vmm_is_confined", confined::every_thread_of_the_vmm_is_confined),
            (
                "a_paused_guest_answers_after_its_resume",
                instance::a_paused_guest_answers_after_its_resume,
            ),
            (
                "a_guest_whose_processor_shuts_down_has_failed",
                instance::a_guest_whose_processor_shuts_down_has_failed,
            ),
            ("three_sleeps_lose_nothing", instance::three_sleeps_lose_nothing),
            ("limits_hold", instance::limits_hold),
            (
                "without_systemd_the_jailer_sets_the_limits",
                instance::without_systemd_the_jailer_sets_the_limits,
            ),
            (
                "a_killed_agent_and_a_killed_supervisor_are_survived",
                instance::a_killed_agent_and_a_killed_supervisor_are_survived,
            ),
            ("two_tenants_run_side_by_side", network::two_tenants_run_side_by_side),
            ("forged_frames_end_at_the_tap", network::forged_frames_end_at_the_tap),
            (
                "a_snapshot_of_another_processor_is_not_resumed",
                network::a_snapshot_of_another_processor_is_not_resumed,
            ),
            ("a_minute_later_all_is_in_its_place", network::a_minute_later_all_is_in_its_place),
            (
                "a_stopped_slice_takes_nobody_elses_vm",
                network::a_stopped_slice_takes_nobody_elses_vm,
            ),
            ("a_reboot_is_another_boot", power::a_reboot_is_another_boot),
            ("a_power_cut_takes_what_was_not_synced", power::a_power_cut_takes_what_was_not_synced),
            ("a_cache_with_a_battery_keeps_it", power::a_cache_with_a_battery_keeps_it),
            (
                "what_was_acknowledged_outlives_every_cut",
                power::what_was_acknowledged_outlives_every_cut,
            ),
            ("an_ended_instance_leaves_nothing", instance::an_ended_instance_leaves_nothing),
        ],
    )
}

/// `cargo test --test vm_hostvm -- --shell`: a host VM to try things in. Every line is a script
/// for its shell; `!cut`, `!keep`, `!reboot`, `!collect` and `!put FILE PATH` are the fixture's
/// own words.
fn by_hand() -> ExitCode {
    let host = match HostVm::boot("by-hand") {
        Ok(host) => host,
        Err(why) => {
            eprintln!("no host VM: {why}");
            return ExitCode::FAILURE;
        }
    };
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["!put", file, path] = words[..] {
            host.write(path, 0o755, &std::fs::read(file).expect("a file of this machine"));
            continue;
        }
        match line.trim() {
            "!cut" => host.cut_power_and_boot(PowerCut::LosesUnflushed),
            "!keep" => host.cut_power_and_boot(PowerCut::KeepsUnflushed),
            "!reboot" => host.reboot(),
            "!collect" => println!("{}", host.collect("by-hand").display()),
            script => println!("{}", told(&host.run(&["sh", "-c", script]))),
        }
    }
    host.leave();
    ExitCode::SUCCESS
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
