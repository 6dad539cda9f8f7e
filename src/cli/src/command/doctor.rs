//! `mvm doctor`: what is good and what is not about this host.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::doctor::{Check, Health};
use mvm_agent::error::Result;

use crate::command::as_root;
use crate::output;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    as_root("doctor", args.json.into(), doctor)
}

async fn doctor(context: Context) -> Result<ExitCode> {
    let checks = context.service.checks().await;
    let verdicts = context.service.known_verdicts();
    match context.form {
        Form::Json => output::json(&serde_json::json!({ "checks": checks, "vmms": verdicts }))?,
        Form::People => {
            checks.iter().try_for_each(print)?;
            for verdict in &verdicts {
                output::line(&format!("      vmm             {verdict}"))?;
            }
        }
    }
    let bad = checks.iter().any(|check| check.health == Health::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(check: &Check) -> Result<()> {
    let mark = match check.health {
        Health::Good => "ok",
        Health::Warning => "warn",
        Health::Bad => "FAIL",
    };
    output::line(&format!("{mark:5} {:15} {}", check.name, check.found))?;
    if let Some(remedy) = &check.remedy {
        output::line(&format!("{:22}hint: {remedy}", ""))?;
    }
    Ok(())
}
