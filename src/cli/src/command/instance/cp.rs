//! `mvm instance cp`: one file to or from a guest.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use mvm_agent::error::{About, Error, Kind, Result};
use mvm_agent::guest::fresh_id;
use mvm_agent::guest::proto::{ReadFile, WriteFile};
use mvm_model::InstancePath;
use tokio::fs::File;

use crate::command::in_session;
use crate::output;
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;

/// The longest time without progress.
const STALL: Duration = Duration::from_secs(30);

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "One of the two is <tenant>/<pool>/<instance>:<absolute path>, the other a local file"
)]
pub struct Args {
    /// What to copy
    from: String,
    /// Where to
    to: String,
}

/// One end of a copy.
enum End {
    Local(PathBuf),
    Guest(InstancePath, String),
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("instance cp", Form::People, |session| async move {
        session.until_interrupted(copy(&session, args)).await
    })
}

/// `<tenant>/<pool>/<instance>:/path` is in a guest; everything else is local.
fn end(text: &str) -> End {
    if let Some((instance, path)) = text.split_once(':')
        && let Ok(instance) = instance.parse()
    {
        return End::Guest(instance, path.to_owned());
    }
    End::Local(text.into())
}

async fn copy(session: &Session, args: Args) -> Result<ExitCode> {
    match (end(&args.from), end(&args.to)) {
        (End::Local(from), End::Guest(instance, to)) => upload(session, &from, &instance, to).await,
        (End::Guest(instance, from), End::Local(to)) => {
            download(session, &instance, from, &to).await
        }
        _ => Err(Error::new(Kind::Invalid, "", "exactly one of the two must be in an instance")
            .hint("mvm instance cp FILE TENANT/POOL/INSTANCE:/PATH, or the other way round")),
    }
}

fn failed(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Failed, path.display(), format!("cannot {doing} {}", path.display()))
        .because(error)
}

async fn upload(
    session: &Session,
    from: &Path,
    instance: &InstancePath,
    to: String,
) -> Result<ExitCode> {
    let mut file = File::open(from).await.map_err(|error| failed("read", from, error))?;
    let meta = file.metadata().await.map_err(|error| failed("read", from, error))?;
    if !meta.is_file() {
        return Err(Error::new(
            Kind::Invalid,
            from.display(),
            format!("{} is not a regular file", from.display()),
        ));
    }
    let path = in_directory(&to, from);
    let client = session.guest(instance).await?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
    let write = WriteFile { path, mode: Some(mode), size: Some(meta.len()), user: None };
    let step = Step::start(&format!("copying {}", output::bytes(meta.len())));
    client
        .write_file(&fresh_id(), write, &mut file, STALL)
        .await
        .about(instance, "copy the file")?;
    step.done();
    Ok(ExitCode::SUCCESS)
}

/// A guest path that ends in `/` is a directory the file goes into.
fn in_directory(to: &str, from: &Path) -> String {
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    if to.is_empty() || to.ends_with('/') { format!("{to}{name}") } else { to.to_owned() }
}

async fn download(
    session: &Session,
    instance: &InstancePath,
    from: String,
    to: &Path,
) -> Result<ExitCode> {
    let target = match to.is_dir() {
        true => to.join(Path::new(&from).file_name().unwrap_or_default()),
        false => to.to_owned(),
    };
    let client = session.guest(instance).await?;
    let read = ReadFile { path: from, offset: 0, length: None };
    let step = Step::start("copying");
    let copied = match Target::open(&target)? {
        Target::Existing(mut file) => client
            .read_file(read, &mut file, STALL)
            .await
            .map(drop)
            .about(instance, "copy the file"),
        Target::Beside(beside) => {
            let file =
                beside.as_file().try_clone().map_err(|error| failed("write", &target, error))?;
            let mut file = File::from_std(file);
            let read = client.read_file(read, &mut file, STALL).await;
            read.about(instance, "copy the file").and_then(|stat| {
                let kept = beside
                    .persist(&target)
                    .map_err(|error| failed("write", &target, error.error))?;
                let mode = std::os::unix::fs::PermissionsExt::from_mode(stat.mode & 0o777);
                kept.set_permissions(mode).map_err(|error| failed("write", &target, error))
            })
        }
    };
    step.done();
    copied?;
    Ok(ExitCode::SUCCESS)
}

/// Where a download goes.
enum Target {
    /// A device, a pipe, a link: written to as it is, never replaced.
    Existing(File),
    /// A file beside a regular file (or nothing), given its name when it is complete, so that a
    /// failed copy leaves what was there.
    Beside(tempfile::NamedTempFile),
}

impl Target {
    fn open(path: &Path) -> Result<Self> {
        let special = path.symlink_metadata().is_ok_and(|meta| !meta.is_file());
        if special {
            let file = std::fs::OpenOptions::new().write(true).truncate(true).open(path);
            return Ok(Self::Existing(File::from_std(
                file.map_err(|error| failed("write", path, error))?,
            )));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let beside = tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new(".")));
        beside.map(Self::Beside).map_err(|error| failed("write", path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_in_a_guest_is_an_instance_and_a_path() {
        assert!(
            matches!(end("aa/bb/cc:/etc/passwd"), End::Guest(_, path) if path == "/etc/passwd")
        );
        assert!(matches!(end("./file:with-colon"), End::Local(_)));
        assert!(matches!(end("aa/bb"), End::Local(_)));
    }

    #[test]
    fn a_directory_in_the_guest_keeps_the_files_name() {
        assert_eq!(in_directory("/data/", Path::new("a/b.txt")), "/data/b.txt");
        assert_eq!(in_directory("/data/c", Path::new("a/b.txt")), "/data/c");
    }
}
