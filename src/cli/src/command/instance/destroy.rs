//! `mvm instance destroy`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::instance::{Destroy, Info};
use mvm_model::InstancePath;

use crate::command::{Force, in_session, tell_destroyed};
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<id or name>
    instance: InstancePath,
    #[command(flatten)]
    force: Force,
    /// Print JSON: {"destroyed": PATH}
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("instance destroy", args.json.into(), |session| destroy(session, args))
}

async fn destroy(session: Session, args: Args) -> Result<ExitCode> {
    session.call(Info { instance: args.instance.clone() }).await?;
    args.force.check(&args.instance, "its data drive and snapshot")?;
    session.call(Destroy { instance: args.instance.clone() }).await?;
    tell_destroyed(session.form, "instance", args.instance)
}
