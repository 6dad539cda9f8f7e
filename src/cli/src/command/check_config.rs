//! `mvm check-config`: is a declaration good? Reads the file and nothing else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::check::{Declares, Report, check_config};
use mvm_agent::error::{Kind, Result};

use crate::error::report;
use crate::output;
use crate::runtime::Form;

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "It takes what 'nix eval --json .#…' gives of lib.fleet, and what \
                        'mvm agent desired' writes. Exit code 0 when it is good, 2 when not.")]
pub struct Args {
    /// The fleet's Intent or a node's desired state, JSON
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    verdict(&args.file, args.json.into())
}

/// Says whether a file is a good declaration, and with which exit code.
pub fn verdict(file: &Path, form: Form) -> ExitCode {
    check(file, form).unwrap_or_else(|error| report(form, &error))
}

fn check(file: &Path, form: Form) -> Result<ExitCode> {
    let found = check_config(file)?;
    match form {
        Form::Json => output::json(&found)?,
        Form::People => tell(file, &found)?,
    }
    let code = if found.is_good() { 0 } else { Kind::Invalid.exit_code() };
    Ok(code.into())
}

fn tell(file: &Path, found: &Report) -> Result<()> {
    for problem in &found.problems {
        eprintln!("error: {problem}\nhint: {}", problem.hint);
    }
    let what = match found.declares {
        Declares::Intent => "fleet",
        Declares::DesiredState => "desired state",
    };
    let (tenants, pools) =
        (output::count(found.tenants, "tenant"), output::count(found.pools, "pool"));
    match found.problems.len() {
        0 => output::line(&format!("{} is a good {what}: {tenants}, {pools}", file.display())),
        count => {
            eprintln!("{}: {} in this {what}", file.display(), output::count(count, "problem"));
            Ok(())
        }
    }
}
