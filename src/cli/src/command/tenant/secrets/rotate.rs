//! `mvm tenant secrets rotate`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::secret::Rotate;
use mvm_model::TenantName;

use crate::command::in_session;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "The values stay the same; to change one, set it.")]
pub struct Args {
    /// The tenant
    tenant: TenantName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("tenant secrets rotate", form, |session| rotate(session, args))
}

async fn rotate(session: Session, args: Args) -> Result<ExitCode> {
    let changed = session.call(Rotate { tenant: args.tenant }).await?;
    super::show(&changed, session.form, "encrypted anew")?;
    Ok(ExitCode::SUCCESS)
}
