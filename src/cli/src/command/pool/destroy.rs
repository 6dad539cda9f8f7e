//! `mvm pool destroy`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::pool::{Destroy, Info};
use mvm_model::PoolPath;

use crate::command::{Force, in_session, tell_destroyed};
use crate::progress::Step;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The pool: <tenant>/<pool>
    pool: PoolPath,
    #[command(flatten)]
    force: Force,
    /// Print JSON: {"destroyed": PATH}
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("pool destroy", args.json.into(), |session| destroy(session, args))
}

async fn destroy(session: Session, args: Args) -> Result<ExitCode> {
    session.call(Info { pool: args.pool.clone() }).await?;
    args.force.check(&args.pool, "all its instances and their data")?;
    let step = Step::start(&format!("destroying pool {}", args.pool));
    session.call(Destroy { pool: args.pool.clone() }).await?;
    step.done();
    tell_destroyed(session.form, "pool", args.pool)
}
