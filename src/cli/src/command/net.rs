//! `mvm net …`

use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};
use mvm_agent::error::Result;
use mvm_api::net::{Report, Verify};

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold bridges, taps and rules against what they should be, and try what must and must not
    /// get through; exit 1 when something is wrong
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
    in_session("net verify", args.json.into(), verify)
}

async fn verify(session: Session) -> Result<ExitCode> {
    let report = session.call(Verify {}).await?;
    let clean = report.clean;
    match session.form {
        Form::Json => output::json(&report)?,
        Form::People => {
            for finding in &report.findings {
                let (severity, object) = (&finding.severity, &finding.object);
                output::line(&format!("{severity}: {object}: {}", finding.problem))?;
                output::line(&format!("  hint: {}", finding.remedy))?;
            }
            output::line(&verdict(&report))?;
        }
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdict(report: &Report) -> String {
    let Report { tenants, ports, probed, .. } = report;
    match (report.clean, report.findings.is_empty(), tenants) {
        (true, true, 0) => "clean: no bridges remaining".to_owned(),
        (true, _, _) => format!(
            "clean: {tenants} tenant bridges correct, subnets match, no cross-tenant leakage \
             ({ports} ports checked, {probed} networks tried live)"
        ),
        (false, _, _) => format!(
            "not clean: {tenants} tenant bridges and {ports} ports checked, {probed} networks tried live"
        ),
    }
}
