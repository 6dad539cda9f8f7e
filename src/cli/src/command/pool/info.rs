//! `mvm pool info`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::view::PoolView;
use mvm_api::pool::Info;
use mvm_model::PoolPath;
use mvm_model::record::PoolRecord;

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;

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
    in_session("pool info", form, |session| info(session, args))
}

async fn info(session: Session, args: Args) -> Result<ExitCode> {
    let view = session.call(Info { pool: args.pool.clone() }).await?;
    let record = &view.record;
    if session.form == Form::Json {
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
        ("Image", asked_for(record)),
        ("Builder", record.origin.builder.to_string()),
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
    revisions(&view)?;
    Ok(ExitCode::SUCCESS)
}

/// Where its image comes from, and what was typed for that.
fn asked_for(record: &PoolRecord) -> String {
    match &record.origin.typed {
        Some(typed) => format!("{} (typed: {typed})", record.image),
        None => record.image.to_string(),
    }
}

fn revisions(view: &PoolView) -> Result<()> {
    if view.revisions.is_empty() {
        return Ok(());
    }
    let now = mvm_agent::service::now();
    let rows = view.revisions.iter().map(|one| {
        let revision = &one.revision;
        let builder = revision.builder.map_or_else(|| "unknown".into(), |b| b.to_string());
        let lock = revision.lock.as_ref().map_or("-", |lock| lock.short());
        let built = match revision.built_at {
            0 => "unknown".to_owned(),
            at => format!("{} ago", output::ago(at, now)),
        };
        let use_ = match (one.current, one.previous, one.here) {
            (_, _, false) => "gone",
            (true, ..) => "current",
            (_, true, _) => "previous",
            _ => "kept",
        };
        vec![
            revision.digest.short().to_owned(),
            use_.to_owned(),
            builder,
            built,
            revision.source.clone(),
            lock.to_owned(),
        ]
    });
    output::line("")?;
    output::table(
        &["revision", "use", "builder", "built", "source", "flake lock"],
        rows.collect(),
        "",
    )
}

/// What a pool takes of its tenant's quota, and of the disk.
fn disk(view: &PoolView) -> String {
    let claim = view.disk_claim;
    format!(
        "{} of the tenant's quota (data drives at full size {}, snapshots {}); {} taken now",
        output::bytes(claim.total()),
        output::bytes(claim.data_bytes),
        output::bytes(claim.snapshot_bytes),
        output::bytes(view.disk_bytes)
    )
}
