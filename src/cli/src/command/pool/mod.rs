//! `mvm pool …`

mod adopt;
mod build;
pub mod create;
mod destroy;
mod explain;
mod gc;
mod info;
mod list;
mod rollback;
mod scale;
mod update;

use std::process::ExitCode;

use clap::Subcommand;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a pool of like instances; starts nothing
    Create(create::Args),
    /// List pools, of a tenant or of all
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
    /// Change a pool's resources, image, times or protection; starts and stops nothing
    Update(update::Args),
    /// Say why its instances are what they are, and what happens to them next
    Explain(explain::Args),
    /// Take a pool over from its owner, or hand it over
    Adopt(adopt::Args),
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
        Command::Update(args) => update::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Adopt(args) => adopt::run(args),
        Command::Destroy(args) => destroy::run(args),
    }
}
