//! `mvm tenant destroy`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_model::TenantName;

use crate::command::{Force, as_root};
use crate::progress::Step;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The tenant
    name: TenantName,
    #[command(flatten)]
    force: Force,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    as_root("tenant destroy", Form::People, |context| destroy(context, args))
}

async fn destroy(context: Context, args: Args) -> Result<ExitCode> {
    context.service.tenant(&args.name)?;
    args.force.check(&args.name, "all its pools, instances and data")?;
    let step = Step::start(&format!("destroying tenant {}", args.name));
    context.service.destroy_tenant(&args.name).await?;
    step.done();
    println!("tenant {} destroyed", args.name);
    Ok(ExitCode::SUCCESS)
}
