//! `mvm tenant …`

mod adopt;
mod create;
mod destroy;
mod info;
mod list;
mod secrets;
mod update;

use std::process::ExitCode;

use clap::Subcommand;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a tenant with its network; starts nothing
    Create(create::Args),
    /// List tenants
    List(list::Args),
    /// Show a tenant's network, quotas and use
    Info(info::Args),
    /// Change a tenant's quotas, egress or protection; starts and stops nothing
    Update(update::Args),
    /// Take a tenant over from its owner, or hand it over
    Adopt(adopt::Args),
    /// Set, rotate, list and remove its secrets
    #[command(subcommand)]
    Secrets(secrets::Command),
    /// Destroy a tenant with its pools, instances and data
    Destroy(destroy::Args),
}

/// Runs a verb.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Create(args) => create::run(args),
        Command::List(args) => list::run(args),
        Command::Info(args) => info::run(args),
        Command::Update(args) => update::run(args),
        Command::Adopt(args) => adopt::run(args),
        Command::Secrets(command) => secrets::run(command),
        Command::Destroy(args) => destroy::run(args),
    }
}
