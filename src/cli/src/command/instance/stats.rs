//! `mvm instance stats`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::service::now;
use mvm_api::instance::{Counters, GetStats};
use mvm_model::InstancePath;

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<id or name>
    instance: InstancePath,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("instance stats", form, |session| stats(session, args))
}

async fn stats(session: Session, args: Args) -> Result<ExitCode> {
    let stats = session.call(GetStats { instance: args.instance }).await?;
    if session.form == Form::Json {
        return output::json(&stats).map(|()| ExitCode::SUCCESS);
    }
    let (view, counters) = (&stats.view, &stats.counters);
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let mut pairs = vec![
        ("Instance", view.path()),
        ("Status", view.status.capitalised().to_owned()),
        ("For", output::ago(view.since, now())),
        ("Role", view.role.clone()),
        ("IP", or_none(view.guest_ip.map(|ip| ip.to_string()))),
        ("MAC", view.mac.to_string()),
        ("TAP", view.tap_dev.clone()),
        ("PID", or_none(view.pid.map(|pid| pid.to_string()))),
        ("VMM", or_none(view.vmm.clone())),
        ("Revision", or_none(view.revision.as_ref().map(|digest| digest.short().to_owned()))),
        ("vCPUs", counters.vcpus.to_string()),
        ("Memory", format!("{} MiB", counters.mem_mib)),
        ("Resident", or_none(counters.resident_bytes.map(output::bytes))),
        (
            "CPU time",
            or_none(
                counters.cpu_ms.map(|ms| output::duration(std::time::Duration::from_millis(ms))),
            ),
        ),
        ("Data drive", output::bytes(counters.data_bytes)),
        (
            "Snapshot",
            match counters.snapshot_bytes {
                0 => "none".into(),
                bytes => output::bytes(bytes),
            },
        ),
        (
            "Network",
            format!(
                "{} received, {} sent",
                output::bytes(counters.rx_bytes),
                output::bytes(counters.tx_bytes)
            ),
        ),
        ("Guest agent", stats.guest_agent.clone()),
        ("Wakes", wakes(counters)),
    ];
    if let Some(reason) = &view.reason {
        pairs.push(("Note", reason.clone()));
    }
    output::pairs(&pairs)?;
    Ok(ExitCode::SUCCESS)
}

fn wakes(counters: &Counters) -> String {
    let mut text = format!("{}, {} of them slow", counters.wakes, counters.slow_wakes);
    if let Some(reason) = &counters.slow_because {
        text = format!("{text} (last: {reason})");
    }
    if counters.vmm_waits {
        text.push_str("; a VMM waits for the next");
    }
    text
}
