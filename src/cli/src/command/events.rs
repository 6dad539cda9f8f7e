//! `mvm events`: the audit log.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::service::now;
use mvm_api::event::{Event, List, Outcome, Verify};
use mvm_model::TenantName;

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// How many events are asked for at each look.
const FOLLOWED: usize = 500;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only this tenant's; it may be gone
    tenant: Option<TenantName>,
    /// Only the last so many
    #[arg(long, default_value_t = 50)]
    last: usize,
    /// Go on with what happens from now on
    #[arg(long)]
    follow: bool,
    /// Check that no event was changed or removed
    #[arg(long, conflicts_with = "follow")]
    verify: bool,
    /// Print JSON, one event a line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("events", args.json.into(), |session| events(session, args))
}

async fn events(session: Session, args: Args) -> Result<ExitCode> {
    if args.verify {
        return verify(&session, args.tenant).await;
    }
    let list = |last| List { tenant: args.tenant.clone(), last };
    let started = now();
    let mut seen = session.call(list(args.last)).await?;
    show(session.form, &seen)?;
    if seen.is_empty() {
        talk::say(match &args.tenant {
            Some(tenant) => format!("nothing was done to {tenant} yet"),
            None => "nothing was done yet".to_owned(),
        });
    }
    while args.follow && !session.cancel.load(std::sync::atomic::Ordering::SeqCst) {
        tokio::time::sleep(LOOK).await;
        // More than happen between two looks.
        let latest = session.call(list(args.last.max(FOLLOWED))).await?;
        let begun = seen.first().map_or(started, |event| event.at);
        let is_new = |event: &&Event| event.at >= begun && !seen.contains(event);
        let new: Vec<_> = latest.iter().filter(is_new).cloned().collect();
        show(session.form, &new)?;
        seen.extend(new);
        let old = seen.len().saturating_sub(2 * FOLLOWED);
        seen.drain(..old);
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(session: &Session, tenant: Option<TenantName>) -> Result<ExitCode> {
    let logs = session.call(Verify { tenant }).await?;
    if session.form == Form::Json {
        output::json(&logs)?;
    } else {
        for log in &logs {
            let found = match &log.problem {
                None => format!("{} events, none changed", log.last),
                Some(problem) => problem.clone(),
            };
            output::line(&format!("{}: {found}", log.tenant))?;
        }
    }
    let holds = logs.iter().all(|log| log.problem.is_none());
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(form: Form, events: &[Event]) -> Result<()> {
    for event in events {
        if form == Form::Json {
            let json = serde_json::to_string(event).unwrap_or_default();
            output::line(&json)?;
            continue;
        }
        let at =
            i64::try_from(event.at).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let at = at.map_or_else(String::new, |at| format!("{at:.0}"));
        let failed = if event.outcome == Outcome::Failed { " FAILED" } else { "" };
        let detail =
            if event.detail.is_empty() { String::new() } else { format!(": {}", event.detail) };
        output::line(&format!(
            "{at}  {:16} {}{failed}{detail}  [{}]",
            event.event, event.object, event.by
        ))?;
    }
    Ok(())
}
