//! `mvm completions`: completion scripts for shells.

use std::process::ExitCode;

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::report;
use crate::output;
use crate::runtime::Form;

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "bash: mvm completions bash > /etc/bash_completion.d/mvm\n\
                        zsh:  mvm completions zsh > /usr/local/share/zsh/site-functions/_mvm\n\
                        fish: mvm completions fish > ~/.config/fish/completions/mvm.fish")]
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
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mvm", &mut script);
    let text = String::from_utf8_lossy(&script);
    match output::line(text.trim_end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(Form::People, &error),
    }
}
