//! The smoke test of the user's own document: its commands as written, from the checkout's root,
//! on real guests, with every "Expected" checked; in a fresh state directory, then once more in
//! the same one.
//!
//! Lines in backticks of that document are lines here. The second pass has `hello` where the
//! first has `openclaw`. Section 3's three `new` lines are alternatives: the first makes
//! `smoke-app`, on it the others are refused; the second alone has a world of its own.

#[path = "../common/mod.rs"]
mod common;
#[path = "smoke/granular.rs"]
mod granular;
#[path = "smoke/onboarding.rs"]
mod onboarding;
#[path = "smoke/operations.rs"]
mod operations;
#[path = "smoke/shell.rs"]
mod shell;
#[path = "smoke/trouble.rs"]
mod trouble;

use std::process::ExitCode;

use common::harness::OwnImages;
use common::{Outcome, World};
use shell::{Pass, Shell};

fn main() -> ExitCode {
    let whole = common::main::<OwnImages>(
        "smoke",
        &[
            ("sections_1_to_4", |world| first_half(world, Pass::OpenClaw)),
            ("sections_5_to_13", |world| second_half(world, Pass::OpenClaw)),
            ("sections_1_to_4_again", |world| first_half(world, Pass::Hello)),
            ("sections_5_to_13_again", |world| second_half(world, Pass::Hello)),
            ("troubleshooting_hints_are_found", |world| trouble::hints_are_found(world)),
        ],
    );
    // A world of its own, entered when the other is left.
    let alone = common::main::<World>(
        "smoke-alone",
        &[("new_with_explicit_network_alone", onboarding::new_with_explicit_network)],
    );
    if whole == ExitCode::SUCCESS { alone } else { whole }
}

/// Why a pass cannot run here: its images are not there and there is no network in a world.
fn lacks(world: &World, pass: Pass) -> Option<Outcome> {
    let (profile, roles) = match pass {
        Pass::OpenClaw => ("openclaw", ["gateway", "worker"]),
        Pass::Hello => ("hello", ["gateway", "worker"]),
    };
    let missing = roles.iter().any(|role| !world.fixtures_have_image(profile, role));
    missing.then(|| Outcome::Skipped(format!("no image of {profile} could be built here")))
}

fn first_half(world: &World, pass: Pass) -> Outcome {
    if let Some(skipped) = lacks(world, pass) {
        return skipped;
    }
    if pass == Pass::Hello {
        // The first pass has collected what it did not need itself.
        world.restock();
    }
    let mut shell = Shell::new(world, pass);
    onboarding::section_1_dev_mode(&mut shell);
    onboarding::section_2_add_host(&mut shell);
    onboarding::section_3_new_deployment(&mut shell);
    onboarding::section_4_connect(&mut shell);
    Outcome::Passed
}

fn second_half(world: &World, pass: Pass) -> Outcome {
    if let Some(skipped) = lacks(world, pass) {
        return skipped;
    }
    let mut shell = Shell::new(world, pass);
    granular::section_5_tenant(&mut shell);
    granular::section_6_pool(&mut shell);
    granular::section_7_instance(&mut shell);
    granular::section_8_sleep_and_wake(&mut shell);
    operations::section_9_reconcile(&mut shell);
    operations::section_11_bridges(&mut shell);
    operations::section_12_operational(&mut shell);
    operations::section_13_teardown(&mut shell);
    Outcome::Passed
}
