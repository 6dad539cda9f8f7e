//! The agent as a daemon, with real guests: commands through its socket, its loop, its file,
//! and what is true when it is killed.

#[path = "agent/callers.rs"]
mod callers;
#[path = "../common/mod.rs"]
mod common;
#[path = "agent/daemon.rs"]
mod daemon;
#[path = "agent/declared.rs"]
mod declared;
#[path = "agent/ends.rs"]
mod ends;
#[path = "agent/people.rs"]
mod people;
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
            (
                "what_ends_by_itself_is_told_and_comes_back",
                ends::what_ends_by_itself_is_told_and_comes_back,
            ),
            ("whoever_is_cut_off_is_told_why", ends::whoever_is_cut_off_is_told_why),
            ("a_start_can_be_called_off", ends::a_start_can_be_called_off),
            ("a_file_is_applied_when_it_changes", rounds::a_file_is_applied_when_it_changes),
            ("an_intent_of_nix_is_applied", declared::an_intent_of_nix_is_applied),
            ("a_file_is_checked_without_serving", declared::a_file_is_checked_without_serving),
            ("what_people_have_open_drains", rounds::what_people_have_open_drains),
            ("a_caller_that_leaves_stops_nothing", callers::a_caller_that_leaves_stops_nothing),
            ("there_is_one_agent", callers::there_is_one_agent),
            ("only_the_group_may_ask", callers::only_the_group_may_ask),
            ("two_people_at_two_terminals", people::two_people_at_two_terminals),
            ("two_people_and_an_agent", people::two_people_and_an_agent),
            ("who_is_at_it_is_named", people::who_is_at_it_is_named),
            ("killed_it_leaves_everything_running", rounds::killed_it_leaves_everything_running),
            ("the_service_manager_hears_of_it", callers::the_service_manager_hears_of_it),
        ],
    )
}
