//! `mvm instance create`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_api::instance::Create;
use mvm_model::InstancePath;
use mvm_model::id::InstanceRef;

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<name>
    instance: InstancePath,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("instance create", Form::People, |session| create(session, args))
}

async fn create(session: Session, args: Args) -> Result<ExitCode> {
    let InstanceRef::Name(name) = args.instance.instance.clone() else {
        return Err(Error::new(
            Kind::Invalid,
            &args.instance,
            "an id cannot be chosen; give a name",
        ));
    };
    let pool = args.instance.pool.clone();
    let view = session.call(Create { pool, name: Some(name) }).await?;
    output::line(&format!("instance {} created ({})", args.instance, view.instance_id))?;
    eprintln!("next: mvm instance start {}", args.instance);
    Ok(ExitCode::SUCCESS)
}
