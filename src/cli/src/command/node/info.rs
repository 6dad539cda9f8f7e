//! `mvm node info`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::node::{GetInfo, NodeInfo};

use super::counted;
use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("node info", args.json.into(), info)
}

async fn info(session: Session) -> Result<ExitCode> {
    let info = session.call(GetInfo {}).await?;
    match session.form {
        Form::Json => output::json(&info)?,
        Form::People => print(&info)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(info: &NodeInfo) -> Result<()> {
    let (facts, given) = (&info.machine, info.given);
    let mut pairs = vec![
        ("Node", info.node_id.clone()),
        ("Host name", info.hostname.clone()),
        ("Architecture", facts.arch.clone()),
        ("vCPUs", format!("{}, {} given to guests", facts.cpus, given.vcpus)),
        ("Memory", format!("{} MiB, {} MiB given to guests", facts.mem_mib, given.mem_mib)),
        ("CPU", facts.cpu_class.clone()),
        ("Kernel", format!("Linux {}", facts.kernel)),
    ];
    pairs.extend(
        info.vmm_programs.iter().map(|program| (program.name.as_str(), program.state.clone())),
    );
    pairs.extend(info.vmms.iter().map(|proof| ("Accelerator", proof.found.clone())));
    if info.vmms.is_empty() {
        let none = "nothing proven since this boot; 'mvm bootstrap' proves it";
        pairs.push(("Accelerator", none.into()));
    }
    let versions = &info.versions;
    pairs.extend([
        ("Tenants", info.tenants.to_string()),
        ("Instances", counted(&info.instances)),
        (
            "Versions",
            format!(
                "mvm {}, guest protocol {}, records {}",
                versions.mvm, versions.guest_proto, versions.records
            ),
        ),
        ("State", info.state_dir.display().to_string()),
        ("Images", info.cache_dir.display().to_string()),
    ]);
    output::pairs(&pairs)
}
