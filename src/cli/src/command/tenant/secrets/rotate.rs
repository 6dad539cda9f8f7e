//! `mvm tenant secrets rotate`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_model::TenantName;

use crate::command::as_root;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "The values stay the same; to change one, set it.")]
pub struct Args {
    /// The tenant
    tenant: TenantName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    as_root("tenant secrets rotate", form, |context| rotate(context, args))
}

async fn rotate(context: Context, args: Args) -> Result<ExitCode> {
    let changed = context.service.rotate_secrets(&args.tenant).await?;
    super::show(&changed, context.form, "encrypted anew")?;
    Ok(ExitCode::SUCCESS)
}
