//! `mvm pool adopt`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_api::update::AdoptPool;
use mvm_model::PoolPath;

use crate::command::{in_session, owner};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The pool: <tenant>/<pool>; its named instances keep their owners
    pool: PoolPath,
    #[command(flatten)]
    to: owner::To,
    /// Print JSON: {"object", "before", "now"}
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("pool adopt", args.json.into(), |session| async move {
        let object = format!("pool {}", args.pool);
        let call = AdoptPool { pool: args.pool, to: args.to.owner() };
        owner::tell(session.form, &object, session.call(call).await?)
    })
}
