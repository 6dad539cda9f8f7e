//! `mvm pool create`

use std::path::Path;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_api::pool::Create;
use mvm_model::image::{BuilderChoice, FlakeRef, ImageSource, Origin, Profile, Role};
use mvm_model::resources::Resources;
use mvm_model::{Digest, PoolPath, ProfileName};

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Without --flake the image is one of mvm's own: minimal, hello, node or \
                        openclaw.\nWith it, Nix builds packages.<system>.tenant-<role>-<profile> \
                        of the flake.")]
pub struct Args {
    /// Its tenant and name: <tenant>/<pool>
    pool: PoolPath,
    /// The flake its image is built from: a directory, github:OWNER/REPO, git+https://…
    #[arg(long, value_name = "REF")]
    flake: Option<String>,
    /// What the image holds
    #[arg(long, default_value = "minimal")]
    profile: ProfileName,
    /// A revision that is in the image store, instead of one to build
    #[arg(long, value_name = "DIGEST", conflicts_with_all = ["flake", "profile", "builder"])]
    revision: Option<Digest>,
    /// What its instances are for: gateway, builder, worker or capability-<word>
    #[arg(long, default_value = "worker")]
    role: Role,
    /// vCPUs of each instance
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory of each instance, MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    mem: u64,
    /// Size of each instance's data drive at /data, MiB; 0 for none
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    data_disk: u64,
    /// Who builds the image: auto, nix or embedded
    #[arg(long, env = "MVM_BUILDER", value_name = "BUILDER")]
    builder: Option<BuilderChoice>,
    /// Print JSON: the pool, as in 'pool info'
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("pool create", args.json.into(), |session| create(session, args))
}

async fn create(session: Session, args: Args) -> Result<ExitCode> {
    let (image, typed) = source(&args)?;
    let call = Create {
        pool: args.pool,
        image,
        role: args.role,
        resources: Resources { vcpus: args.cpus, mem_mib: args.mem, data_disk_mib: args.data_disk },
        origin: Origin { typed, builder: args.builder.unwrap_or_default() },
    };
    let view = session.call(call).await?;
    if session.form == Form::Json {
        return output::json(&view).map(|()| ExitCode::SUCCESS);
    }
    let record = view.record;
    output::line(&format!("pool {} created", record.path()))?;
    talk::say(format_args!("next: mvm pool build {}", record.path()));
    Ok(ExitCode::SUCCESS)
}

/// Where the image comes from, and what was typed for it where that is kept differently.
fn source(args: &Args) -> Result<(ImageSource, Option<String>)> {
    if let Some(digest) = &args.revision {
        return Ok((ImageSource::Revision { digest: digest.clone() }, None));
    }
    let Some(flake) = &args.flake else {
        return embedded(args).map(|image| (image, None));
    };
    let (reference, typed) = reference(flake).map_err(|error| error.of(&args.pool))?;
    Ok((ImageSource::flake(reference, args.profile.clone()), typed))
}

fn embedded(args: &Args) -> Result<ImageSource> {
    let bad = |text: &str| Error::new(Kind::Invalid, &args.pool, text);
    if args.builder == Some(BuilderChoice::Nix) {
        return Err(bad("Nix builds images of flakes only").hint("add --flake REF"));
    }
    match args.profile.as_str().parse::<Profile>() {
        Ok(profile) => Ok(ImageSource::embedded(profile)),
        Err(error) => Err(bad(&error.to_string())
            .hint("choose one of them, or name the flake that has it: --flake REF")),
    }
}

/// A flake as it is kept, its path absolute, and what was typed where that differs.
///
/// # Errors
/// [`Kind::Invalid`] when it is no reference, with what to write instead.
pub fn reference(typed: &str) -> Result<(FlakeRef, Option<String>)> {
    let bad = |error: mvm_model::image::BadFlakeRef| {
        Error::new(Kind::Invalid, "", error.to_string()).hint(error.hint())
    };
    let given: FlakeRef = typed.parse().map_err(bad)?;
    let here = std::env::current_dir().map_err(|error| {
        Error::new(Kind::Failed, "", "cannot find the working directory").because(error)
    })?;
    let kept = given.absolute(Path::new(&here)).map_err(bad)?;
    let differs = kept != given;
    Ok((kept, differs.then(|| typed.to_owned())))
}
