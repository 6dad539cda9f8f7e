//! The trampoline between the supervisor and a VMM: a process that takes everything away from
//! itself and then becomes the VMM.
//!
//! ```text
//! shim ── fork/exec ──▶ mvm __confine
//!      ── Confinement as JSON ─▶ stdin; one that hears none ends
//!                         own session · only the listed descriptors
//!                         no core dumps · few processes and files
//!                         own net, ipc, uts and mount namespaces
//!                         root = a tmpfs with read-only /usr, kernel, initrd (and /dev/kvm)
//!                         bounding set empty · no groups · the VM's own uid
//!                         no capabilities · no new privileges
//!                       ── exec ──▶ qemu (adds its seccomp filter)
//! ```
//!
//! Firecracker has a jailer for this; what that one does not do is prepared by its caller
//! ([`Jailer`]).
//!
//! The pid stays the same from fork to VMM, so the supervisor's child *is* the VMM. A step that
//! fails ends the process with exit code [`FAILED`] and one line on stderr: a VMM is never
//! started half confined. The trampoline must not have started threads yet.

mod jailer;
mod root;
mod sys;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

pub(crate) use jailer::Jailer;
pub(crate) use root::{Bind, Device, SYSTEM_DIRS};

/// Exit code of a process that could not confine itself.
pub const FAILED: u8 = 126;

/// More than any plan has, bytes.
const MAX_PLAN: u64 = 1 << 20;

/// Descriptors a VMM may open beyond those it is given: TCG and the block layer need few.
const MAX_FILES: u64 = 1024;
/// Threads of the VM's uid: vCPUs, 64 block workers and some slack.
const MAX_THREADS: u64 = 256;

/// What the child confines itself to and then runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// The VM's uid, not 0.
    pub(crate) uid: u32,
    /// The VM's gid, not 0.
    pub(crate) gid: u32,
    /// Descriptors 0 to this one, exclusive, survive; all others are closed.
    pub(crate) keep_fds: u32,
    /// An existing directory; covered by the new root in the child's mount namespace only.
    pub(crate) mount_point: PathBuf,
    /// Files shown in the new root beside the system's libraries.
    pub(crate) binds: Vec<Bind>,
    /// Device nodes made in the new root, owned by the VM's uid.
    pub(crate) devices: Vec<Device>,
    /// The VMM, an absolute path that is the same outside and inside.
    pub(crate) program: PathBuf,
    /// Its arguments after `argv[0]`.
    pub(crate) args: Vec<String>,
}

/// Why the child could not become the VMM.
#[derive(Debug, thiserror::Error)]
enum ConfineError {
    #[error("whoever started it ended meanwhile")]
    Abandoned,
    #[error("failed to read the plan")]
    Parse(#[source] serde_json::Error),
    #[error("refused to run a VMM as root")]
    Root,
    #[error("failed to {doing}")]
    Step {
        doing: String,
        #[source]
        source: io::Error,
    },
}

/// Names what failed.
fn step<T, E: Into<io::Error>>(doing: &str, result: Result<T, E>) -> Result<T, ConfineError> {
    result.map_err(|error| ConfineError::Step { doing: doing.to_owned(), source: error.into() })
}

/// Entry of the hidden subcommand: confines this process as the plan on stdin says and becomes
/// the VMM. Returns only when that failed; the reason is on stderr.
pub fn main() -> ExitCode {
    let Err(error) = run();
    tell(&error);
    ExitCode::from(FAILED)
}

fn tell(error: &ConfineError) {
    let mut line = format!("mvm confine: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        line.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    sys::say(&format!("{line}\n"));
}

fn run() -> Result<Infallible, ConfineError> {
    let plan = read_plan(io::stdin())?;
    // Some VMMs read their console from stdin.
    let nothing = step("open /dev/null", File::open("/dev/null"))?;
    step("leave the plan's pipe", nix::unistd::dup2_stdin(nothing))?;
    become_vmm(plan)
}

fn read_plan(from: impl Read) -> Result<Confinement, ConfineError> {
    let mut text = Vec::new();
    step("hear the plan", from.take(MAX_PLAN).read_to_end(&mut text))?;
    match text.is_empty() {
        true => Err(ConfineError::Abandoned),
        false => serde_json::from_slice(&text).map_err(ConfineError::Parse),
    }
}

fn become_vmm(plan: Confinement) -> Result<Infallible, ConfineError> {
    if plan.uid == 0 || plan.gid == 0 {
        return Err(ConfineError::Root);
    }
    detach(plan.keep_fds)?;
    limit(&[(Resource::RLIMIT_NOFILE, MAX_FILES), (Resource::RLIMIT_NPROC, MAX_THREADS)])?;
    step("leave the host's namespaces", nix::sched::unshare(namespaces()))?;
    umask(Mode::from_bits_truncate(0o022));
    root::enter(&plan)?;
    umask(Mode::from_bits_truncate(0o077));
    become_nobody(&plan)?;
    exec(&plan.program, &plan.args)
}

/// Not the PID namespace: it would need a second process between supervisor and VMM, and with
/// neither /proc nor the right to signal anybody there is nothing to see or reach.
fn namespaces() -> CloneFlags {
    CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNS
}

/// Own session, so that no terminal or job control reaches the VM; no stray descriptors.
fn detach(keep_fds: u32) -> Result<(), ConfineError> {
    // The shim may have made this child a session leader already.
    match nix::unistd::setsid() {
        Ok(_) | Err(nix::Error::EPERM) => {}
        Err(errno) => return step("start a session", Err(errno)),
    }
    step("close inherited descriptors", sys::close_from(keep_fds))?;
    for fd in 0..keep_fds {
        step("keep a descriptor", sys::keep_on_exec(fd))?;
    }
    Ok(())
}

/// Guest memory must never reach a core file: neither by limit, nor through a core handler.
fn limit(more: &[(Resource, u64)]) -> Result<(), ConfineError> {
    for &(what, limit) in [(Resource::RLIMIT_CORE, 0)].iter().chain(more) {
        step("set a resource limit", setrlimit(what, limit, limit))?;
    }
    step("empty the core dump filter", std::fs::write("/proc/self/coredump_filter", "0"))
}

/// The order matters: the bounding set needs CAP_SETPCAP, the groups need CAP_SETGID, and both
/// are gone with the uid.
fn become_nobody(plan: &Confinement) -> Result<(), ConfineError> {
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    step("empty the capability bounding set", sys::drop_bounding_set(0))?;
    step("drop supplementary groups", nix::unistd::setgroups(&[]))?;
    step("take the VM's gid", nix::unistd::setresgid(gid, gid, gid))?;
    step("take the VM's uid", nix::unistd::setresuid(uid, uid, uid))?;
    step("drop capabilities", sys::drop_capabilities())?;
    step("forbid new privileges", nix::sys::prctl::set_no_new_privs())?;
    step("become undumpable", nix::sys::prctl::set_dumpable(false))
}

fn exec(program: &Path, args: &[String]) -> Result<Infallible, ConfineError> {
    let c_string = |bytes: &[u8]| step("read an argument", CString::new(bytes));
    let path = c_string(program.as_os_str().as_bytes())?;
    let mut argv = vec![path.clone()];
    for arg in args {
        argv.push(c_string(arg.as_bytes())?);
    }
    let environment: [CString; 0] = [];
    step(&format!("execute {}", program.display()), nix::unistd::execve(&path, &argv, &environment))
}
