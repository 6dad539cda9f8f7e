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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::testing::skipped_without_root;

    /// What it says and how it ends.
    fn run(program: &str, args: &[&str], binds: Vec<Bind>) -> (String, Option<i32>) {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let jailer = Jailer { binds, program: program.into(), args };
        let (mut said, end) = io::pipe().unwrap();
        let mut command = jailer.command(end.try_clone().unwrap().into(), end.into());
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        (text, child.wait().unwrap().code())
    }

    #[test]
    fn what_becomes_the_jailer_has_what_it_needs_and_no_more() {
        if skipped_without_root("what_becomes_the_jailer_has_what_it_needs_and_no_more") {
            return;
        }
        let kept = std::fs::File::open("/dev/null").unwrap();
        nix::fcntl::fcntl(&kept, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
            .unwrap();
        let look = "grep -E 'CapBnd|NoNewPrivs' /proc/self/status; ls /proc/self/fd; ulimit -c; cat /proc/self/coredump_filter; env; ps -o sid= -p $$; echo $$";
        let (text, code) = run("/bin/sh", &["-c", look], Vec::new());
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(lines[..2], [&format!("CapBnd:\t{NEEDED:016x}"), "NoNewPrivs:\t1"], "{text}");
        // The last is the directory's own.
        assert_eq!(lines[2..6], ["0", "1", "2", "3"], "{text}");
        assert_eq!(lines[6..8], ["0", "00000000"], "{text}");
        assert_eq!(lines[8], "PWD=/", "{text}");
        assert_eq!(lines[9..].len(), 2, "{text}");
        assert_eq!(lines[9], lines[10], "it leads no session: {text}");
    }

    #[test]
    fn a_step_that_fails_is_named_and_nothing_is_run() {
        if skipped_without_root("a_step_that_fails_is_named_and_nothing_is_run") {
            return;
        }
        let bind = Bind { from: "/nowhere/secrets".into(), to: "/nowhere/jail".into() };
        let (text, code) = run("/bin/echo", &["run"], vec![bind]);
        assert_eq!(code, Some(FAILED.into()));
        let why = "mvm confine: failed to show the VM /nowhere/secrets: No such file or directory";
        assert!(text.starts_with(why) && !text.contains("run\n"), "{text}");
    }
}
