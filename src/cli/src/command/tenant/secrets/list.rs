//! `mvm tenant secrets list`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::secret::List;
use mvm_model::TenantName;

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
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
    in_session("tenant secrets list", form, |session| list(session, args))
}

async fn list(session: Session, args: Args) -> Result<ExitCode> {
    let view = session.call(List { tenant: args.tenant.clone() }).await?;
    if session.form == Form::Json {
        return output::json(&view).map(|()| ExitCode::SUCCESS);
    }
    let now = mvm_agent::service::now();
    let rows = view.secrets.iter().map(|secret| {
        let set = format!("{} ago", output::ago(secret.set_at, now));
        vec![secret.name.to_string(), output::bytes(secret.size as u64), set]
    });
    let nothing = format!("no secrets; 'mvm tenant secrets set {} NAME' sets one", args.tenant);
    output::table(&["name", "size", "set"], rows.collect(), &nothing)?;
    if !view.secrets.is_empty() {
        talk::say(format_args!("epoch {}", view.epoch));
    }
    Ok(ExitCode::SUCCESS)
}
