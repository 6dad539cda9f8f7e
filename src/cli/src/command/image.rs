//! `mvm image …`: the revisions in the image store.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};
use mvm_agent::error::{Error, Kind, Result};
use mvm_api::image::{Build, Gc, Import, List};
use mvm_model::image::{Profile, Role};

use crate::command::{bootstrap, in_session, in_session_with_guest};
use crate::output;
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List image revisions
    List(ListArgs),
    /// Build images of mvm's own, for pools to come
    Build(BuildArgs),
    /// Take an image made elsewhere into the store
    Import(ImportArgs),
    /// Remove revisions no pool and no instance needs
    Gc(GcArgs),
}

/// Arguments of `list`.
#[derive(Debug, ClapArgs)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `build`.
#[derive(Debug, ClapArgs)]
pub struct BuildArgs {
    /// What to build: <profile>/<role>, like minimal/worker; the role is worker when left out
    #[arg(required = true, value_name = "PROFILE/ROLE")]
    images: Vec<Wanted>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Print JSON: an array of the images, as in 'image list'
    #[arg(long)]
    json: bool,
}

/// Arguments of `import`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "It holds vmlinux or kernel, initrd, rootfs and manifest.json; \
                        docs/reference/image-output.md says what they are.")]
pub struct ImportArgs {
    /// A directory, or a tar archive (also compressed)
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `gc`.
#[derive(Debug, ClapArgs)]
pub struct GcArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `<profile>/<role>`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    profile: Profile,
    role: Role,
}

impl std::str::FromStr for Wanted {
    type Err = mvm_model::image::Unknown;
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let (profile, role) = text.split_once('/').unwrap_or((text, "worker"));
        Ok(Self { profile: profile.parse()?, role: role.parse()? })
    }
}

/// Runs a verb.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::List(args) => in_session("image list", args.json.into(), list),
        Command::Build(args) => {
            in_session_with_guest("image build", args.json.into(), |session| build(session, args))
        }
        Command::Import(args) => {
            in_session("image import", args.json.into(), |session| import(session, args))
        }
        Command::Gc(args) => in_session("image gc", args.json.into(), gc),
    }
}

async fn list(session: Session) -> Result<ExitCode> {
    let views = session.call(List {}).await?;
    if session.form == Form::Json {
        return output::json(&views).map(|()| ExitCode::SUCCESS);
    }
    let rows = views.iter().map(|view| {
        vec![
            view.digest.short().to_owned(),
            view.profile.clone(),
            view.role.to_string(),
            view.builder.clone(),
            view.kernel.clone(),
            output::bytes(view.bytes),
            if view.needed_by.is_empty() { "free".into() } else { view.needed_by.join(", ") },
        ]
    });
    let header = ["revision", "profile", "role", "builder", "kernel", "size", "used by"];
    output::table(
        &header,
        rows.collect(),
        "no images; 'mvm image build minimal/worker' makes one",
    )?;
    Ok(ExitCode::SUCCESS)
}

async fn build(session: Session, args: BuildArgs) -> Result<ExitCode> {
    if let Some(context) = session.context() {
        bootstrap::packages(&context, args.yes.into()).await?;
    }
    let mut built = Vec::new();
    for Wanted { profile, role } in args.images {
        let step = Step::start(&format!("building the {profile} image for a {role}"));
        let call = Build { profile, role: role.clone() };
        let digest = session.call_showing(call, &step).await?;
        let took = output::duration(step.done());
        match session.form {
            Form::Json => built.push(digest),
            Form::People => {
                output::line(&format!("{profile}/{role} is revision {digest} ({took})"))?;
            }
        }
    }
    if session.form == Form::Json {
        let mut views = session.call(List {}).await?;
        views.retain(|view| built.contains(&view.digest));
        output::json(&views)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn import(session: Session, args: ImportArgs) -> Result<ExitCode> {
    let path = std::path::absolute(&args.path).map_err(|error| {
        Error::new(Kind::Invalid, "", "cannot find the path of the image").because(error)
    })?;
    let step = Step::start(&format!("importing {}", args.path.display()));
    let view = session.call_showing(Import { path }, &step).await?;
    step.done();
    if session.form == Form::Json {
        return output::json(&view).map(|()| ExitCode::SUCCESS);
    }
    output::line(&format!("{}/{} is revision {}", view.profile, view.role, view.digest))?;
    talk::say(format_args!(
        "next: mvm pool create TENANT/POOL --revision {} --role {}",
        view.digest, view.role
    ));
    Ok(ExitCode::SUCCESS)
}

async fn gc(session: Session) -> Result<ExitCode> {
    let step = Step::start("removing unneeded image revisions");
    let collected = session.call_showing(Gc {}, &step).await?;
    step.done();
    match session.form {
        Form::Json => output::json(&collected)?,
        Form::People => output::line(&format!(
            "{} removed, {} freed",
            output::count(collected.revisions.len(), "revision"),
            output::bytes(collected.bytes)
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_profile_for_a_role() {
        let wanted = |text: &str| text.parse::<Wanted>();
        let both = Wanted { profile: Profile::Hello, role: Role::Gateway };
        assert_eq!(wanted("hello/gateway").unwrap(), both);
        assert_eq!(wanted("node").unwrap().role, Role::Worker);
        assert!(wanted("windows/worker").is_err() && wanted("minimal/king").is_err());
    }
}
