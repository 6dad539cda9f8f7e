//! `mvm pool adopt`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_api::update::AdoptPool;
use mvm_model::PoolPath;

use crate::command::{in_session, owner};
use crate::runtime::Form;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The pool: <tenant>/<pool>; its named instances keep their owners
    pool: PoolPath,
    #[command(flatten)]
    to: owner::To,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("pool adopt", Form::People, |session| async move {
        let object = format!("pool {}", args.pool);
        let call = AdoptPool { pool: args.pool, to: args.to.owner() };
        owner::tell(&object, session.call(call).await?)
    })
}
