//! `mvm net …`

use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};
use mvm_agent::error::Result;

use crate::command::as_root;
use crate::output;
use crate::runtime::{Context, Form};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold bridges, taps and rules against what they should be; exit 1 when something differs
    Verify(VerifyArgs),
}

/// Arguments of `verify`.
#[derive(Debug, ClapArgs)]
pub struct VerifyArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a verb.
pub fn run(command: Command) -> ExitCode {
    let Command::Verify(args) = command;
    as_root("net verify", args.json.into(), verify)
}

async fn verify(context: Context) -> Result<ExitCode> {
    let report = context.service.verify_net().await?;
    let clean = report.is_clean();
    match context.form {
        Form::Json => output::json(&report)?,
        Form::People => {
            for finding in &report.findings {
                let severity = format!("{:?}", finding.severity).to_lowercase();
                output::line(&format!("{severity}: {}: {}", finding.object, finding.problem))?;
                output::line(&format!("  hint: {}", finding.remedy))?;
            }
            let verdict = if clean { "clean" } else { "not clean" };
            output::line(&format!(
                "{verdict}: {} tenant bridges and {} ports checked",
                report.tenants, report.ports
            ))?;
        }
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
