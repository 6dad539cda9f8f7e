//! `mvm instance create`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_model::InstancePath;
use mvm_model::id::InstanceRef;

use crate::command::as_root;
use crate::output;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<name>
    instance: InstancePath,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    as_root("instance create", Form::People, |context| create(context, args))
}

async fn create(context: Context, args: Args) -> Result<ExitCode> {
    let InstanceRef::Name(name) = args.instance.instance.clone() else {
        return Err(Error::new(
            Kind::Invalid,
            &args.instance,
            "an id cannot be chosen; give a name",
        ));
    };
    let record = context.service.create_instance(&args.instance.pool, Some(name)).await?;
    output::line(&format!("instance {} created ({})", args.instance, record.instance_id))?;
    eprintln!("next: mvm instance start {}", args.instance);
    Ok(ExitCode::SUCCESS)
}
