//! Runs scenarios in order and reports like `cargo test`, with skips that say why.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use super::World;
use super::world::Images;

/// How a scenario ended, if it did not panic.
#[allow(dead_code, reason = "not every binary skips or types")]
pub enum Outcome {
    /// It held.
    Passed,
    /// It cannot run here.
    Skipped(String),
}

/// Where scenarios run: entered once for all of them.
pub trait Place: Sized {
    /// Goes there, or says why nobody can here.
    fn enter(name: &str) -> Result<Self, String>;

    /// A scenario failed: whatever tells why is kept or told.
    fn failed(&self, _scenario: &str) {}

    /// What of the place itself broke under a scenario that failed, when that is whole again: then
    /// the scenario tells nothing and runs once more.
    fn recovered(&self) -> Option<String> {
        None
    }

    /// Goes away and returns what is left that should not be.
    fn leave(self) -> Vec<String>;
}

impl Place for World {
    fn enter(name: &str) -> Result<Self, String> {
        World::enter(name, Images::Shared)
    }

    fn leave(self) -> Vec<String> {
        World::leave(self)
    }
}

/// A world with an image store of its own: for tests that collect garbage.
#[allow(dead_code, reason = "most share one")]
pub struct OwnImages(World);

impl std::ops::Deref for OwnImages {
    type Target = World;
    fn deref(&self) -> &World {
        &self.0
    }
}

impl Place for OwnImages {
    fn enter(name: &str) -> Result<Self, String> {
        World::enter(name, Images::Own).map(Self)
    }

    fn leave(self) -> Vec<String> {
        self.0.leave()
    }
}

/// How often a scenario whose place broke is tried again.
const RECOVERIES: usize = 2;

/// A named scenario.
pub type Scenario<P> = (&'static str, fn(&P) -> Outcome);

/// Runs the scenarios whose name holds one of the arguments (all without arguments).
///
/// A scenario may build on what earlier ones left in the world; with a filter, those marked as
/// foundations (name starting with `boot`) always run.
pub fn main<P: Place>(world: &str, scenarios: &[Scenario<P>]) -> ExitCode {
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || name.starts_with("boot")
            || filters.iter().any(|filter| name.contains(filter.as_str()))
    };
    if !filters.is_empty()
        && !scenarios
            .iter()
            .any(|(name, _)| filters.iter().any(|filter| name.contains(filter.as_str())))
    {
        println!("test result: ok. 0 passed; 0 failed; 0 ignored");
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    match P::enter(world) {
        Err(reason) => {
            for (name, _) in scenarios {
                println!("test {world}::{name} ... skipped: {reason}");
            }
            skipped = scenarios.len();
        }
        Ok(entered) => {
            for (name, scenario) in scenarios.iter().filter(|(name, _)| wanted(name)) {
                let started = Instant::now();
                let run = || catch_unwind(AssertUnwindSafe(|| scenario(&entered)));
                let mut outcome = run();
                for _ in 0..RECOVERIES {
                    if outcome.is_ok() {
                        break;
                    }
                    let Some(broke) = entered.recovered() else { break };
                    println!("{name}: its place broke ({broke}); once more");
                    outcome = run();
                }
                let took = started.elapsed().as_secs_f64();
                if outcome.is_err() {
                    entered.failed(name);
                }
                match outcome {
                    Ok(Outcome::Passed) => {
                        passed += 1;
                        println!("test {world}::{name} ... ok ({took:.1} s)");
                    }
                    Ok(Outcome::Skipped(reason)) => {
                        skipped += 1;
                        println!("test {world}::{name} ... skipped: {reason}");
                    }
                    // Nothing can hold on a foundation that broke: one failure says enough.
                    Err(_) if name.starts_with("boot") => {
                        failed += 1;
                        println!(
                            "test {world}::{name} ... FAILED ({took:.1} s), the others were not tried"
                        );
                        break;
                    }
                    Err(_) => {
                        failed += 1;
                        println!("test {world}::{name} ... FAILED ({took:.1} s)");
                    }
                }
            }
            let left = entered.leave();
            if !left.is_empty() {
                failed += 1;
                println!("test {world}::leaves_nothing_behind ... FAILED\n{}", left.join("\n"));
            } else {
                passed += 1;
                println!("test {world}::leaves_nothing_behind ... ok");
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed; {skipped} ignored");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
