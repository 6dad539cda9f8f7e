//! `mvm agent status`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::service::now;
use mvm_api::agent::{GetStatus, Status};

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("agent status", args.json.into(), status)
}

async fn status(session: Session) -> Result<ExitCode> {
    let status = session.call(GetStatus {}).await?;
    if session.form == Form::Json {
        output::json(&status)?;
    } else {
        show(&status)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(status: &Status) -> Result<()> {
    let ago = |at| format!("{} ago", output::ago(at, now()));
    let files: Vec<&str> =
        [&status.desired, &status.intent].into_iter().flatten().map(|file| file.as_str()).collect();
    let asked = if files.is_empty() { "what is recorded".into() } else { files.join(", ") };
    let mut pairs = vec![
        ("Agent", format!("{} (pid {})", status.version, status.pid)),
        ("Node", status.node_id.clone()),
        ("Started", ago(status.started_at)),
        ("Interval", format!("{} s", status.interval_seconds)),
        ("Desired state", asked),
        ("Last round", status.last_round.map_or_else(|| "not yet".into(), ago)),
    ];
    if let Some(report) = &status.last_report {
        let (done, failed, waits) = (report.done.len(), report.failed.len(), report.notes.len());
        pairs.push(("Came to", format!("{done} done, {failed} failed, {waits} waiting")));
    }
    if let Some(problem) = &status.problem {
        pairs.push(("Problem", problem.clone()));
    }
    output::pairs(&pairs)
}
