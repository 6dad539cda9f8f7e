//! `mvm agent serve`: the agent as a daemon, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::serve::{self, Options};

use crate::command::{as_root_with_guest, check_config};
use crate::runtime::{Context, Form};
use crate::session::interrupted;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// A desired state file to apply, now and whenever it changes
    #[arg(long, value_name = "FILE")]
    desired: Option<PathBuf>,
    /// A file with a whole Intent, as 'nix eval --json' of a lib.fleet gives it, to apply now and
    /// whenever it changes: Nix owns what it names; what it no longer names is stopped, data kept
    #[arg(long, value_name = "FILE")]
    intent: Option<PathBuf>,
    /// Look at everything again after so many seconds, also when nothing happens
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval_secs: u64,
    /// Only say whether this file is a good declaration, as 'mvm check-config' does; serve nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["desired", "intent", "interval_secs"])]
    check_config: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    if let Some(file) = &args.check_config {
        return check_config::verdict(file, Form::People);
    }
    as_root_with_guest("agent serve", Form::People, |context| agent(context, args))
}

async fn agent(context: Context, args: Args) -> Result<ExitCode> {
    // The directory we are started in may go; the files are found all the same.
    let found = |file: PathBuf| std::path::absolute(&file).unwrap_or(file);
    let options = Options {
        interval: Duration::from_secs(args.interval_secs),
        desired: args.desired.map(found),
        intent: args.intent.map(found),
    };
    let run = context.service.dirs.run.display().to_string();
    let ready = || {
        eprintln!(
            "agent: serving {run} (a round every {} s); Ctrl-C ends it, VMs go on",
            args.interval_secs
        );
    };
    let cancel: &AtomicBool = &context.cancel;
    serve::serve(context.service.clone(), options, ready, interrupted(cancel)).await?;
    Ok(ExitCode::SUCCESS)
}
