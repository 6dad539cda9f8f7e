//! `mvm pool info`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::view::PoolView;
use mvm_model::PoolPath;
use mvm_model::image::ImageSource;

use crate::command::as_root;
use crate::output;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The pool: <tenant>/<pool>
    pool: PoolPath,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    as_root("pool info", form, |context| info(context, args))
}

async fn info(context: Context, args: Args) -> Result<ExitCode> {
    let record = context.service.pool(&args.pool)?;
    let view = context.service.pool_view(&record);
    if context.form == Form::Json {
        return output::json(&view).map(|()| ExitCode::SUCCESS);
    }
    let (resources, want) = (record.instance_resources, record.desired_counts);
    let actual: Vec<_> =
        view.actual.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let revision = record.current.as_ref().map_or_else(
        || format!("not built ('mvm pool build {}')", args.pool),
        |digest| {
            format!(
                "{} (builder: {})",
                digest.short(),
                view.builder.as_deref().unwrap_or("unknown")
            )
        },
    );
    let data = match resources.data_disk_mib {
        0 => "none".to_owned(),
        mib => format!("{mib} MiB"),
    };
    output::pairs(&[
        ("Pool", args.pool.to_string()),
        ("Role", record.role.to_string()),
        ("Image", image(&record.image)),
        ("Revision", revision),
        ("vCPUs", resources.vcpus.to_string()),
        ("Memory", format!("{} MiB", resources.mem_mib)),
        ("Data disk", data),
        (
            "Desired",
            format!("{} running, {} warm, {} sleeping", want.running, want.warm, want.sleeping),
        ),
        ("Actual", if actual.is_empty() { "no instances".into() } else { actual.join(", ") }),
        ("Disk", disk(&view)),
    ])?;
    Ok(ExitCode::SUCCESS)
}

/// What a pool takes of its tenant's quota, and of the disk.
fn disk(view: &PoolView) -> String {
    let claim = view.disk_claim;
    format!(
        "{} of the tenant's quota (data drives {}, snapshots {}); {} on disk",
        output::bytes(claim.total()),
        output::bytes(claim.data_bytes),
        output::bytes(claim.snapshot_bytes),
        output::bytes(view.disk_bytes)
    )
}

/// An image source for people.
pub fn image(source: &ImageSource) -> String {
    source.to_string()
}
