//! `mvm instance adopt`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_api::update::AdoptInstance;
use mvm_model::InstancePath;

use crate::command::{in_session, owner};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The named instance: <tenant>/<pool>/<name>
    instance: InstancePath,
    #[command(flatten)]
    to: owner::To,
    /// Print JSON: {"object", "before", "now"}
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("instance adopt", args.json.into(), |session| async move {
        let object = format!("instance {}", args.instance);
        let call = AdoptInstance { instance: args.instance, to: args.to.owner() };
        owner::tell(session.form, &object, session.call(call).await?)
    })
}
