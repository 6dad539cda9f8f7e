//! What happens between the supervisor and Firecracker's jailer: everything the jailer leaves to
//! its caller.
//!
//! ```text
//! supervisor ── fork ──▶ own session · no descriptors but stdin, stdout, stderr · no core dumps
//!                        own mount namespace, and in it what cannot be linked into the jail
//!                        ends with the supervisor
//!                        bounding set: what the jailer needs · no new privileges
//!            ── exec ──▶ jailer: chroot, devices, limits, pid namespace, uid ── exec ──▶ firecracker
//! ```
//!
//! A step that fails says so on stderr, the VM's log, and ends the process with [`FAILED`].
//!
//! The mounts exist for the VMM alone and end with it: nobody has to clean up after them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::root::{Bind, bind_file};
use super::{ConfineError, FAILED, detach, limit, step, sys, tell};

/// `CHOWN`, `DAC_OVERRIDE`, `SETGID`, `SETUID`, `SYS_CHROOT`, `SYS_ADMIN`, `MKNOD`: a jailer makes
/// directories and devices, mounts, changes its root and becomes somebody else.
const NEEDED: u64 = 1 << 0 | 1 << 1 | 1 << 6 | 1 << 7 | 1 << 18 | 1 << 21 | 1 << 27;

/// A jailer and what is prepared for it.
#[derive(Debug)]
pub(crate) struct Jailer {
    /// Files mounted onto files of the jail.
    pub(crate) binds: Vec<Bind>,
    /// The jailer.
    pub(crate) program: PathBuf,
    /// Its arguments after `argv[0]`.
    pub(crate) args: Vec<String>,
}

impl Jailer {
    /// The process that prepares itself and becomes the jailer: it knows nothing of our
    /// environment and ends when the calling process does.
    pub(crate) fn command(self, stdout: OwnedFd, stderr: OwnedFd) -> Command {
        let mut command = Command::new(self.program);
        command.args(self.args).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let (binds, supervisor) = (self.binds, nix::unistd::getpid());
        let become_ready = move || match prepare(&binds, supervisor) {
            Ok(()) => Ok(()),
            Err(error) => {
                tell(&error);
                sys::end(FAILED)
            }
        };
        // SAFETY: between fork and exec nothing but system calls is made, on memory that was
        // there before; only to tell of a failure some is allocated, whose locks fork looks after.
        unsafe { command.pre_exec(become_ready) };
        command
    }
}

fn prepare(binds: &[Bind], supervisor: Pid) -> Result<(), ConfineError> {
    detach(3)?;
    limit(&[])?;
    show(binds)?;
    // Who started us would not hear of a VMM that a jailer makes after its end.
    step("end with the supervisor", nix::sys::prctl::set_pdeathsig(Signal::SIGKILL))?;
    if nix::unistd::getppid() != supervisor {
        return Err(ConfineError::Abandoned);
    }
    step("narrow the capability bounding set", sys::drop_bounding_set(NEEDED))?;
    step("forbid new privileges", nix::sys::prctl::set_no_new_privs())
}

/// Where nothing is mounted the jailer's own namespace is enough.
fn show(binds: &[Bind]) -> Result<(), ConfineError> {
    if binds.is_empty() {
        return Ok(());
    }
    step("leave the host's mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    let none: Option<&Path> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    step("make mounts private", mount(none, "/", none, private, none))?;
    binds.iter().try_for_each(|bind| {
        bind_file(&bind.from, &bind.to).map_err(|source: io::Error| ConfineError::Step {
            doing: format!("show the VM {}", bind.from.display()),
            source,
        })
    })
}
