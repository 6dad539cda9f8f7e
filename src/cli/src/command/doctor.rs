//! `mvm doctor`: what is good and what is not about this host; with `--repair`, making right what
//! needs no guess.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::stray::MIN_AGE;
use mvm_api::node::{Check, Doctor, Health, Mode};
use mvm_api::repair::{Handled, Outcome, Repair, Repaired, Stray, Verdict};

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Take away what nothing needs, restore records, write down what became of VMs
    #[arg(long)]
    repair: bool,
    /// With --repair: only say what would be done
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// With --repair: leave alone what is younger, seconds
    #[arg(long, value_name = "SECONDS", requires = "repair", default_value_t = MIN_AGE.as_secs())]
    older_than: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = args.json.into();
    if !args.repair {
        return in_session("doctor", form, doctor);
    }
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Remove };
    let call = Repair { mode, min_age_seconds: args.older_than };
    in_session("doctor --repair", form, |session| repair(session, call))
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

async fn repair(session: Session, call: Repair) -> Result<ExitCode> {
    let done = session.call(call).await?;
    match session.form {
        Form::Json => output::json(&done)?,
        Form::People => tell(&done)?,
    }
    Ok(if done.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(done: &Repaired) -> Result<()> {
    done.handled.iter().try_for_each(|handled| output::line(&word(handled)))?;
    for stray in &done.left {
        output::line(&left(stray))?;
    }
    if let Some(first) = done.quarantine.first() {
        let count = done.quarantine.len();
        output::line(&format!("kept aside: {count}, first {}", first.display()))?;
    }
    if done.handled.is_empty() && done.left.is_empty() {
        output::line("nothing to repair")?;
    }
    Ok(())
}

fn word(handled: &Handled) -> String {
    let Stray { object, verdict, why } = &handled.stray;
    let (past, future) = match verdict {
        Verdict::Reclaim => ("removed", "would remove"),
        Verdict::Settle => ("settled", "would settle"),
        Verdict::Restore => ("restored", "would restore"),
        Verdict::Quarantine => ("moved aside", "would move aside"),
        Verdict::Leave | Verdict::Ask => ("left", "would leave"),
    };
    match &handled.outcome {
        Outcome::Done { moved_to: None } => format!("{past} {object}: {why}"),
        Outcome::Done { moved_to: Some(place) } => {
            format!("{past} {object}: {why}; kept in {}", place.display())
        }
        Outcome::Planned => format!("{future} {object}: {why}"),
        Outcome::Gone => format!("left {object}: it changed meanwhile"),
        Outcome::Failed { message } => format!("FAILED {object}: {message}"),
    }
}

fn left(stray: &Stray) -> String {
    let Stray { object, verdict, why } = stray;
    match verdict {
        Verdict::Ask => format!("needs you: {object}: {why}"),
        _ => format!("left {object}: {why}"),
    }
}
