//! `mvm tenant info`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::tenant::Info;
use mvm_model::TenantName;
use mvm_model::record::Egress;

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The tenant
    name: TenantName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("tenant info", form, |session| info(session, args))
}

async fn info(session: Session, args: Args) -> Result<ExitCode> {
    let view = session.call(Info { tenant: args.name }).await?;
    let record = &view.record;
    if session.form == Form::Json {
        return output::json(&view).map(|()| ExitCode::SUCCESS);
    }
    let (network, quotas, usage) = (record.network, record.quotas, view.usage);
    let of = |used: u64, limit: u64| format!("{used} of {limit}");
    output::pairs(&[
        ("Tenant", record.tenant_id.to_string()),
        ("Net id", network.tenant_net_id.to_string()),
        ("Subnet", network.ipv4_subnet.to_string()),
        ("Gateway", view.gateway.to_string()),
        ("Bridge", view.bridge.clone()),
        ("Egress", egress(&record.egress)),
        ("Managed by", format!("{:?}", record.managed_by).to_lowercase()),
        ("Pools", of(view.pools as u64, quotas.max_pools.into())),
        (
            "Instances",
            format!("{} (at most {} in a pool)", view.instances, quotas.max_instances_per_pool),
        ),
        ("Running", of(usage.running.into(), quotas.max_running.into())),
        ("Warm", of(usage.warm.into(), quotas.max_warm.into())),
        ("vCPUs", of(usage.vcpus.into(), quotas.max_vcpus.into())),
        ("Memory", format!("{} MiB of {} MiB", usage.mem_mib, quotas.max_mem_mib)),
        (
            "Disk",
            format!(
                "{} of {} GiB (data drives at full size {}, snapshots {})",
                output::bytes(view.disk_claim.total()),
                quotas.max_disk_gib,
                output::bytes(view.disk_claim.data_bytes),
                output::bytes(view.disk_claim.snapshot_bytes)
            ),
        ),
        ("Taken now", format!("{} (images are shared)", output::bytes(view.disk_bytes))),
    ])?;
    Ok(ExitCode::SUCCESS)
}

fn egress(egress: &Egress) -> String {
    match egress {
        Egress::None => "none".into(),
        Egress::Internet => "internet (nothing private)".into(),
        Egress::List(nets) => nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
