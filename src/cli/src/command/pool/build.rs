//! `mvm pool build`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_model::PoolPath;

use crate::command::{as_root_with_guest, bootstrap};
use crate::output;
use crate::progress::Step;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The pool: <tenant>/<pool>
    pool: PoolPath,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    as_root_with_guest("pool build", Form::People, |context| build(context, args))
}

async fn build(context: Context, args: Args) -> Result<ExitCode> {
    context.service.pool(&args.pool)?;
    bootstrap::packages(&context, args.yes.into()).await?;
    let step = Step::start(&format!("building the image of {}", args.pool));
    let digest =
        context.service.build_pool(&args.pool, step.sink(), context.cancel.clone()).await?;
    let took = step.done();
    output::line(&format!(
        "pool {} uses revision {} ({})",
        args.pool,
        digest.short(),
        output::duration(took)
    ))?;
    Ok(ExitCode::SUCCESS)
}
