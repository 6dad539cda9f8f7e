//! `mvm pool list`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::pool::List;
use mvm_model::TenantName;

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::{Session, warn_of};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only this tenant's
    tenant: Option<TenantName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("pool list", form, |session| list(session, args))
}

async fn list(session: Session, args: Args) -> Result<ExitCode> {
    let listed = session.call(List { tenant: args.tenant.clone() }).await?;
    warn_of(&listed.unreadable);
    let views = listed.pools;
    if session.form == Form::Json {
        return output::json(&views).map(|()| ExitCode::SUCCESS);
    }
    let rows = views.iter().map(|view| {
        let (record, want) = (&view.record, view.record.desired_counts);
        let resources = record.instance_resources;
        vec![
            match args.tenant {
                Some(_) => record.pool_id.to_string(),
                None => record.path().to_string(),
            },
            record.role.to_string(),
            record.image.to_string(),
            resources.vcpus.to_string(),
            format!("{} MiB", resources.mem_mib),
            format!("{}/{}/{}", want.running, want.warm, want.sleeping),
            record.current.as_ref().map_or("not built", |digest| digest.short()).to_owned(),
        ]
    });
    let header = ["pool", "role", "image", "vcpus", "memory", "run/warm/sleep", "revision"];
    let tenant = args.tenant.as_ref().map_or_else(|| "TENANT".to_owned(), ToString::to_string);
    let nothing = format!("no pools; 'mvm pool create {tenant}/NAME' makes one");
    output::table(&header, rows.collect(), &nothing)?;
    Ok(ExitCode::SUCCESS)
}
