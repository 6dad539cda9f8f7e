//! `mvm tenant secrets set`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::secret::Set;
use mvm_api::tenant::Info;
use mvm_model::TenantName;
use mvm_model::secret::SecretName;

use super::input::{self, Source};
use crate::command::in_session;
use crate::error::report;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    mvm tenant secrets set acme SLACK_TOKEN < token.txt\n  \
    pass show slack | mvm tenant secrets set acme SLACK_TOKEN\n  \
    mvm tenant secrets set acme tls.key --from-file key.pem\n  \
    mvm tenant secrets set acme --from-file secrets.env     (lines NAME=VALUE)")]
pub struct Args {
    /// The tenant
    tenant: TenantName,
    /// The secret's name; without one, lines NAME=VALUE are read
    name: Option<String>,
    /// Read the value (or the lines) from this file, byte for byte, instead of stdin
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Catches a value that was typed as an argument.
    #[arg(hide = true)]
    value: Vec<String>,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    // Before anything else sees the arguments: becoming root passes them on.
    let name = args.name.as_ref().map(|name| super::name(&args.tenant, name)).transpose();
    let name = match args.value.is_empty() {
        true => name,
        false => Err(super::value_on_command_line(&args.tenant)),
    };
    match name {
        Ok(name) => in_session("tenant secrets set", form, |session| set(session, args, name)),
        Err(error) => report(form, &error),
    }
}

async fn set(session: Session, args: Args, name: Option<SecretName>) -> Result<ExitCode> {
    mvm_host::secrets::guard_memory();
    session.call(Info { tenant: args.tenant.clone() }).await?;
    let source = args.from_file.map_or(Source::Stdin, Source::File);
    let secrets = match name {
        Some(name) => [(name.clone(), input::value(&name, &source)?)].into(),
        None => input::lines(&args.tenant, &source)?,
    };
    let names: Vec<_> = secrets.keys().map(ToString::to_string).collect();
    let set = Set { tenant: args.tenant, secrets };
    let changed = session.call(set).await?;
    super::show(&changed, session.form, &format!("{} set", names.join(", ")))?;
    Ok(ExitCode::SUCCESS)
}
