//! `mvm instance logs`: what a workload, the guest agent or the console printed.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use mvm_agent::error::{About, Error, Kind, Result};
use mvm_agent::guest::proto::{LogSource, Logs};
use mvm_agent::handle::printable;
use mvm_api::instance::{HostLog, HostLogSource};
use mvm_model::InstancePath;
use tokio::io::AsyncWriteExt;

use crate::command::in_session;
use crate::gone;
use crate::output::quietly_if_closed;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// How long a guest may take to begin.
const BEGIN: Duration = Duration::from_secs(10);

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Where the guest cannot be asked (it starts, hangs or failed) you get what \
                        the VMM and the console said."
)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<id or name>
    instance: InstancePath,
    /// Lines to begin with, counted from the end
    #[arg(long, default_value_t = 200)]
    lines: u32,
    /// Go on with what is printed from now on (not with --console or --vmm)
    #[arg(long, short, conflicts_with_all = ["console", "vmm"])]
    follow: bool,
    /// What the guest agent noted, instead of the workload's log
    #[arg(long)]
    agent: bool,
    /// The serial console, also of a VM that is gone
    #[arg(long, conflicts_with = "agent")]
    console: bool,
    /// What the VMM itself said, also of one that is gone
    #[arg(long, conflicts_with_all = ["agent", "console"])]
    vmm: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("instance logs", Form::People, |session| async move {
        session.until_interrupted(logs(&session, args)).await
    })
}

async fn logs(session: &Session, args: Args) -> Result<ExitCode> {
    if args.console || args.vmm {
        return on_host(session, args).await;
    }
    let source = if args.agent { LogSource::Agent } else { LogSource::Workload };
    let client = match session.guest(&args.instance).await {
        Err(error) if source == LogSource::Workload && !args.follow => {
            return without_guest(session, args, error).await;
        }
        other => other?,
    };
    let wanted = Logs { source, lines: Some(args.lines), follow: args.follow };
    let mut log = client.logs(wanted, BEGIN).await.about(&args.instance, "read its log")?;
    let mut stdout = tokio::io::stdout();
    loop {
        let next = match log.next().await.about(&args.instance, "read its log") {
            Err(error) => return Err(gone::explain(session, &args.instance, error).await),
            Ok(next) => next,
        };
        let Some(bytes) = next else { return Ok(ExitCode::SUCCESS) };
        let text = printable(&bytes);
        let written = stdout.write_all(text.as_bytes()).await;
        written.map_err(|error| {
            Error::new(Kind::Failed, "", "cannot write the output")
                .because(quietly_if_closed(error))
        })?;
        let _ = stdout.flush().await;
    }
}

/// What the host kept of an instance whose guest cannot be asked: it starts, hangs, or failed.
async fn without_guest(session: &Session, args: Args, error: Error) -> Result<ExitCode> {
    let mut lines = Vec::new();
    for (whose, source) in [("vmm", HostLogSource::Vmm), ("console", HostLogSource::Console)] {
        let log = HostLog { instance: args.instance.clone(), source, lines: args.lines };
        let Ok(text) = session.call(log).await else { continue };
        lines.extend(text.lines.iter().map(|line| format!("{whose}: {line}")));
    }
    if lines.is_empty() {
        return Err(error);
    }
    talk::say(format_args!("note: {}; this is what its VMM and its console said", error.message));
    lines.iter().try_for_each(|line| crate::output::line(line))?;
    Ok(ExitCode::SUCCESS)
}

async fn on_host(session: &Session, args: Args) -> Result<ExitCode> {
    let source = if args.vmm { HostLogSource::Vmm } else { HostLogSource::Console };
    let log = HostLog { instance: args.instance, source, lines: args.lines };
    let text = session.call(log).await?;
    if text.lines.is_empty() {
        talk::say("nothing was logged");
    }
    for line in &text.lines {
        crate::output::line(line)?;
    }
    Ok(ExitCode::SUCCESS)
}
