//! `mvm instance list`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_agent::service::now;
use mvm_agent::view::InstanceView;
use mvm_model::{PoolName, PoolPath, TenantName};

use crate::command::{as_root, warn_of};
use crate::output;
use crate::runtime::{Context, Form};

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
    as_root("instance list", form, |context| list(context, args))
}

async fn list(context: Context, args: Args) -> Result<ExitCode> {
    let records = &context.service.records;
    let found = match (args.tenant, args.pool) {
        (Some(tenant), Some(pool)) => {
            let path = PoolPath { tenant, pool };
            context.service.pool(&path)?;
            records.instances(&path)
        }
        (Some(tenant), None) => {
            context.service.tenant(&tenant)?;
            records.tenant_instances(&tenant)
        }
        (None, Some(_)) => return Err(Error::new(Kind::Invalid, "", "--pool needs --tenant")),
        (None, None) => records.all_instances(),
    };
    warn_of(&found.problems);
    let views: Vec<_> = found.records.iter().map(|record| context.service.view(record)).collect();
    if context.form == Form::Json {
        return output::json(&views).map(|()| ExitCode::SUCCESS);
    }
    table(&views)?;
    Ok(ExitCode::SUCCESS)
}

/// Instances as a table.
///
/// # Errors
/// When stdout is gone.
pub fn table(views: &[InstanceView]) -> Result<()> {
    let none = || "-".to_owned();
    let rows = views.iter().map(|view| {
        let status = match view.transition {
            Some(word) => format!("{} ({word})", view.status.capitalised()),
            None => view.status.capitalised().to_owned(),
        };
        vec![
            format!("{}/{}/{}", view.tenant_id, view.pool_id, view.instance_id),
            view.name.clone().unwrap_or_else(none),
            status,
            view.guest_ip.map_or_else(none, |ip| ip.to_string()),
            view.vmm.clone().unwrap_or_else(none),
            output::ago(view.since, now()),
            view.reason.clone().unwrap_or_default(),
        ]
    });
    let header = ["instance", "name", "status", "ip", "vmm", "for", "note"];
    output::table(
        &header,
        rows.collect(),
        "no instances; 'mvm pool scale TENANT/POOL --running 1' creates one",
    )
}
