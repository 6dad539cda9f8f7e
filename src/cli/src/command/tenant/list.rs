//! `mvm tenant list`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;

use crate::command::{as_root, warn_of};
use crate::output;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Also show tenants that are part of mvm (dev)
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    as_root("tenant list", form, |context| list(context, args))
}

async fn list(context: Context, args: Args) -> Result<ExitCode> {
    let found = context.service.records.tenants();
    warn_of(&found.problems);
    let shown = found.records.iter().filter(|record| args.all || !record.builtin);
    let views: Vec<_> = shown.map(|record| context.service.tenant_view(record)).collect();
    if context.form == Form::Json {
        return output::json(&views).map(|()| ExitCode::SUCCESS);
    }
    let rows = views.iter().map(|view| {
        let network = view.record.network;
        vec![
            view.record.tenant_id.to_string(),
            network.tenant_net_id.to_string(),
            network.ipv4_subnet.to_string(),
            view.pools.to_string(),
            view.instances.to_string(),
            view.usage.running.to_string(),
            output::bytes(view.disk_bytes),
        ]
    });
    let header = ["tenant", "net id", "subnet", "pools", "instances", "running", "disk"];
    output::table(&header, rows.collect(), "no tenants; 'mvm tenant create NAME' makes one")?;
    Ok(ExitCode::SUCCESS)
}
