//! `mvm agent desired`: the present desired state, as a file to keep, edit and apply.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_api::agent::Desired;

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::{Session, warn_of};
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "The file can be kept, edited, checked (mvm check-config) and applied \
                        (mvm agent reconcile --desired).")]
pub struct Args {
    /// Write it here instead of to stdout
    #[arg(long)]
    file: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("agent desired", Form::People, |session| desired(session, args))
}

async fn desired(session: Session, args: Args) -> Result<ExitCode> {
    let document = session.call(Desired {}).await?;
    warn_of(&document.unreadable);
    if !document.unreadable.is_empty() {
        talk::say("warning: what could not be read is missing in it");
    }
    let Some(file) = args.file else {
        return output::line(document.text.trim_end()).map(|()| ExitCode::SUCCESS);
    };
    write(&file, &document.text).map_err(|error| {
        Error::new(Kind::Failed, file.display(), format!("cannot write {}", file.display()))
            .because(error)
    })?;
    talk::say(format_args!("next: mvm agent reconcile --desired {}", file.display()));
    Ok(ExitCode::SUCCESS)
}

/// Replaces a file at once: whoever watches it never sees half of it. What is no regular file
/// (`/dev/stdout`, a pipe) is written to as it is.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    if file.symlink_metadata().is_ok_and(|meta| !meta.is_file()) {
        return std::fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes());
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut beside = tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new(".")))?;
    beside.write_all(text.as_bytes())?;
    beside.as_file().sync_all()?;
    beside.persist(file)?;
    Ok(())
}
