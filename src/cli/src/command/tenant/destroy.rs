//! `mvm tenant destroy`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::tenant::{Destroy, Info};
use mvm_model::TenantName;

use crate::command::{Force, in_session};
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The tenant
    name: TenantName,
    #[command(flatten)]
    force: Force,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("tenant destroy", Form::People, |session| destroy(session, args))
}

async fn destroy(session: Session, args: Args) -> Result<ExitCode> {
    session.call(Info { tenant: args.name.clone() }).await?;
    args.force.check(&args.name, "all its pools, instances and data")?;
    let step = Step::start(&format!("destroying tenant {}", args.name));
    session.call(Destroy { tenant: args.name.clone() }).await?;
    step.done();
    println!("tenant {} destroyed", args.name);
    Ok(ExitCode::SUCCESS)
}
