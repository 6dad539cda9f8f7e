//! `mvm node gc`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::node::{Collection, Gc, Mode, Waste};

use crate::command::in_session;
use crate::output;
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("node gc", form, |session| gc(session, args))
}

async fn gc(session: Session, args: Args) -> Result<ExitCode> {
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Remove };
    let step = Step::start("looking for what nothing needs");
    let done = session.call_showing(Gc { mode }, &step).await?;
    step.done();
    match session.form {
        Form::Json => output::json(&done)?,
        Form::People => print(&done)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(done: &Collection) -> Result<()> {
    for garbage in &done.garbage {
        let (bytes, what) = (output::bytes(garbage.bytes), word(garbage.waste));
        let (object, path) = (&garbage.object, garbage.path.display());
        output::line(&format!("{bytes:>10}  {what}: {object}  ({path})"))?;
    }
    for kept in &done.kept {
        talk::say(format_args!("kept: {}: {}", kept.path.display(), kept.why));
    }
    let freed = output::bytes(done.freed_bytes);
    output::line(&match (done.mode, done.garbage.is_empty()) {
        (_, true) => "nothing to remove: everything is needed".to_owned(),
        (Mode::Remove, false) => format!("{freed} freed"),
        (Mode::DryRun, false) => format!("at least {freed} would be freed; nothing was removed"),
    })
}

fn word(waste: Waste) -> &'static str {
    match waste {
        Waste::PoolRevision => "unneeded revision",
        Waste::Images => "unneeded images",
        Waste::HalfRemoved => "half removed",
        Waste::Snapshot => "unneeded snapshot",
        Waste::Unfinished => "unfinished",
        Waste::OfNobody => "of nobody",
        Waste::Outdated => "outdated",
    }
}
