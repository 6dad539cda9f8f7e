//! `mvm pool create`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::pool::NewPool;
use mvm_model::PoolPath;
use mvm_model::image::{ImageSource, Profile, Role};
use mvm_model::resources::Resources;

use crate::command::as_root;
use crate::output;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Its tenant and name: <tenant>/<pool>
    pool: PoolPath,
    /// What the image holds: minimal, node or openclaw
    #[arg(long, default_value = "minimal")]
    profile: Profile,
    /// What its instances are for: gateway, builder, worker or capability-<word>
    #[arg(long, default_value = "worker")]
    role: Role,
    /// vCPUs of each instance
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory of each instance, MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    mem: u64,
    /// Size of each instance's data drive at /data, MiB; 0 for none
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    data_disk: u64,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    as_root("pool create", Form::People, |context| create(context, args))
}

async fn create(context: Context, args: Args) -> Result<ExitCode> {
    let resources =
        Resources { vcpus: args.cpus, mem_mib: args.mem, data_disk_mib: args.data_disk };
    let image = ImageSource::embedded(args.profile);
    let record = context
        .service
        .create_pool(NewPool { path: args.pool, image, role: args.role, resources })
        .await?;
    output::line(&format!("pool {} created", record.path()))?;
    eprintln!("next: mvm pool build {}", record.path());
    Ok(ExitCode::SUCCESS)
}
