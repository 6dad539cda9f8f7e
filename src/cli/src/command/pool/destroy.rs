//! `mvm pool destroy`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::pool::{Destroy, Info};
use mvm_model::PoolPath;

use crate::command::{Force, in_session};
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The pool: <tenant>/<pool>
    pool: PoolPath,
    #[command(flatten)]
    force: Force,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("pool destroy", Form::People, |session| destroy(session, args))
}

async fn destroy(session: Session, args: Args) -> Result<ExitCode> {
    session.call(Info { pool: args.pool.clone() }).await?;
    args.force.check(&args.pool, "all its instances and their data")?;
    let step = Step::start(&format!("destroying pool {}", args.pool));
    session.call(Destroy { pool: args.pool.clone() }).await?;
    step.done();
    println!("pool {} destroyed", args.pool);
    Ok(ExitCode::SUCCESS)
}
