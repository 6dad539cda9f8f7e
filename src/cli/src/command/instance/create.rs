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
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<name>
    instance: InstancePath,
    /// Print JSON: the instance, as in 'instance list'
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("instance create", args.json.into(), |session| create(session, args))
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
    if session.form == Form::Json {
        return output::json(&view).map(|()| ExitCode::SUCCESS);
    }
    output::line(&format!("instance {} created ({})", args.instance, view.instance_id))?;
    talk::say(format_args!("next: mvm instance start {}", args.instance));
    Ok(ExitCode::SUCCESS)
}
