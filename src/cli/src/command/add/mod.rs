//! `mvm add …`

mod host;

use std::process::ExitCode;

use clap::Subcommand;

/// What can be added.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this machine a host: packages, image, proof of what it can run, id, directories
    Host(host::Args),
}

/// Adds it.
pub fn run(command: Command) -> ExitCode {
    let Command::Host(args) = command;
    host::run(args)
}
