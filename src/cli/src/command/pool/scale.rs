//! `mvm pool scale`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::reconcile::Verdict;
use mvm_api::agent::{ReconcileTenants, Report};
use mvm_api::pool::{Info, Scale, Scaled, View};
use mvm_model::{PoolPath, TenantName};
use serde::Serialize;

use crate::command::{agent, in_session};
use crate::output;
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "A running agent ('mvm agent serve') starts and stops them; without one \
                        --wait, 'mvm agent reconcile' or 'mvm instance start' does.")]
pub struct Args {
    /// The pool: <tenant>/<pool>
    pool: PoolPath,
    /// How many should run [default: as it is]
    #[arg(long)]
    running: Option<u32>,
    /// How many should be paused in memory [default: as it is]
    #[arg(long)]
    warm: Option<u32>,
    /// How many should sleep on disk [default: as it is]
    #[arg(long)]
    sleeping: Option<u32>,
    /// Make it so now, and wait for it; the tenant's other pools come along
    #[arg(long)]
    wait: bool,
    /// With --wait: begin nothing more after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait", default_value_t = mvm_agent::reconcile::TIMEOUT.as_secs())]
    timeout: u64,
    /// Print JSON: the pool, as in 'pool info', with the paths of the instances it 'created' and,
    /// with --wait, the 'report'
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("pool scale", args.json.into(), |session| scale(session, args))
}

async fn scale(session: Session, args: Args) -> Result<ExitCode> {
    let Args { pool, running, warm, sleeping, wait, timeout, .. } = args;
    let scaled = session.call(Scale { pool: pool.clone(), running, warm, sleeping }).await?;
    let counts = scaled.pool.record.desired_counts;
    if session.form == Form::Json {
        return tell(&session, pool, scaled, wait.then_some(timeout)).await;
    }
    output::line(&format!(
        "pool {}: {} running, {} warm, {} sleeping wanted; {} created",
        pool,
        counts.running,
        counts.warm,
        counts.sleeping,
        scaled.created.len()
    ))?;
    if wait {
        let report = reconcile(&session, pool.tenant, timeout).await?;
        agent::reconcile::show(&report)?;
        return report.verdict().map(|()| ExitCode::SUCCESS);
    }
    let unnamed = scaled.unnamed;
    if unnamed > counts.total() as usize {
        talk::say(format_args!("note: there are {unnamed} instances; scaling destroys none"));
    }
    match (session.agent().is_some(), scaled.created.first()) {
        (true, _) => talk::say(format_args!("the agent makes it so: mvm pool explain {pool}")),
        (false, Some(first)) => talk::say(format_args!("next: mvm instance start {first}")),
        (false, None) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What a program is told: the pool as it is now.
#[derive(Serialize)]
struct ScaledPool {
    #[serde(flatten)]
    pool: View,
    created: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Report>,
}

async fn tell(
    session: &Session,
    path: PoolPath,
    scaled: Scaled,
    wait: Option<u64>,
) -> Result<ExitCode> {
    let Scaled { mut pool, created, .. } = scaled;
    let mut report = None;
    if let Some(timeout) = wait {
        report = Some(reconcile(session, path.tenant.clone(), timeout).await?);
        pool = session.call(Info { pool: path }).await?;
    }
    let verdict = report.as_ref().map_or(Ok(()), Verdict::verdict);
    output::json(&ScaledPool { pool, created, report })?;
    verdict.map(|()| ExitCode::SUCCESS)
}

async fn reconcile(session: &Session, tenant: TenantName, timeout: u64) -> Result<Report> {
    let step = Step::start("reconciling");
    let call = ReconcileTenants { tenants: vec![tenant], timeout_seconds: timeout };
    let report = session.call_showing(call, &step).await?;
    step.done();
    Ok(report)
}
