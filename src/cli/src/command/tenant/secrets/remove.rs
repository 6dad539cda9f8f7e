//! `mvm tenant secrets remove`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_api::secret::{Doomed, Remove};
use mvm_api::tenant::Info;
use mvm_model::TenantName;

use crate::command::in_session;
use crate::error::report;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The tenant
    tenant: TenantName,
    /// Which secrets
    names: Vec<String>,
    /// Every one, also when they cannot be opened any more
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Really remove them; their values cannot be had back
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    match doomed(&args) {
        Ok(doomed) => {
            in_session("tenant secrets remove", form, |session| remove(session, args, doomed))
        }
        Err(error) => report(form, &error),
    }
}

fn doomed(args: &Args) -> Result<Doomed> {
    if args.all {
        return Ok(Doomed::All);
    }
    let names: Vec<_> =
        args.names.iter().map(|name| super::name(&args.tenant, name)).collect::<Result<_>>()?;
    match names.is_empty() {
        false => Ok(Doomed::Names(names)),
        true => Err(Error::new(Kind::Invalid, &args.tenant, "name the secrets to remove")
            .hint(format!("'mvm tenant secrets list {}' shows those it has", args.tenant))),
    }
}

async fn remove(session: Session, args: Args, doomed: Doomed) -> Result<ExitCode> {
    session.call(Info { tenant: args.tenant.clone() }).await?;
    let (lost, done) = match &doomed {
        Doomed::All => ("every secret it has".to_owned(), "all removed".to_owned()),
        Doomed::Names(names) => {
            let names = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            (format!("its secrets {names}"), format!("{names} removed"))
        }
    };
    refuse_without(&args, &lost)?;
    let changed = session.call(Remove { tenant: args.tenant, doomed }).await?;
    super::show(&changed, session.form, &done)?;
    Ok(ExitCode::SUCCESS)
}

fn refuse_without(args: &Args, lost: &str) -> Result<()> {
    if args.force {
        return Ok(());
    }
    let text = format!("this removes {lost} for good");
    Err(Error::new(Kind::Refused, &args.tenant, text)
        .hint("repeat it with --force if that is what you want"))
}
