//! The document's Troubleshooting table: each symptom provoked, its hint found.

use super::shell::{Pass, Shell, says};
use crate::common::{Outcome, World};

pub fn hints_are_found(world: &World) -> Outcome {
    let shell = Shell::new(world, Pass::Hello);
    connect_without_instances(&shell);
    Outcome::Passed
}

/// `mvm connect` shows no instances: look at the pool.
fn connect_without_instances(shell: &Shell) {
    shell.ok("mvm tenant create quiet");
    shell.ok("mvm pool create quiet/workers --profile minimal");
    says(&shell.both("mvm connect quiet"), &["mvm pool info quiet/workers"]);
    shell.ok("mvm tenant destroy quiet --force");
}
