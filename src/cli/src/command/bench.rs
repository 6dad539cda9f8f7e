//! `mvm bench`: what boot, warm, sleep and wake take on this host.

use std::process::ExitCode;

use clap::Args as ClapArgs;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let _ = args;
    ExitCode::SUCCESS
}
