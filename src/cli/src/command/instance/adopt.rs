//! `mvm instance adopt`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_api::update::AdoptInstance;
use mvm_model::InstancePath;

use crate::command::{in_session, owner};
use crate::runtime::Form;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The named instance: <tenant>/<pool>/<name>
    instance: InstancePath,
    #[command(flatten)]
    to: owner::To,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("instance adopt", Form::People, |session| async move {
        let object = format!("instance {}", args.instance);
        let call = AdoptInstance { instance: args.instance, to: args.to.owner() };
        owner::tell(&object, session.call(call).await?)
    })
}
