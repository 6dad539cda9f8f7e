//! `mvm pool explain`: why a pool's instances are what they are.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::service::now;
use mvm_api::update::{ExplainPool, ExplainedInstance, PoolExplanation};
use mvm_model::PoolPath;

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The pool: <tenant>/<pool>
    pool: PoolPath,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("pool explain", form, |session| explain(session, args))
}

async fn explain(session: Session, args: Args) -> Result<ExitCode> {
    let told = session.call(ExplainPool { pool: args.pool }).await?;
    match session.form {
        Form::Json => output::json(&told)?,
        Form::People => show(&told)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(told: &PoolExplanation) -> Result<()> {
    let want = told.desired;
    output::line(&format!(
        "pool {}: {} running, {} warm, {} sleeping wanted",
        told.pool, want.running, want.warm, want.sleeping
    ))?;
    let rows = told.instances.iter().map(row).collect();
    output::table(&["instance", "status", "is there as", "next", "idle"], rows, "no instances")?;
    for step in &told.next {
        output::line(&format!("next round: {step}"))?;
    }
    for note in &told.notes {
        let due = note.until.map(|until| format!(" (in {})", output::ago(now(), until)));
        let due = due.unwrap_or_default();
        output::line(&format!("waits: {}: {}{due}", note.object, note.reason))?;
        if let Some(hint) = &note.hint {
            talk::say(format_args!("hint: {hint}"));
        }
    }
    Ok(())
}

fn row(one: &ExplainedInstance) -> Vec<String> {
    let id = one.instance_id.to_string();
    vec![
        one.name.as_ref().map_or(id, ToString::to_string),
        one.status.capitalised().to_owned(),
        one.slot.clone(),
        one.next.clone(),
        one.idle.clone().unwrap_or_else(|| "-".into()),
    ]
}
