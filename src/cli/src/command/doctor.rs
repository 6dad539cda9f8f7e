//! `mvm doctor`: what is good and what is not about this host.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::node::{Check, Doctor, Health};

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
    in_session("doctor", args.json.into(), doctor)
}

async fn doctor(session: Session) -> Result<ExitCode> {
    let found = session.call(Doctor {}).await?;
    let checks = &found.checks;
    match session.form {
        Form::Json => output::json(&found)?,
        Form::People => {
            checks.iter().try_for_each(print)?;
            for proof in &found.vmms {
                output::line(&format!("      vmm             {}", proof.found))?;
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
