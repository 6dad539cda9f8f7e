//! `mvm pool scale`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::pool::Scale;
use mvm_model::PoolPath;

use crate::command::as_root;
use crate::output;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
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
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    as_root("pool scale", Form::People, |context| scale(context, args))
}

async fn scale(context: Context, args: Args) -> Result<ExitCode> {
    let wanted = Scale { running: args.running, warm: args.warm, sleeping: args.sleeping };
    let created = context.service.scale_pool(&args.pool, wanted).await?;
    let counts = context.service.pool(&args.pool)?.desired_counts;
    output::line(&format!(
        "pool {}: {} running, {} warm, {} sleeping wanted; {} created",
        args.pool,
        counts.running,
        counts.warm,
        counts.sleeping,
        created.len()
    ))?;
    let have = context.service.records.instances(&args.pool).records;
    let unnamed = have.iter().filter(|record| record.name.is_none()).count();
    if unnamed > counts.total() as usize {
        eprintln!("note: there are {unnamed} instances; scaling destroys none");
    }
    if let Some(first) = created.first() {
        eprintln!("next: mvm instance start {}", first.path());
    }
    Ok(ExitCode::SUCCESS)
}
