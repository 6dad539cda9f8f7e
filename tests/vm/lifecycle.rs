//! Real guests of two tenants: boot, talk, reach and not reach, pause, sleep, wake, fail.
//!
//! One world serves all scenarios, in order: tenant `aa` has a gateway and two workers with a
//! data drive, tenant `bb` one worker.

#[path = "../common/mod.rs"]
mod common;
#[path = "lifecycle/faults.rs"]
mod faults;
#[path = "lifecycle/guest.rs"]
mod guest;
#[path = "lifecycle/network.rs"]
mod network;
#[path = "lifecycle/setup.rs"]
mod setup;
#[path = "lifecycle/sleep.rs"]
mod sleep;

use std::process::ExitCode;

fn main() -> ExitCode {
    common::main(
        "lifecycle",
        &[
            ("boot_two_tenants", setup::boot_two_tenants),
            ("bad_input_is_refused_by_name", setup::bad_input_is_refused_by_name),
            ("exec_passes_code_streams_and_user", guest::exec_passes_code_streams_and_user),
            ("a_shell_follows_its_terminal", guest::a_shell_follows_its_terminal),
            ("fifty_megabytes_travel_both_ways", guest::fifty_megabytes_travel_both_ways),
            ("a_workload_that_ends_is_started_again", guest::a_workload_that_ends_is_started_again),
            ("neighbours_reach_each_other", network::neighbours_reach_each_other),
            ("tenants_and_host_are_out_of_reach", network::tenants_and_host_are_out_of_reach),
            ("names_and_egress_are_the_tenants_own", network::names_and_egress_are_the_tenants_own),
            ("net_verify_sees_what_was_changed", network::net_verify_sees_what_was_changed),
            ("a_warm_instance_goes_on_where_it_was", sleep::a_warm_instance_goes_on_where_it_was),
            ("three_generations_keep_everything", sleep::three_generations_keep_everything),
            ("a_conversation_outlives_a_sleep", sleep::a_conversation_outlives_a_sleep),
            (
                "secrets_changed_in_sleep_are_there_after_it",
                sleep::secrets_changed_in_sleep_are_there_after_it,
            ),
            (
                "one_snapshot_twice_gives_other_randomness",
                sleep::one_snapshot_twice_gives_other_randomness,
            ),
            ("a_doubtful_snapshot_is_a_cold_boot", faults::a_doubtful_snapshot_is_a_cold_boot),
            ("a_full_disk_calls_the_sleep_off", faults::a_full_disk_calls_the_sleep_off),
            (
                "a_killed_vmm_is_noticed_and_started_again",
                faults::a_killed_vmm_is_noticed_and_started_again,
            ),
            (
                "a_killed_supervisor_is_followed_by_another",
                faults::a_killed_supervisor_is_followed_by_another,
            ),
            (
                "a_killed_command_is_settled_by_the_next",
                faults::a_killed_command_is_settled_by_the_next,
            ),
            ("ctrl_c_leaves_something_true", faults::ctrl_c_leaves_something_true),
            (
                "a_silent_guest_is_an_error_not_a_hang",
                faults::a_silent_guest_is_an_error_not_a_hang,
            ),
            ("two_commands_at_once_do_not_mix", faults::two_commands_at_once_do_not_mix),
            (
                "a_guest_that_turns_itself_off_is_stopped",
                faults::a_guest_that_turns_itself_off_is_stopped,
            ),
            ("a_tampered_image_is_not_booted", faults::a_tampered_image_is_not_booted),
        ],
    )
}
