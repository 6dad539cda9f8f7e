//! `mvm agent reconcile`: desired state in, once.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_agent::reconcile::Verdict;
use mvm_api::agent::{DocumentForm, Reconcile, Report};

use crate::command::in_session;
use crate::error::about;
use crate::output;
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The desired state; '-' reads it from stdin [default: what is recorded]
    #[arg(long, value_name = "FILE")]
    desired: Option<PathBuf>,
    /// A whole Intent instead, as 'nix eval --json' of a lib.fleet gives it: Nix owns what it
    /// names; what it no longer names is stopped, data kept
    #[arg(long, value_name = "FILE", conflicts_with = "desired")]
    intent: Option<PathBuf>,
    /// Also take down tenants and pools it does not name; their data is kept
    #[arg(long, requires = "desired")]
    prune: bool,
    /// With --prune: delete their data too
    #[arg(long, requires = "prune")]
    delete_data: bool,
    /// Begin nothing more, and wait for nobody, after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = mvm_agent::reconcile::TIMEOUT.as_secs())]
    timeout: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("agent reconcile", args.json.into(), |session| reconcile(session, args))
}

async fn reconcile(session: Session, args: Args) -> Result<ExitCode> {
    let form = match args.intent {
        Some(_) => DocumentForm::Intent,
        None => DocumentForm::DesiredState,
    };
    let file = args.intent.as_deref().or(args.desired.as_deref());
    let call = Reconcile {
        document: file.map(|file| read(file, form)).transpose()?,
        name: file.map(name).unwrap_or_default(),
        form,
        prune: args.prune,
        delete_data: args.delete_data,
        timeout_seconds: args.timeout,
    };
    let step = Step::start("reconciling");
    let report = session.call_showing(call, &step).await?;
    step.done();
    if session.form == Form::Json {
        output::json(&report)?;
    } else {
        show(&report)?;
    }
    report.verdict().map(|()| ExitCode::SUCCESS)
}

/// The document's name in errors; its directory is where relative flakes in it are found.
fn name(file: &Path) -> String {
    match std::path::absolute(file) {
        Ok(path) if file != Path::new("-") => path.display().to_string(),
        _ => file.display().to_string(),
    }
}

/// What is not there is said before anything is asked for.
fn read(file: &Path, form: DocumentForm) -> Result<String> {
    let read = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::InvalidData => Kind::Invalid,
            _ => Kind::Failed,
        };
        let hint = match form {
            DocumentForm::DesiredState => {
                "'mvm agent desired --file F' writes the present desired state"
            }
            DocumentForm::Intent => "'nix eval --json' of a lib.fleet writes an intent",
        };
        Error::new(kind, file.display(), format!("cannot read {}", file.display()))
            .because(error)
            .hint(hint)
    })
}

/// Shows what a reconcile did and left.
///
/// # Errors
/// When stdout is gone.
pub fn show(report: &Report) -> Result<()> {
    for change in &report.applied {
        output::line(&format!("changed: {change}"))?;
    }
    for step in &report.done {
        output::line(&format!("done: {step}"))?;
    }
    for refused in &report.refused {
        output::line(&format!("refused: {}", about(&refused.object, &refused.problem)))?;
    }
    for failed in &report.failed {
        output::line(&format!("failed: {}: {}", failed.step, failed.message))?;
    }
    for note in &report.notes {
        output::line(&format!("waits: {}", about(&note.object, &note.reason)))?;
    }
    output::line(&verdict(report))
}

fn verdict(report: &Report) -> String {
    let took = output::duration(std::time::Duration::from_millis(report.took_ms));
    let nothing = report.applied.is_empty() && report.done.is_empty() && report.failed.is_empty();
    let (steps, refused) = (output::count(report.done.len(), "step"), report.refused.len());
    match (report.converged, nothing, refused) {
        (true, true, 0) => format!("nothing to do ({took})"),
        (true, false, 0) => format!("reconciled ({took}, {steps})"),
        (true, ..) => format!("partly reconciled ({took}, {steps}, {refused} refused)"),
        (false, ..) => format!("not reconciled yet ({took}, {steps})"),
    }
}
