//! `mvm instance destroy`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::instance::{Destroy, Info};
use mvm_model::InstancePath;

use crate::command::{Force, in_session};
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<id or name>
    instance: InstancePath,
    #[command(flatten)]
    force: Force,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("instance destroy", Form::People, |session| destroy(session, args))
}

async fn destroy(session: Session, args: Args) -> Result<ExitCode> {
    session.call(Info { instance: args.instance.clone() }).await?;
    args.force.check(&args.instance, "its data drive and snapshot")?;
    session.call(Destroy { instance: args.instance.clone() }).await?;
    println!("instance {} destroyed", args.instance);
    Ok(ExitCode::SUCCESS)
}
