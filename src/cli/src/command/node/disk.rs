//! `mvm node disk`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::node::{GetDisk, NodeDisk, TenantDisk};

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;

/// Less is not shown by itself, bytes.
const WORTH_A_LINE: u64 = 64 << 10;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("node disk", args.json.into(), disk)
}

async fn disk(session: Session) -> Result<ExitCode> {
    let disk = session.call(GetDisk {}).await?;
    match session.form {
        Form::Json => output::json(&disk)?,
        Form::People => print(&disk)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(disk: &NodeDisk) -> Result<()> {
    let areas = disk.areas.iter().map(|area| {
        vec![area.what.clone(), output::bytes(area.bytes), area.path.display().to_string()]
    });
    let mut rows: Vec<_> = areas.collect();
    rows.extend(disk.tenants.iter().flat_map(tenant_rows));
    rows.push(vec!["total".into(), output::bytes(disk.total_bytes), String::new()]);
    output::table(&["what", "on disk", "note"], rows, "")?;
    output::line("")?;
    if disk.tenants.is_empty() {
        output::line("no tenants: their storage is freed")?;
    }
    for tenant in &disk.tenants {
        output::line(&format!(
            "{}: {} of its quota of {} (data drives at full size, snapshots)",
            tenant.tenant_id,
            output::bytes(tenant.claim.total()),
            output::bytes(tenant.quota_bytes)
        ))?;
    }
    for file_system in &disk.file_systems {
        output::line(&super::stats::disk_line(file_system))?;
    }
    let free = output::bytes(disk.reclaimable_bytes);
    output::line(&match disk.reclaimable_bytes {
        0 => "'mvm node gc' would free nothing".to_owned(),
        _ => format!("'mvm node gc' would free {free}"),
    })
}

fn tenant_rows(tenant: &TenantDisk) -> Vec<Vec<String>> {
    let (name, claim) = (&tenant.tenant_id, tenant.claim);
    let full = format!("{} at full size", output::bytes(claim.data_bytes));
    let parts = [
        ("data drives", tenant.data_bytes, full),
        ("snapshots", tenant.snapshot_bytes, String::new()),
        ("records and configuration", tenant.other_bytes, String::new()),
    ];
    let shown = parts.into_iter().enumerate();
    // The first line tells that the tenant is there at all; a few links and records say nothing.
    let shown = shown.filter(|(index, (_, bytes, _))| *index == 0 || *bytes >= WORTH_A_LINE);
    shown
        .map(|(_, (what, bytes, note))| vec![format!("{name}: {what}"), output::bytes(bytes), note])
        .collect()
}
