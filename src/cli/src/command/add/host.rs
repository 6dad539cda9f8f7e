//! `mvm add host`: everything a machine needs before `mvm agent serve`. Repeatable.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_agent::onboard::{Access, GROUP, Onboarded};
use mvm_agent::prove::Verdict;

use crate::command::{as_root_with_guest, bootstrap};
use crate::error::report;
use crate::output;
use crate::runtime::{Context, Form};
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// The fleet's certificate authority (not in this version)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The coordinator's public signing key (not in this version)
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Insist on everything a production host needs (not in this version)
    #[arg(long)]
    production: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    // Before anybody is asked for a password or a package is installed.
    match refuse_fleet(&args) {
        Ok(()) => as_root_with_guest("add host", form, |context| add(context, args)),
        Err(error) => report(form, &error),
    }
}

/// A host of a fleet proves who it is by certificates, which there are none of yet: taking the
/// files and doing nothing with them would promise what is not there.
fn refuse_fleet(args: &Args) -> Result<()> {
    let asked = [
        ("--ca", args.ca.is_some()),
        ("--signing-key", args.signing_key.is_some()),
        ("--production", args.production),
    ];
    let Some((flag, _)) = asked.into_iter().find(|(_, given)| *given) else { return Ok(()) };
    let text = format!("{flag} needs fleet certificates, which this version does not have yet");
    Err(Error::new(Kind::Refused, "", text)
        .hint("'mvm add host' alone prepares a single host for development; 'mvm bootstrap --production' checks what production needs"))
}

async fn add(context: Context, args: Args) -> Result<ExitCode> {
    let verdicts = bootstrap::prepare(&context, args.yes.into()).await?;
    let host = context.service.onboard()?;
    match context.form {
        Form::Json => output::json(&serde_json::json!({ "host": host, "vmms": verdicts }))?,
        Form::People => print(&host, &verdicts)?,
    }
    talk::say("no certificates yet: this host is a fleet of its own; they come with the fleet");
    talk::say("next: mvm agent serve");
    Ok(ExitCode::SUCCESS)
}

fn print(host: &Onboarded, verdicts: &[Verdict]) -> Result<()> {
    let access = match host.group {
        Access::GroupMade => format!("root and the group {GROUP}, which was made now"),
        Access::GroupThere => format!("root and the group {GROUP}"),
        Access::RootOnly => {
            format!("root only (the directories are your own, so no group {GROUP} was made)")
        }
    };
    let mut pairs = vec![("Node", host.node_id.clone())];
    pairs.extend(verdicts.iter().map(|verdict| ("Accelerator", verdict.to_string())));
    pairs.extend([
        ("State", host.state_dir.display().to_string()),
        ("Configuration", host.config_dir.display().to_string()),
        ("May talk to the agent", access),
        ("Certificates", "none yet".into()),
    ]);
    output::pairs(&pairs)
}
