//! The way from a request to a guest that runs: what waits for it, who goes first, what calls it
//! off. Many VMs and what goes wrong are tried on the fake Firecracker in the real jail, memory
//! that must survive also on guests in QEMU.

#[path = "hotpath/ahead.rs"]
mod ahead;
#[path = "../common/mod.rs"]
mod common;
#[path = "hotpath/fleet.rs"]
mod fleet;
#[path = "hotpath/guest.rs"]
mod guest;
#[path = "hotpath/together.rs"]
mod together;

use std::process::ExitCode;

fn main() -> ExitCode {
    common::main(
        "hotpath",
        &[
            ("boot_a_fleet_of_fakes", fleet::boot_a_fleet_of_fakes),
            ("a_wake_takes_the_vmm_that_waits", ahead::a_wake_takes_the_vmm_that_waits),
            ("a_doubtful_one_costs_only_time", ahead::a_doubtful_one_costs_only_time),
            (
                "a_vmm_killed_at_its_load_costs_no_snapshot",
                ahead::a_vmm_killed_at_its_load_costs_no_snapshot,
            ),
            (
                "a_snapshot_no_vmm_survives_is_given_up",
                ahead::a_snapshot_no_vmm_survives_is_given_up,
            ),
            ("new_secrets_are_never_woken_past", ahead::new_secrets_are_never_woken_past),
            ("nothing_waits_beyond_the_budget", ahead::nothing_waits_beyond_the_budget),
            ("a_killed_sleep_leaves_nothing_wrong", ahead::a_killed_sleep_leaves_nothing_wrong),
            ("an_agent_lets_them_wait_again", ahead::an_agent_lets_them_wait_again),
            ("what_ends_an_instance_ends_what_waits", ahead::what_ends_an_instance_ends_what_waits),
            ("many_wakes_of_one_are_one", together::many_wakes_of_one_are_one),
            ("a_wake_calls_a_sleep_off", together::a_wake_calls_a_sleep_off),
            ("one_that_stays_paused_goes_on_later", together::one_that_stays_paused_goes_on_later),
            ("one_that_ends_on_its_way_has_ended", together::one_that_ends_on_its_way_has_ended),
            (
                "a_burst_of_one_delays_the_other_once",
                together::a_burst_of_one_delays_the_other_once,
            ),
            ("boot_a_guest", guest::boot_a_guest),
            ("a_guest_wakes_in_the_vmm_that_waits", guest::a_guest_wakes_in_the_vmm_that_waits),
            ("a_guest_goes_on_when_its_sleep_is_called_off", guest::a_guest_goes_on),
        ],
    )
}
