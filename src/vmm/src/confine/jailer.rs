//! What happens between the supervisor and Firecracker's jailer: everything the jailer leaves to
//! its caller.
//!
//! ```text
//! own session · no descriptors but stdin, stdout, stderr (the log) · no core dumps
//! own mount namespace, and in it what cannot be linked into the jail (the secrets)
//! bounding set: what the jailer needs · no new privileges
//! ── exec ──▶ jailer: chroot, devices, limits, pid namespace, uid ── exec ──▶ firecracker
//! ```
//!
//! The mounts exist for the VMM alone and end with it: nobody has to clean up after them.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::root::Bind;
use super::{ConfineError, detach, exec, limit, step, sys};

/// `CHOWN`, `DAC_OVERRIDE`, `SETGID`, `SETUID`, `SYS_CHROOT`, `SYS_ADMIN`, `MKNOD`: a jailer makes
/// directories and devices, mounts, changes its root and becomes somebody else.
const NEEDED: u64 = 1 << 0 | 1 << 1 | 1 << 6 | 1 << 7 | 1 << 18 | 1 << 21 | 1 << 27;

/// A jailer and what is prepared for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jailer {
    /// A fifo with a reader: what the jailer and its VMM say.
    pub(crate) log: PathBuf,
    /// Files mounted onto files of the jail.
    pub(crate) binds: Vec<Bind>,
    /// The jailer.
    pub(crate) program: PathBuf,
    /// Its arguments after `argv[0]`.
    pub(crate) args: Vec<String>,
}

pub(super) fn become_jailer(plan: &Jailer) -> Result<Infallible, ConfineError> {
    detach(3)?;
    let log = OpenOptions::new().write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&plan.log);
    step("say the rest there", nix::unistd::dup2_stderr(step("open the log", log)?))?;
    limit(&[])?;
    step("leave the host's mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    let none: Option<&Path> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    step("make mounts private", mount(none, "/", none, private, none))?;
    for bind in &plan.binds {
        let what = format!("show the VM {}", bind.from.display());
        step(&what, super::root::bind_file(&bind.from, &bind.to))?;
    }
    // Who started us would not hear of a VMM that a jailer makes after its end.
    step("end with the supervisor", nix::sys::prctl::set_pdeathsig(Signal::SIGKILL))?;
    step("narrow the capability bounding set", sys::drop_bounding_set(NEEDED))?;
    step("forbid new privileges", nix::sys::prctl::set_no_new_privs())?;
    exec(&plan.program, &plan.args)
}
