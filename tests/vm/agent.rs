//! The agent as a daemon, with real guests: commands through its socket, its loop, its file,
//! and what is true when it is killed.

#[path = "agent/callers.rs"]
mod callers;
#[path = "../common/mod.rs"]
mod common;
#[path = "agent/daemon.rs"]
mod daemon;
#[path = "agent/rounds.rs"]
mod rounds;

use std::process::ExitCode;

fn main() -> ExitCode {
    common::main(
        "agent",
        &[
            ("boot_what_scale_asks_for", rounds::boot_what_scale_asks_for),
            ("streams_pass_through_it", callers::streams_pass_through_it),
            ("what_a_person_stopped_stays_so", rounds::what_a_person_stopped_stays_so),
            ("a_file_is_applied_when_it_changes", rounds::a_file_is_applied_when_it_changes),
            ("a_caller_that_leaves_stops_nothing", callers::a_caller_that_leaves_stops_nothing),
            ("there_is_one_agent", callers::there_is_one_agent),
            ("only_the_group_may_ask", callers::only_the_group_may_ask),
            ("killed_it_leaves_everything_running", rounds::killed_it_leaves_everything_running),
            ("the_service_manager_hears_of_it", callers::the_service_manager_hears_of_it),
        ],
    )
}
