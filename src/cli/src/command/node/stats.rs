//! `mvm node stats`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::node::{FileSystem, GetStats, NodeStats, Wakes};

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
    in_session("node stats", args.json.into(), stats)
}

async fn stats(session: Session) -> Result<ExitCode> {
    let stats = session.call(GetStats {}).await?;
    match session.form {
        Form::Json => output::json(&stats)?,
        Form::People => {
            print(&stats)?;
            tenants(&stats)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(stats: &NodeStats) -> Result<()> {
    let (memory, given, [one, five, fifteen]) = (stats.memory, stats.given, stats.load);
    let mut pairs = vec![
        (
            "CPU",
            format!(
                "{:.1} % of {} CPUs, {} given to guests",
                stats.cpu_percent, stats.cpus, given.vcpus
            ),
        ),
        ("Load", format!("{one:.2} {five:.2} {fifteen:.2}")),
        (
            "Memory",
            format!(
                "{} of {} available, {} MiB given to guests",
                output::bytes(memory.available_bytes),
                output::bytes(memory.total_bytes),
                given.mem_mib
            ),
        ),
        ("Swap in use", output::bytes(memory.swapped_bytes)),
    ];
    pairs.extend(stats.file_systems.iter().map(|disk| ("Disk", disk_line(disk))));
    pairs.push(("Instances", counted(&stats.instances)));
    pairs.push(("Wakes", wakes(&stats.wakes)));
    output::pairs(&pairs)
}

fn wakes(wakes: &Wakes) -> String {
    let reasons: Vec<_> =
        wakes.reasons.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
    let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    format!("{} fast, {} slow{why}", wakes.fast, wakes.slow)
}

/// A file system for people.
pub(super) fn disk_line(disk: &FileSystem) -> String {
    format!(
        "{} of {} free at {}",
        output::bytes(disk.free_bytes),
        output::bytes(disk.total_bytes),
        disk.path.display()
    )
}

fn tenants(stats: &NodeStats) -> Result<()> {
    let rows = stats.tenants.iter().map(|tenant| {
        vec![
            tenant.tenant_id.to_string(),
            counted(&tenant.instances),
            tenant.usage.vcpus.to_string(),
            format!("{} MiB", tenant.usage.mem_mib),
            format!("{:.1} %", tenant.cpu_percent),
            output::bytes(tenant.resident_bytes),
            output::bytes(tenant.disk_claim.total()),
        ]
    });
    output::line("")?;
    let header = ["tenant", "instances", "vcpus", "memory", "cpu", "resident", "disk quota used"];
    output::table(&header, rows.collect(), "no tenants; 'mvm tenant create NAME' makes one")
}
