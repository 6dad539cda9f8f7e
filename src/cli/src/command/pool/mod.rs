//! `mvm pool …`

mod build;
pub mod create;
mod destroy;
mod gc;
mod info;
mod list;
mod rollback;
mod scale;

use std::process::ExitCode;

use clap::Subcommand;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a pool of like instances; starts nothing
    Create(create::Args),
    /// List a tenant's pools
    List(list::Args),
    /// Show a pool's image, resources and counts
    Info(info::Args),
    /// Build the pool's image and use it for new boots
    Build(build::Args),
    /// Use an earlier revision for new boots
    Rollback(rollback::Args),
    /// Remove the pool's revisions that nothing needs
    Gc(gc::Args),
    /// Set how many instances the pool should have; creates records, starts nothing
    Scale(scale::Args),
    /// Destroy a pool with its instances and data
    Destroy(destroy::Args),
}

/// Runs a verb.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Create(args) => create::run(args),
        Command::List(args) => list::run(args),
        Command::Info(args) => info::run(args),
        Command::Build(args) => build::run(args),
        Command::Rollback(args) => rollback::run(args),
        Command::Gc(args) => gc::run(args),
        Command::Scale(args) => scale::run(args),
        Command::Destroy(args) => destroy::run(args),
    }
}
