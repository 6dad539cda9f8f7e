//! `mvm tenant destroy`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::tenant::{Destroy, Info};
use mvm_model::TenantName;

use crate::command::{Force, in_session, tell_destroyed};
use crate::progress::Step;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The tenant
    name: TenantName,
    #[command(flatten)]
    force: Force,
    /// Print JSON: {"destroyed": PATH}
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("tenant destroy", args.json.into(), |session| destroy(session, args))
}

async fn destroy(session: Session, args: Args) -> Result<ExitCode> {
    session.call(Info { tenant: args.name.clone() }).await?;
    args.force.check(&args.name, "all its pools, instances and data")?;
    let step = Step::start(&format!("destroying tenant {}", args.name));
    session.call(Destroy { tenant: args.name.clone() }).await?;
    step.done();
    tell_destroyed(session.form, "tenant", args.name)
}
