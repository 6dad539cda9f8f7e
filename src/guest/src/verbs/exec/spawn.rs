//! Starts a program on pipes or on a terminal of its own.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;

use mvm_guest_proto::message::{Failure, TtySize};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::program::Program;
use crate::reaper::{Exit, Reaper};
use crate::sys;
use crate::verbs::system_failure;

/// Our end of a pipe or terminal, non-blocking.
pub(super) type Pipe = File;

/// A program that was started.
pub(super) struct Running {
    pub(super) pid: i32,
    pub(super) exit: Arc<Exit>,
    pub(super) input: Pipe,
    pub(super) output: Pipe,
    /// `None` with a terminal.
    pub(super) errors: Option<Pipe>,
    /// For sizes and signals; `None` without one.
    pub(super) terminal: Option<Pipe>,
}

/// Starts `program`, on a terminal when a size is given.
pub(super) fn spawn(
    reaper: &Reaper,
    program: &Program<'_>,
    tty: Option<TtySize>,
) -> Result<Running, Failure> {
    match tty {
        None => on_pipes(reaper, program),
        Some(size) => on_terminal(reaper, program, size),
    }
}

fn on_pipes(reaper: &Reaper, program: &Program<'_>) -> Result<Running, Failure> {
    let mut command = program.command()?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, exit) = reaper.spawn(&mut command).map_err(|error| program.failure(&error))?;
    let missing = || Failure::new(mvm_guest_proto::message::ErrorKind::Failed, "no pipe");
    let input: OwnedFd = child.stdin.take().ok_or_else(missing)?.into();
    let output: OwnedFd = child.stdout.take().ok_or_else(missing)?.into();
    let errors: OwnedFd = child.stderr.take().ok_or_else(missing)?.into();
    Ok(Running {
        pid: child.id() as i32,
        exit,
        input: pipe(input)?,
        output: pipe(output)?,
        errors: Some(pipe(errors)?),
        terminal: None,
    })
}

fn on_terminal(reaper: &Reaper, program: &Program<'_>, size: TtySize) -> Result<Running, Failure> {
    let failed = |error: nix::Error| system_failure("cannot make a terminal", error);
    let (master, slave) = sys::open_terminal().map_err(failed)?;
    sys::set_tty_size(&master, size.rows, size.cols).map_err(failed)?;
    // So that the program may open its terminal by name.
    let _ = nix::unistd::fchown(&slave, Some(program.user.uid.into()), None);
    let mut command = program.command()?;
    let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| system_failure("terminal", error));
    command.stdin(copy(&slave)?).stdout(copy(&slave)?).stderr(slave);
    let (child, exit) = reaper.spawn(&mut command).map_err(|error| program.failure(&error))?;
    // The command still holds our copies of the program's end: only without them does the
    // terminal end with its last program.
    drop(command);
    Ok(Running {
        pid: child.id() as i32,
        exit,
        input: pipe(copy(&master)?)?,
        output: pipe(copy(&master)?)?,
        errors: None,
        terminal: Some(File::from(master)),
    })
}

fn pipe(fd: OwnedFd) -> Result<Pipe, Failure> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|error| system_failure("pipe", error))?;
    Ok(File::from(fd))
}
