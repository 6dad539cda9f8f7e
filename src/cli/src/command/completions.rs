//! `mvm completions`: completion scripts for shells.

use std::process::ExitCode;

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "For bash: mvm completions bash > /etc/bash_completion.d/mvm")]
pub struct Args {
    /// Which shell: bash, zsh or fish
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish"]))]
    shell: String,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let shell = match args.shell.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    clap_complete::generate(shell, &mut Cli::command(), "mvm", &mut std::io::stdout());
    ExitCode::SUCCESS
}
