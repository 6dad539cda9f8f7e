//! Every failpoint of every change of an instance, a pool and a tenant, with an error, a panic and
//! kill -9: afterwards the same command again ends it, nothing is left, and nothing is lost.
//!
//! ```text
//! a cycle of commands, over and over:   sleep ─▶ wake ─▶ sleep ─▶ …
//!   each time   a place nobody failed at yet ─ the command fails there ─ the same command again
//!               ─ the invariants of left.rs
//! ```
//!
//! Which places there are is found out by running each command once and looking which failpoints it
//! comes to. The VMM is the fake Firecracker in the jail of the real jailer: a process that keeps
//! Firecracker's rules and tells when a guest begins to execute, and with which memory. Twenty
//! places are tried with guests under QEMU too (guests.rs).
//!
//! Parts run as processes of their own, two at a time, each on a host of its own.

#[path = "../common/mod.rs"]
mod common;
#[path = "failpoints/cycles.rs"]
mod cycles;
#[path = "failpoints/daemon.rs"]
mod daemon;
#[path = "failpoints/guests.rs"]
mod guests;
#[path = "failpoints/host.rs"]
mod host;
#[path = "failpoints/left.rs"]
mod left;
#[path = "failpoints/places.rs"]
mod places;
#[path = "failpoints/tries.rs"]
mod tries;
#[path = "failpoints/twice.rs"]
mod twice;
#[path = "failpoints/witness.rs"]
mod witness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitCode};

use common::harness::Scenario;
use host::{Fake, Guests};
use mvm_model::failpoint::Failpoint;

const PART: &str = "MVM_TEST_FAULT_PART";
const PASSED: &str = "MVM_TEST_FAULT_PASSED";

/// What runs beside each other; the last has the machine for itself.
const TOGETHER: [&str; 2] = ["sleepers", "others"];
const ALONE: [&str; 1] = ["guests"];

const SLEEPERS: &[Scenario<Fake>] = &[
    ("sleep_and_wake", cycles::sleep_and_wake),
    ("pause_and_resume", cycles::pause_and_resume),
    ("settled_at_last", twice::settled_at_last),
    ("start_and_stop", cycles::start_and_stop),
    ("tenants", cycles::tenants),
];

const OTHERS: &[Scenario<Fake>] = &[
    ("sleep_from_warm_and_wake_without_a_vmm_ahead", cycles::from_warm),
    ("stop_asleep", cycles::stop_asleep),
    ("secrets_and_drives", cycles::secrets_and_drives),
    ("pools_and_instances", cycles::pools_and_instances),
    ("a_panic_stays_with_its_operation", daemon::a_panic_stays_with_its_operation),
];

const GUESTS: &[Scenario<Guests>] =
    &[("boot_and_killed_at_twenty_places", guests::killed_at_twenty_places)];

fn main() -> ExitCode {
    match std::env::var(PART).as_deref() {
        Err(_) => conduct(),
        Ok("sleepers") => common::main("fault", SLEEPERS),
        Ok("others") => common::main("fault", OTHERS),
        Ok("guests") => common::main("fault", GUESTS),
        Ok(other) => panic!("there is no part {other}"),
    }
}

/// Runs the parts and holds what they came to against all failpoints there are.
fn conduct() -> ExitCode {
    let passed = common::world::cache_dir().join(format!("fault-{}", std::process::id()));
    let mut is_good = TOGETHER
        .map(|part| start(part, &passed))
        .into_iter()
        .map(finish)
        .fold(true, |all, one| all & one);
    for part in ALONE {
        is_good &= finish(start(part, &passed));
    }
    if is_good && std::env::args().skip(1).all(|arg| arg.starts_with('-')) {
        is_good = every_failpoint_is_passed(&passed);
    }
    let _ = fs::remove_file(&passed);
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start(part: &str, passed: &Path) -> Child {
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args().skip(1)).env(PART, part).env(PASSED, passed);
    command.spawn().expect("a part starts")
}

fn finish(mut part: Child) -> bool {
    part.wait().expect("a part ends").success()
}

/// A failpoint that nothing here comes to would be one nobody ever tried.
fn every_failpoint_is_passed(passed: &Path) -> bool {
    let Ok(text) = fs::read_to_string(passed) else {
        // Everything was skipped.
        return true;
    };
    let passed: BTreeSet<Failpoint> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let missed: Vec<_> = Failpoint::all().filter(|failpoint| !passed.contains(failpoint)).collect();
    let missed: Vec<_> = missed.iter().map(ToString::to_string).collect();
    let verdict = if missed.is_empty() { "ok" } else { "FAILED" };
    println!("test fault::every_failpoint_is_passed ... {verdict} {}", missed.join(" "));
    println!(
        "test result: {verdict}. {} passed; {} failed; 0 ignored",
        u8::from(missed.is_empty()),
        u8::from(!missed.is_empty())
    );
    missed.is_empty()
}
