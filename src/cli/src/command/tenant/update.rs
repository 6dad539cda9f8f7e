//! `mvm tenant update`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_api::update::{TenantUpdate, UpdateTenant};
use mvm_model::TenantName;
use mvm_model::record::Egress;

use super::create::parse_egress;
use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The tenant
    name: TenantName,
    /// Most vCPUs of its running and warm instances
    #[arg(long)]
    max_vcpus: Option<u32>,
    /// Most memory of its running and warm instances, MiB
    #[arg(long, value_name = "MIB")]
    max_mem: Option<u64>,
    /// Most running instances
    #[arg(long)]
    max_running: Option<u32>,
    /// Most warm instances
    #[arg(long)]
    max_warm: Option<u32>,
    /// Most pools
    #[arg(long)]
    max_pools: Option<u32>,
    /// Most instances in one pool
    #[arg(long)]
    max_instances_per_pool: Option<u32>,
    /// Most disk for data drives and snapshots together, GiB
    #[arg(long, value_name = "GIB")]
    max_disk: Option<u64>,
    /// What its guests may reach: none, internet, or networks like 192.0.2.0/24,198.51.100.7/32
    /// (other names than the tenant's own are answered with internet only)
    #[arg(long, value_parser = parse_egress)]
    egress: Option<Egress>,
    /// Whether the instances of all its pools stay in memory
    #[arg(long)]
    pinned: Option<bool>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("tenant update", form, |session| update(session, args))
}

async fn update(session: Session, args: Args) -> Result<ExitCode> {
    let update = TenantUpdate {
        max_vcpus: args.max_vcpus,
        max_mem_mib: args.max_mem,
        max_running: args.max_running,
        max_warm: args.max_warm,
        max_pools: args.max_pools,
        max_instances_per_pool: args.max_instances_per_pool,
        max_disk_gib: args.max_disk,
        egress: args.egress,
        pinned: args.pinned,
    };
    if update == TenantUpdate::default() {
        return Err(Error::new(Kind::Invalid, &args.name, "nothing to change was given")
            .hint("see 'mvm tenant update --help'"));
    }
    let view = session.call(UpdateTenant { tenant: args.name, update }).await?;
    match session.form {
        Form::Json => output::json(&view)?,
        Form::People => output::line(&format!("tenant {} updated", view.record.tenant_id))?,
    }
    Ok(ExitCode::SUCCESS)
}
