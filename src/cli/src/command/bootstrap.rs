//! `mvm bootstrap`: what this host lacks, installed; what it can run, proven.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::doctor::insist_on_production;
use mvm_agent::error::{Error, Kind, Result};
use mvm_agent::install::Release;
use mvm_agent::prove::Verdict;
use mvm_host::packages::Need;
use mvm_model::Digest;
use mvm_model::image::{Profile, Role};

use crate::command::as_root_with_guest;
use crate::output;
use crate::progress::Step;
use crate::runtime::{Context, Form};
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Every check is mandatory: KVM proven, cgroup v2, nftables; no fallback to emulation
    #[arg(long)]
    production: bool,
    /// Install the programs firecracker and jailer that are in this directory
    #[arg(long, value_name = "DIR")]
    firecracker: Option<PathBuf>,
    /// Print JSON: {"vmms": what was proven}
    #[arg(long)]
    json: bool,
}

/// Whether a person is asked before something is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Ask; without a terminal that is a no.
    Ask,
    /// Given.
    Given,
}

impl From<bool> for Consent {
    fn from(yes: bool) -> Self {
        if yes { Self::Given } else { Self::Ask }
    }
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    as_root_with_guest("bootstrap", args.json.into(), |context| bootstrap(context, args))
}

async fn bootstrap(context: Context, args: Args) -> Result<ExitCode> {
    firecracker(&context, args.firecracker.as_deref()).await?;
    if args.production {
        return production(&context, args.yes.into()).await;
    }
    let verdicts = prepare(&context, args.yes.into()).await?;
    tell(context.form, &verdicts, "this host is ready")?;
    talk::say("next: mvm demo");
    Ok(ExitCode::SUCCESS)
}

fn tell(form: Form, verdicts: &[Verdict], ready: &str) -> Result<()> {
    if form == Form::Json {
        return output::json(&serde_json::json!({ "vmms": verdicts }));
    }
    for verdict in verdicts {
        output::line(&verdict.to_string())?;
    }
    output::line(ready)
}

/// Installs Firecracker from a directory; without one, its publisher's release where it is missing
/// and its digest is known. A host it cannot be had for goes on with QEMU.
async fn firecracker(context: &Context, from: Option<&Path>) -> Result<()> {
    if let Some(from) = from {
        let installed = context.service.install_firecracker(from).await?;
        let text = format!("installed Firecracker {}", installed.build());
        return if context.form == Form::Json { Ok(()) } else { output::line(&text) };
    }
    if context.service.has_firecracker() {
        return Ok(());
    }
    let Some(release) = Release::pinned() else {
        talk::say(
            "note: Firecracker is not fetched: this mvm knows no digest from its publisher; \
             --firecracker DIR installs one that is there",
        );
        return Ok(());
    };
    if let Err(error) = context.service.fetch_firecracker(&release).await {
        talk::say(format_args!("note: {}; going on without it", error.chain()));
    }
    Ok(())
}

/// Everything is checked before anything is refused, so that one run names all that is missing.
async fn production(context: &Context, consent: Consent) -> Result<ExitCode> {
    let mut lacks = Vec::new();
    let verdicts = match prepare(context, consent).await {
        Ok(verdicts) => verdicts,
        Err(error) if error.kind == Kind::Interrupted => return Err(error),
        Err(error) => {
            lacks.push(error.chain());
            context.service.known_verdicts()
        }
    };
    lacks.extend(context.service.production_lacks().await);
    insist_on_production(lacks, &verdicts)?;
    match context.form {
        Form::Json => tell(Form::Json, &verdicts, "")?,
        Form::People => output::line("this host is ready for production")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything a first VM needs: programs, the worker image, a proven accelerator.
///
/// # Errors
/// When something cannot be had; the message names it.
pub async fn prepare(context: &Context, consent: Consent) -> Result<Vec<Verdict>> {
    packages(context, consent).await?;
    let digest = image(context, Role::Worker).await?;
    prove(context, &digest).await
}

/// Installs missing programs, with consent.
///
/// # Errors
/// When consent is missing or the system's package manager says no.
pub async fn packages(context: &Context, consent: Consent) -> Result<()> {
    let missing = context.service.missing_programs();
    if missing.is_empty() {
        return Ok(());
    }
    talk::say("this host lacks:");
    for need in &missing {
        talk::say(format_args!("  {:20} {}", need.package, need.reason));
    }
    if consent == Consent::Ask && !ask("install them now?") {
        return Err(refused(&missing));
    }
    let step = Step::start("installing packages");
    context.service.install_programs(step.sink(), context.cancel.clone()).await?;
    step.done();
    Ok(())
}

fn refused(missing: &[Need]) -> Error {
    let names: Vec<_> = missing.iter().map(|need| need.package).collect();
    Error::new(Kind::Unavailable, "", format!("this host lacks {}", names.join(", ")))
        .hint("add --yes to install them, or install them with your package manager")
}

fn ask(question: &str) -> bool {
    if !std::io::stdin().is_terminal() || talk::form() == Form::Json {
        return false;
    }
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Builds the minimal image for a role, or finds it built.
///
/// # Errors
/// When it cannot be built.
pub async fn image(context: &Context, role: Role) -> Result<Digest> {
    let step = Step::start(&format!("preparing the {role} image"));
    let cancel = context.cancel.clone();
    let digest = context.service.ensure_image(Profile::Minimal, role, step.sink(), cancel).await?;
    step.done();
    Ok(digest)
}

/// Proves which accelerator runs guests here, or reads the proof made since this boot.
///
/// # Errors
/// When none does, with each one's reason.
pub async fn prove(context: &Context, digest: &Digest) -> Result<Vec<Verdict>> {
    let step = Step::start("proving what this host can run");
    let verdicts = context.service.prove(digest).await?;
    step.done();
    Ok(verdicts)
}
