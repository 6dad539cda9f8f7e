//! `mvm connect`: everything of one deployment at a glance.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::deployment::{Connect, Dashboard};
use mvm_model::TenantName;

use crate::command::in_session;
use crate::command::instance::list;
use crate::output;
use crate::runtime::Form;
use crate::session::{Session, interrupted};

/// How often a watched dashboard is drawn again.
const AGAIN: Duration = Duration::from_secs(2);

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The tenant
    name: TenantName,
    /// Draw it again every two seconds until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Print JSON; with --watch one document a line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("connect", args.json.into(), |session| connect(session, args))
}

async fn connect(session: Session, args: Args) -> Result<ExitCode> {
    loop {
        let dashboard = session.call(Connect { name: args.name.clone() }).await?;
        match (session.form, args.watch) {
            (Form::Json, true) => {
                output::line(&serde_json::to_string(&dashboard).unwrap_or_default())?;
            }
            (Form::Json, false) => output::json(&dashboard)?,
            (Form::People, watch) => {
                if watch {
                    output::clear()?;
                }
                show(&dashboard)?;
                output::line("")?;
                output::line(&next(&dashboard))?;
            }
        }
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = interrupted(&session.cancel) => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// The dashboard without the commands that come next.
///
/// # Errors
/// When stdout is gone.
pub fn show(dashboard: &Dashboard) -> Result<()> {
    let tenant = &dashboard.tenant;
    let mut pairs = vec![
        ("Tenant", tenant.record.tenant_id.to_string()),
        ("Gateway", tenant.gateway.to_string()),
        ("Subnet", tenant.record.network.ipv4_subnet.to_string()),
        ("Bridge", tenant.bridge.clone()),
    ];
    for gateway in &dashboard.gateways {
        let how = match gateway.ready {
            Some(true) => "ready",
            Some(false) => "not ready yet",
            None => "does not say",
        };
        pairs.push(("Entry", format!("{} ({how})", gateway.addresses.join(", "))));
    }
    output::pairs(&pairs)?;
    output::line("")?;
    pools(dashboard)?;
    output::line("")?;
    let name = &tenant.record.tenant_id;
    if dashboard.instances.is_empty() {
        let pool = dashboard.pools.last().map_or("workers", |pool| pool.record.pool_id.as_str());
        output::line(&format!(
            "no instances yet; the deployment may still be building: mvm pool info {name}/{pool}"
        ))
    } else {
        list::table(&dashboard.instances, &format!("{name}/workers"))
    }
}

fn pools(dashboard: &Dashboard) -> Result<()> {
    let rows = dashboard.pools.iter().map(|pool| {
        let (record, given) = (&pool.record, pool.record.instance_resources);
        let want = record.desired_counts;
        let actual: Vec<_> =
            pool.actual.iter().map(|(status, count)| format!("{count} {status}")).collect();
        vec![
            record.pool_id.to_string(),
            record.role.to_string(),
            given.vcpus.to_string(),
            format!("{} MiB", given.mem_mib),
            match given.data_disk_mib {
                0 => "-".to_owned(),
                mib => format!("{mib} MiB"),
            },
            format!("{}/{}/{}", want.running, want.warm, want.sleeping),
            actual.join(", "),
        ]
    });
    let header = ["pool", "role", "vcpus", "memory", "data", "run/warm/sleep", "actual"];
    output::table(&header, rows.collect(), "no pools yet")
}

/// How many more of a pool's instances the tenant may have running.
fn room(dashboard: &Dashboard) -> u32 {
    let quotas = dashboard.tenant.record.quotas;
    let wanted: u32 = dashboard.pools.iter().map(|pool| pool.record.desired_counts.running).sum();
    quotas.max_running.saturating_sub(wanted)
}

/// What a person does next, with this deployment's names; only what its quotas allow.
fn next(dashboard: &Dashboard) -> String {
    let name = &dashboard.tenant.record.tenant_id;
    let pool = dashboard.pools.last().map_or("workers", |pool| pool.record.pool_id.as_str());
    let running = dashboard.pools.last().map_or(0, |pool| pool.record.desired_counts.running);
    let most = dashboard.tenant.record.quotas.max_running;
    let shell =
        dashboard.instances.iter().find(|one| one.status == mvm_model::state::Status::Running);
    let mut lines = vec![
        "Next:".to_owned(),
        format!("  mvm tenant secrets set {name} NAME --from-file FILE"),
        match (running, room(dashboard)) {
            (_, 0) => format!("  mvm tenant update {name} --max-running {}", most + 1),
            (running, _) => {
                format!("  mvm pool scale {name}/{pool} --running {} --wait", running + 1)
            }
        },
        format!("  mvm instance list --tenant {name}"),
    ];
    lines.extend(entry(dashboard));
    lines.extend(shell.map(|one| format!("  mvm instance shell {}", one.path())));
    lines.join("\n")
}

/// How its entry is reached: from this host only.
fn entry(dashboard: &Dashboard) -> Option<String> {
    let ready = dashboard.gateways.iter().find(|gateway| gateway.ready != Some(false))?;
    ready.addresses.first().map(|address| format!("  curl http://{address}   (on this host)"))
}
