//! `mvm agent …`

mod desired;
mod operations;
pub mod reconcile;
mod serve;
mod status;

use std::process::ExitCode;

use clap::Subcommand;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the present desired state of this host
    Desired(desired::Args),
    /// Make this host what a desired state says, once
    Reconcile(reconcile::Args),
    /// Keep this host what it should be, and answer commands
    Serve(serve::Args),
    /// Show whether an agent runs and what it last did
    Status(status::Args),
    /// Show what the agent was asked to change, or follow one of it
    Operations(operations::Args),
}

/// Runs a verb.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Desired(args) => desired::run(args),
        Command::Reconcile(args) => reconcile::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Status(args) => status::run(args),
        Command::Operations(args) => operations::run(args),
    }
}
