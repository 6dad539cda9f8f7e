//! `mvm pool list`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_model::TenantName;

use crate::command::{as_root, warn_of};
use crate::output;
use crate::runtime::{Context, Form};

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
    as_root("pool list", form, |context| list(context, args))
}

async fn list(context: Context, args: Args) -> Result<ExitCode> {
    context.service.tenant(&args.tenant)?;
    let found = context.service.records.pools(&args.tenant);
    warn_of(&found.problems);
    let views: Vec<_> =
        found.records.iter().map(|record| context.service.pool_view(record)).collect();
    if context.form == Form::Json {
        return output::json(&views).map(|()| ExitCode::SUCCESS);
    }
    let rows = views.iter().map(|view| {
        let (record, want) = (&view.record, view.record.desired_counts);
        let resources = record.instance_resources;
        vec![
            record.pool_id.to_string(),
            record.role.to_string(),
            super::info::image(&record.image),
            resources.vcpus.to_string(),
            format!("{} MiB", resources.mem_mib),
            format!("{}/{}/{}", want.running, want.warm, want.sleeping),
            record.current.as_ref().map_or("not built", |digest| digest.short()).to_owned(),
        ]
    });
    let header = ["pool", "role", "image", "vcpus", "memory", "run/warm/sleep", "revision"];
    let nothing = format!("no pools; 'mvm pool create {}/NAME' makes one", args.tenant);
    output::table(&header, rows.collect(), &nothing)?;
    Ok(ExitCode::SUCCESS)
}
