//! The process that becomes a VMM, from its start until it is told what to become.
//!
//! ```text
//! supervisor ── fork, exec ──▶ trampoline: starts, waits ┐
//!     │ writes down who it is                            │ meanwhile
//!     └─ Confinement, on its stdin ─────────────────────▶└ confines itself ── exec ──▶ VMM
//! ```
//!
//! A supervisor that ends before it has said the plan leaves nothing: the trampoline hears the end
//! of its stdin and ends too.

use std::ffi::OsString;
use std::io::{self, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};
use tokio::process::Child;

use super::StartError;
use crate::confine::Confinement;

/// How this program is called to become a confined VMM: [`confine::main`](crate::confine::main)
/// must run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trampoline {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// One that waits for its plan.
pub(super) struct Waiting {
    pub(super) child: Child,
    /// Says the plan; dropped, it ends the trampoline.
    pub(super) plan: Saying,
}

/// The other end of a trampoline's stdin.
pub(super) struct Saying(PipeWriter);

impl Trampoline {
    /// This very program with a hidden subcommand, also when its file was replaced meanwhile.
    pub fn this_program(subcommand: &str) -> Self {
        Self { program: "/proc/self/exe".into(), args: vec![subcommand.into()] }
    }

    /// Starts it. The descriptors are the VMM's alone when this returns.
    pub(super) fn start(
        &self,
        stdout: OwnedFd,
        mappings: Vec<FdMapping>,
    ) -> Result<Waiting, StartError> {
        let (stdin, plan) = io::pipe().map_err(StartError::Pipe)?;
        let stderr = stdout.try_clone().map_err(StartError::Pipe)?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().current_dir("/");
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        command.fd_mappings(mappings).map_err(|error| StartError::Pipe(io::Error::other(error)))?;
        let child = tokio::process::Command::from(command).spawn();
        let child = child.map_err(|error| self.failed(error))?;
        Ok(Waiting { child, plan: Saying(plan) })
    }

    /// Why it did not start.
    pub(super) fn failed(&self, source: io::Error) -> StartError {
        StartError::Spawn { program: self.program.clone(), source }
    }
}

impl Saying {
    /// Has it become what the plan says. One that is gone has said why.
    pub(super) fn say(self, plan: &Confinement) -> io::Result<()> {
        let Self(mut stdin) = self;
        match stdin.write_all(&serde_json::to_vec(plan)?) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}
