//! `mvm node …`: this host.

mod disk;
mod gc;
mod info;
mod stats;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use mvm_model::state::Status;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what this host is and what it gave to guests
    Info(info::Args),
    /// Show what this host and its tenants use now
    Stats(stats::Args),
    /// Show what takes space, and what 'node gc' would free
    Disk(disk::Args),
    /// Remove what no instance and no snapshot needs
    Gc(gc::Args),
}

/// Runs a verb.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Info(args) => info::run(args),
        Command::Stats(args) => stats::run(args),
        Command::Disk(args) => disk::run(args),
        Command::Gc(args) => gc::run(args),
    }
}

/// `2 running, 1 sleeping`.
fn counted(instances: &BTreeMap<Status, usize>) -> String {
    let counts: Vec<_> =
        instances.iter().map(|(status, count)| format!("{count} {status}")).collect();
    if counts.is_empty() { "none".into() } else { counts.join(", ") }
}
