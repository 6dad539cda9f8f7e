//! `mvm tenant adopt`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_api::update::AdoptTenant;
use mvm_model::TenantName;

use crate::command::{in_session, owner};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The tenant; its pools and named instances keep their owners
    name: TenantName,
    #[command(flatten)]
    to: owner::To,
    /// Print JSON: {"object", "before", "now"}
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("tenant adopt", args.json.into(), |session| async move {
        let object = format!("tenant {}", args.name);
        let call = AdoptTenant { tenant: args.name, to: args.to.owner() };
        owner::tell(session.form, &object, session.call(call).await?)
    })
}
