//! `mvm pool scale`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::reconcile::Verdict;
use mvm_api::agent::ReconcileTenants;
use mvm_api::pool::Scale;
use mvm_model::{PoolPath, TenantName};

use crate::command::{agent, in_session};
use crate::output;
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;

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
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("pool scale", Form::People, |session| scale(session, args))
}

async fn scale(session: Session, args: Args) -> Result<ExitCode> {
    let Args { pool, running, warm, sleeping, wait, timeout } = args;
    let scaled = session.call(Scale { pool: pool.clone(), running, warm, sleeping }).await?;
    let counts = scaled.pool.record.desired_counts;
    output::line(&format!(
        "pool {}: {} running, {} warm, {} sleeping wanted; {} created",
        pool,
        counts.running,
        counts.warm,
        counts.sleeping,
        scaled.created.len()
    ))?;
    if wait {
        return reconcile(&session, pool.tenant, timeout).await;
    }
    let unnamed = scaled.unnamed;
    if unnamed > counts.total() as usize {
        eprintln!("note: there are {unnamed} instances; scaling destroys none");
    }
    if let Some(first) = scaled.created.first() {
        eprintln!("next: mvm instance start {first}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn reconcile(session: &Session, tenant: TenantName, timeout: u64) -> Result<ExitCode> {
    let step = Step::start("reconciling");
    let call = ReconcileTenants { tenants: vec![tenant], timeout_seconds: timeout };
    let report = session.call_showing(call, &step).await?;
    step.done();
    agent::reconcile::show(&report)?;
    report.verdict().map(|()| ExitCode::SUCCESS)
}
