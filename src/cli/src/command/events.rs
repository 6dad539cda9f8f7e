//! `mvm events`: the audit log.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use mvm_agent::audit::{Event, Log, Outcome};
use mvm_agent::error::{Error, Kind, Result};
use mvm_model::TenantName;

use crate::command::as_root;
use crate::output;
use crate::runtime::{Context, Form};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(300);

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
    as_root("events", args.json.into(), |context| events(context, args))
}

async fn events(context: Context, args: Args) -> Result<ExitCode> {
    let logs = logs(&context, args.tenant.as_ref())?;
    if args.verify {
        return verify(&logs);
    }
    let mut seen = collect(&logs);
    let from = seen.len().saturating_sub(args.last);
    show(&context, &seen[from..])?;
    while args.follow && !context.cancel.load(std::sync::atomic::Ordering::SeqCst) {
        tokio::time::sleep(LOOK).await;
        let now = collect(&self::logs(&context, args.tenant.as_ref())?);
        let new: Vec<_> = now.iter().filter(|event| !seen.contains(event)).cloned().collect();
        show(&context, &new)?;
        seen = now;
    }
    Ok(ExitCode::SUCCESS)
}

fn logs(context: &Context, tenant: Option<&TenantName>) -> Result<Vec<(TenantName, Log)>> {
    let audited = context.service.audited();
    let wanted = match tenant {
        None => audited,
        Some(tenant) if audited.contains(tenant) => vec![tenant.clone()],
        Some(tenant) => {
            return Err(Error::new(
                Kind::NotFound,
                tenant,
                format!("nothing was ever done to a tenant {tenant}"),
            ));
        }
    };
    let log = |tenant: TenantName| (tenant.clone(), Log::of(&context.service.dirs.state, &tenant));
    Ok(wanted.into_iter().map(log).collect())
}

fn collect(logs: &[(TenantName, Log)]) -> Vec<Event> {
    let mut events: Vec<_> = logs.iter().flat_map(|(_, log)| log.events()).collect();
    events.sort_by_key(|event| event.at);
    events
}

fn verify(logs: &[(TenantName, Log)]) -> Result<ExitCode> {
    let mut holds = true;
    for (tenant, log) in logs {
        match log.verify() {
            Ok(last) => output::line(&format!("{tenant}: {last} events, none changed"))?,
            Err(what) => {
                holds = false;
                output::line(&format!("{tenant}: {what}"))?;
            }
        }
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(context: &Context, events: &[Event]) -> Result<()> {
    for event in events {
        if context.form == Form::Json {
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
