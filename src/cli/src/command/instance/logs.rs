//! `mvm instance logs`: what a workload, the guest agent or the console printed.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use mvm_agent::error::{About, Error, Kind, Result};
use mvm_agent::guest::proto::{LogSource, Logs};
use mvm_model::InstancePath;
use mvm_vmm::supervisor::{CONSOLE_LOG, VMM_LOG, ring};
use tokio::io::AsyncWriteExt;

use crate::command::as_root;
use crate::output::quietly_if_closed;
use crate::runtime::{Context, Form};

/// How long a guest may take to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// The most that is read of a log on the host, bytes; it keeps no more.
const MOST: u64 = 1 << 20;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<id or name>
    instance: InstancePath,
    /// Lines to begin with, counted from the end
    #[arg(long, default_value_t = 200)]
    lines: u32,
    /// Go on with what is printed from now on
    /// (not with --console or --vmm)
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
    as_root("instance logs", Form::People, |context| async move {
        let whole = context.clone();
        whole.until_interrupted(logs(context, args)).await
    })
}

async fn logs(context: Context, args: Args) -> Result<ExitCode> {
    if args.console || args.vmm {
        return on_host(&context, &args);
    }
    let source = if args.agent { LogSource::Agent } else { LogSource::Workload };
    let client = context.service.guest(&args.instance).await?;
    let wanted = Logs { source, lines: Some(args.lines), follow: args.follow };
    let mut log = client.logs(wanted, BEGIN).await.about(&args.instance, "read its log")?;
    let mut stdout = tokio::io::stdout();
    while let Some(bytes) = log.next().await.about(&args.instance, "read its log")? {
        let text = printable(&bytes);
        let written = stdout.write_all(text.as_bytes()).await;
        written.map_err(|error| {
            Error::new(Kind::Failed, "", "cannot write the output")
                .because(quietly_if_closed(error))
        })?;
        let _ = stdout.flush().await;
    }
    Ok(ExitCode::SUCCESS)
}

fn on_host(context: &Context, args: &Args) -> Result<ExitCode> {
    let record = context.service.instance(&args.instance)?;
    let name = if args.vmm { VMM_LOG } else { CONSOLE_LOG };
    let path = context.service.dirs.vm(record.instance_id).join(name);
    let bytes = ring::read(&path, MOST).map_err(|error| {
        Error::new(Kind::NotFound, &args.instance, "there is no log of a VM of it on this host")
            .because(error)
    })?;
    let text = printable(&bytes);
    if text.is_empty() {
        eprintln!("nothing was logged");
    }
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(args.lines as usize);
    for line in &lines[from..] {
        crate::output::line(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a guest printed must not drive a person's terminal: only text, tabs and line ends.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_log_cannot_drive_the_terminal() {
        assert_eq!(super::printable(b"a\x1b[2Jb\r\n\tc\x07"), "a[2Jb\n\tc");
    }
}
