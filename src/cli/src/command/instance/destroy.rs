//! `mvm instance destroy`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_model::InstancePath;

use crate::command::{Force, as_root};
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<id or name>
    instance: InstancePath,
    #[command(flatten)]
    force: Force,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    as_root("instance destroy", Form::People, |context| destroy(context, args))
}

async fn destroy(context: Context, args: Args) -> Result<ExitCode> {
    context.service.instance(&args.instance)?;
    args.force.check(&args.instance, "its data drive and snapshot")?;
    context.service.destroy_instance(&args.instance).await?;
    println!("instance {} destroyed", args.instance);
    Ok(ExitCode::SUCCESS)
}
