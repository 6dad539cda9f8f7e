//! `mvm instance …`

mod adopt;
mod change;
mod cp;
mod create;
mod destroy;
pub mod exec;
pub mod list;
mod logs;
pub mod shell;
mod stats;

use std::process::ExitCode;

use clap::Subcommand;
use mvm_model::state::Verb;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List instances
    List(list::Args),
    /// Create one named instance in a pool; starts nothing
    Create(create::Args),
    /// Boot an instance; wakes it if it is warm or sleeping
    Start(change::Args),
    /// Turn an instance off; its data drive is kept, its snapshot deleted
    Stop(change::Args),
    /// Put an instance to sleep on disk, freeing its memory
    Sleep(change::Args),
    /// Make a warm or sleeping instance run again, with its memory and address
    Wake(change::Args),
    /// Pause an instance, keeping its memory for the fastest wake
    Warm(change::Args),
    /// Open a shell in an instance
    #[command(visible_alias = "ssh")]
    Shell(shell::Args),
    /// Run a command in an instance
    Exec(exec::Args),
    /// Copy a file to or from an instance
    Cp(cp::Args),
    /// Show what an instance's workload or console printed
    Logs(logs::Args),
    /// Show an instance's status, addresses and counters
    Stats(stats::Args),
    /// Take a named instance over from its owner, or hand it over
    Adopt(adopt::Args),
    /// Destroy an instance with its data
    Destroy(destroy::Args),
}

/// Runs a verb.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::List(args) => list::run(args),
        Command::Create(args) => create::run(args),
        Command::Start(args) => change::run(args, Verb::Start),
        Command::Stop(args) => change::run(args, Verb::Stop),
        Command::Sleep(args) => change::run(args, Verb::Sleep),
        Command::Wake(args) => change::run(args, Verb::Wake),
        Command::Warm(args) => change::run(args, Verb::Warm),
        Command::Shell(args) => shell::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Cp(args) => cp::run(args),
        Command::Logs(args) => logs::run(args),
        Command::Stats(args) => stats::run(args),
        Command::Adopt(args) => adopt::run(args),
        Command::Destroy(args) => destroy::run(args),
    }
}
