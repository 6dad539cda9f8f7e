//! `mvm new`: a whole deployment from a template.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_api::deployment::New;
use mvm_model::image::BuilderChoice;
use mvm_model::{NetId, Subnet, TenantName};

use super::pool::create::reference;
use crate::command::{bootstrap, connect, in_session_with_guest};
use crate::output;
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Running it again completes what an earlier attempt left.")]
pub struct Args {
    /// What to make: openclaw or hello
    template: String,
    /// The name of the tenant it becomes: 2 to 40 of a-z, 0-9 and '-'
    name: TenantName,
    /// Number of its network, 0 to 4095 [default: the lowest free]
    #[arg(long)]
    net_id: Option<NetId>,
    /// Its private subnet, /16 to /28 [default: 10.240.<net id>.0/24 and on]
    #[arg(long)]
    subnet: Option<Subnet>,
    /// The flake its images are built from [default: mvm's own images]
    #[arg(long, value_name = "REF")]
    flake: Option<String>,
    /// Changes of the template's numbers, as JSON
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Who builds the images: auto, nix or embedded
    #[arg(long, env = "MVM_BUILDER", value_name = "BUILDER", default_value_t)]
    builder: BuilderChoice,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session_with_guest("new", args.json.into(), |session| new(session, args))
}

async fn new(session: Session, args: Args) -> Result<ExitCode> {
    let flake = args.flake.as_deref().map(reference).transpose()?;
    let (flake, typed) = flake.map_or((None, None), |(flake, typed)| (Some(flake), typed));
    let config = args.config.as_deref().map(read).transpose()?;
    // Before anything is prepared for it, or said to be.
    mvm_agent::template::read(&args.template, config.as_deref())?;
    if let Some(context) = session.context() {
        bootstrap::packages(&context, args.yes.into()).await?;
    }
    let Args { template, name, net_id, subnet, builder, .. } = args;
    let step = Step::start(&format!("deploying {template} as {name}"));
    let call = New { template, name: name.clone(), net_id, subnet, flake, typed, builder, config };
    let deployed = session.call_showing(call, &step).await?;
    step.done();
    for note in &deployed.notes {
        talk::say(format_args!("note: {note}"));
    }
    if session.form == Form::Json {
        output::json(&deployed)?;
    } else {
        let took = output::duration(std::time::Duration::from_millis(deployed.took_ms));
        output::line(&format!("{name}: {} ({took})", deployed.about))?;
        output::line("")?;
        connect::show(&deployed.dashboard)?;
    }
    talk::say(format_args!("next: mvm connect {name}"));
    Ok(ExitCode::SUCCESS)
}

fn read(file: &std::path::Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| {
        let text = format!("cannot read {}", file.display());
        Error::new(Kind::Invalid, "--config", text).because(error)
    })
}
