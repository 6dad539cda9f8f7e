//! `mvm status`: this host at a glance.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::node::{GetOverview, Overview, Proof};

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
    in_session("status", args.json.into(), status)
}

async fn status(session: Session) -> Result<ExitCode> {
    let overview = session.call(GetOverview {}).await?;
    match session.form {
        Form::Json => output::json(&overview)?,
        Form::People => print(&overview)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What guests run with here, on one line; `mvm node info` and `mvm doctor` say why not with others.
fn accelerator(proofs: &[Proof]) -> String {
    let name = |proof: &Proof| format!("{} with {}", proof.vmm, proof.accel);
    let (proven, other): (Vec<_>, Vec<_>) = proofs.iter().partition(|proof| proof.proven);
    let names = |of: &[&Proof]| of.iter().map(|proof| name(proof)).collect::<Vec<_>>().join(", ");
    match (proven.is_empty(), other.is_empty()) {
        (true, true) => "nothing proven since this boot; 'mvm bootstrap' proves it".to_owned(),
        (true, false) => format!("none runs guests ('mvm doctor' says why: {})", names(&other)),
        (false, true) => format!("{}, proven", names(&proven)),
        (false, false) => format!("{}, proven (not {})", names(&proven), names(&other)),
    }
}

fn print(overview: &Overview) -> Result<()> {
    let facts = &overview.machine;
    let counts: Vec<_> =
        overview.instances.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let mut pairs = vec![
        (
            "Host",
            format!(
                "{}, Linux {}, {} CPUs, {} MiB",
                facts.arch, facts.kernel, facts.cpus, facts.mem_mib
            ),
        ),
        ("Node", overview.node_id.clone()),
    ];
    pairs.extend(
        overview.vmm_programs.iter().map(|program| (program.name.as_str(), program.state.clone())),
    );
    pairs.push(("Accelerator", accelerator(&overview.vmms)));
    pairs.extend([
        ("Agent", overview.agent.clone()),
        ("Dev VM", overview.dev.clone()),
        ("Tenants", overview.tenants.to_string()),
        ("Instances", if counts.is_empty() { "none".into() } else { counts.join(", ") }),
        ("Images", output::bytes(overview.image_bytes)),
        ("State", overview.state_dir.display().to_string()),
    ]);
    output::pairs(&pairs)
}
