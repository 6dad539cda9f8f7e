//! `mvm pool destroy`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_model::PoolPath;

use crate::command::{Force, as_root};
use crate::progress::Step;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The pool: <tenant>/<pool>
    pool: PoolPath,
    #[command(flatten)]
    force: Force,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    as_root("pool destroy", Form::People, |context| destroy(context, args))
}

async fn destroy(context: Context, args: Args) -> Result<ExitCode> {
    context.service.pool(&args.pool)?;
    args.force.check(&args.pool, "all its instances and their data")?;
    let step = Step::start(&format!("destroying pool {}", args.pool));
    context.service.destroy_pool(&args.pool).await?;
    step.done();
    println!("pool {} destroyed", args.pool);
    Ok(ExitCode::SUCCESS)
}
