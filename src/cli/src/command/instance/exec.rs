//! `mvm instance exec`: a command in a guest, with this process's streams and its exit code.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use mvm_agent::error::{About, Error, Kind, Result};
use mvm_agent::guest::proto::Exec;
use mvm_agent::guest::{Process, ProcessEvent, ProcessInput};
use mvm_model::InstancePath;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::command::in_session;
use crate::gone;
use crate::output::quietly_if_closed;
use crate::runtime::Form;
use crate::session::Session;

/// How long a guest may take to start a command.
pub const START: Duration = Duration::from_secs(10);
/// What a shell says about a command that does not exist.
const NOT_FOUND: u8 = 127;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<id or name>
    instance: InstancePath,
    /// Run it as this user: uid:gid, or a name of the guest
    #[arg(long)]
    user: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("instance exec", Form::People, |session| async move {
        let exec = Exec { argv: args.command, user: args.user, ..Exec::default() };
        stream(&session, &args.instance, exec).await
    })
}

/// Runs a command as the guest's root with this process's streams.
///
/// # Errors
/// When the guest does not answer; a command that fails is an exit code.
pub async fn execute(
    session: &Session,
    path: &InstancePath,
    command: Vec<String>,
) -> Result<ExitCode> {
    stream(session, path, Exec { argv: command, ..Exec::default() }).await
}

async fn stream(session: &Session, path: &InstancePath, exec: Exec) -> Result<ExitCode> {
    let client = session.guest(path).await?;
    let process = match client.exec(exec, START).await.about(path, "run the command") {
        Err(error) if error.kind == Kind::NotFound => {
            eprintln!("error: {path}: {}", error.chain());
            return Ok(ExitCode::from(NOT_FOUND));
        }
        other => other?,
    };
    let feeding = tokio::spawn(feed(process.input()));
    let exit = session.until_interrupted(follow(path, &process)).await;
    feeding.abort();
    match exit {
        Err(error) => Err(gone::explain(session, path, error).await),
        exit => exit,
    }
}

/// Passes our standard input on until its end.
pub async fn feed(input: ProcessInput) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 << 10];
    while let Ok(len) = stdin.read(&mut buffer).await {
        if len == 0 {
            break;
        }
        input.write(&buffer[..len]).await;
    }
    input.close();
}

/// Passes on what a command prints until it ends.
///
/// # Errors
/// When the guest is lost or our output is closed.
pub async fn follow(path: &InstancePath, process: &Process) -> Result<ExitCode> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let closed = |error| {
        Error::new(Kind::Failed, path, "cannot pass on the output")
            .because(quietly_if_closed(error))
    };
    loop {
        match process.next().await.about(path, "follow the command")? {
            ProcessEvent::Stdout(bytes) => {
                stdout.write_all(&bytes).await.map_err(closed)?;
                stdout.flush().await.map_err(closed)?;
            }
            ProcessEvent::Stderr(bytes) => {
                stderr.write_all(&bytes).await.map_err(closed)?;
                stderr.flush().await.map_err(closed)?;
            }
            ProcessEvent::Exit(exit) => return Ok(ExitCode::from(exit.shell_code() as u8)),
        }
    }
}
