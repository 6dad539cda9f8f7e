//! `mvm tenant secrets list`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_model::TenantName;

use crate::command::as_root;
use crate::output;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
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
    as_root("tenant secrets list", form, |context| list(context, args))
}

async fn list(context: Context, args: Args) -> Result<ExitCode> {
    let view = context.service.list_secrets(&args.tenant)?;
    if context.form == Form::Json {
        return output::json(&view).map(|()| ExitCode::SUCCESS);
    }
    let now = mvm_agent::service::now();
    let rows = view.secrets.iter().map(|secret| {
        let set = format!("{} ago", output::ago(secret.set_at, now));
        vec![secret.name.to_string(), output::bytes(secret.size as u64), set]
    });
    let nothing = format!("no secrets; 'mvm tenant secrets set {} NAME' sets one", args.tenant);
    output::table(&["name", "size", "set"], rows.collect(), &nothing)?;
    if !view.secrets.is_empty() {
        eprintln!("epoch {}", view.epoch);
    }
    Ok(ExitCode::SUCCESS)
}
