//! `mvm instance list`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::service::now;
use mvm_api::instance::{List, View};
use mvm_model::{PoolName, TenantName};

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::{Session, warn_of};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<TenantName>,
    /// Only this pool's (with --tenant)
    #[arg(long, requires = "tenant")]
    pool: Option<PoolName>,
    /// Print JSON: an array of instances, sorted by offset
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("instance list", form, |session| list(session, args))
}

async fn list(session: Session, args: Args) -> Result<ExitCode> {
    let whose = format!(
        "{}/{}",
        args.tenant.as_ref().map_or("TENANT", TenantName::as_str),
        args.pool.as_ref().map_or("POOL", PoolName::as_str)
    );
    let listed = session.call(List { tenant: args.tenant, pool: args.pool }).await?;
    warn_of(&listed.unreadable);
    let views = listed.instances;
    if session.form == Form::Json {
        return output::json(&views).map(|()| ExitCode::SUCCESS);
    }
    table(&views, &whose)?;
    Ok(ExitCode::SUCCESS)
}

/// Instances as a table; where there are none, how `pool` gets one.
///
/// # Errors
/// When stdout is gone.
pub fn table(views: &[View], pool: &str) -> Result<()> {
    let none = || "-".to_owned();
    let rows = views.iter().map(|view| {
        let status = match &view.transition {
            Some(word) => format!("{} ({word})", view.status.capitalised()),
            None => view.status.capitalised().to_owned(),
        };
        vec![
            view.path(),
            view.name.clone().unwrap_or_else(none),
            status,
            view.guest_ip.map_or_else(none, |ip| ip.to_string()),
            view.vmm.clone().unwrap_or_else(none),
            output::ago(view.since, now()),
            view.reason.clone().unwrap_or_default(),
        ]
    });
    let header = ["instance", "name", "status", "ip", "vmm", "for", "note"];
    let nothing = format!("no instances; 'mvm pool scale {pool} --running 1' creates one");
    output::table(&header, rows.collect(), &nothing)
}
