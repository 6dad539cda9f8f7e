//! `mvm tenant create`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::tenant::Create;
use mvm_model::record::Egress;
use mvm_model::resources::Quotas;
use mvm_model::{NetId, Subnet, TenantName};

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Its name: 2 to 40 of a-z, 0-9 and '-'
    name: TenantName,
    /// Number of its network, 0 to 4095 [default: the lowest free]
    #[arg(long)]
    net_id: Option<NetId>,
    /// Its private subnet, /16 to /28 [default: 10.240.<net id>.0/24 and on]
    #[arg(long)]
    subnet: Option<Subnet>,
    /// Most vCPUs of its running and warm instances
    #[arg(long, default_value_t = Quotas::default().max_vcpus)]
    max_vcpus: u32,
    /// Most memory of its running and warm instances, MiB
    #[arg(long, value_name = "MIB", default_value_t = Quotas::default().max_mem_mib)]
    max_mem: u64,
    /// Most running instances
    #[arg(long, default_value_t = Quotas::default().max_running)]
    max_running: u32,
    /// Most warm instances
    #[arg(long, default_value_t = Quotas::default().max_warm)]
    max_warm: u32,
    /// Most pools
    #[arg(long, default_value_t = Quotas::default().max_pools)]
    max_pools: u32,
    /// Most instances in one pool
    #[arg(long, default_value_t = Quotas::default().max_instances_per_pool)]
    max_instances_per_pool: u32,
    /// Most disk for data drives and snapshots together, GiB
    #[arg(long, value_name = "GIB", default_value_t = Quotas::default().max_disk_gib)]
    max_disk: u64,
    /// What its guests may reach: none, internet, or networks like 192.0.2.0/24,198.51.100.7/32
    /// (other names than the tenant's own are answered with internet only)
    #[arg(long, default_value = "internet", value_parser = parse_egress)]
    egress: Egress,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn parse_egress(text: &str) -> Result<Egress, String> {
    match text {
        "none" => Ok(Egress::None),
        "internet" => Ok(Egress::Internet),
        list => {
            let nets: Result<Vec<_>, _> = list.split(',').map(|net| net.trim().parse()).collect();
            nets.map(Egress::List)
                .map_err(|_| "write none, internet, or networks in CIDR notation".to_owned())
        }
    }
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("tenant create", form, |session| create(session, args))
}

async fn create(session: Session, args: Args) -> Result<ExitCode> {
    let quotas = Quotas {
        max_vcpus: args.max_vcpus,
        max_mem_mib: args.max_mem,
        max_running: args.max_running,
        max_warm: args.max_warm,
        max_pools: args.max_pools,
        max_instances_per_pool: args.max_instances_per_pool,
        max_disk_gib: args.max_disk,
    };
    let new = Create {
        tenant: args.name,
        net_id: args.net_id,
        subnet: args.subnet,
        quotas,
        egress: args.egress,
    };
    let view = session.call(new).await?;
    let record = &view.record;
    match session.form {
        Form::Json => output::json(&view)?,
        Form::People => {
            let (name, network) = (&record.tenant_id, record.network);
            output::line(&format!(
                "tenant {name} created: bridge {}, subnet {}, gateway {}",
                network.tenant_net_id.bridge(),
                network.ipv4_subnet,
                network.ipv4_subnet.gateway()
            ))?;
            talk::say(format_args!(
                "next: mvm pool create {name}/workers --profile minimal --cpus 1 --mem 256"
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn egress_is_none_internet_or_networks() {
        assert_eq!(parse_egress("none"), Ok(Egress::None));
        assert_eq!(
            parse_egress("192.0.2.0/24, 198.51.100.7/32")
                .map(|egress| matches!(egress, Egress::List(nets) if nets.len() == 2)),
            Ok(true)
        );
        assert!(parse_egress("everything").is_err());
    }
}
