//! What a supervisor leaves behind for others: who the VMM is while it runs (`vmm.json`), how it
//! ended (`exit.json`), and the one-line report to whoever started the shim.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{SystemTime, UNIX_EPOCH};

use mvm_model::vm::{ProcessId, Vmm};
use mvm_model::{Digest, InstanceId};
use serde::{Deserialize, Serialize};

use super::words::GuestEnd;
use crate::spec::StartMode;

/// Name of the serial console's log in the run directory.
pub const CONSOLE_LOG: &str = "console.log";
/// Name of the VMM's own log (stdout and stderr) in the run directory.
pub const VMM_LOG: &str = "vmm.log";
/// Name of the fifo the serial console is written to.
pub(super) const CONSOLE_FIFO: &str = "console.fifo";
/// Name of the fifo the VMM's stdout and stderr are.
pub(super) const VMM_FIFO: &str = "vmm.fifo";
/// Name of the file with the VMM's pid, for systemd. In a directory of root's: the jailer's own
/// could be changed by the VM.
pub const PID_FILE: &str = "vmm.pid";
const RUNNING: &str = "vmm.json";
const EXIT: &str = "exit.json";
/// Neither document is longer.
const MAX_DOCUMENT: u64 = 64 << 10;

/// A VM process that was started; written before anybody is told, so that it is found even when
/// everybody who asked for it dies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningRecord {
    /// Whose VM it is.
    pub instance: InstanceId,
    /// The VMM process.
    pub process: ProcessId,
    /// The supervisor.
    pub supervisor: ProcessId,
    /// What it runs on.
    pub vmm: Vmm,
    /// The VMM's uid.
    pub uid: u32,
    /// How it began.
    #[serde(default = "boot")]
    pub mode: StartMode,
    /// What it was started with and from which files ([`Launch::fingerprint`]); `None` in records
    /// of older versions.
    ///
    /// [`Launch::fingerprint`]: super::Launch::fingerprint
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Digest>,
    /// Its jail, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jail: Option<JailRecord>,
}

/// What every VM of an older version was found with.
fn boot() -> StartMode {
    StartMode::Boot
}

/// The jail of a running VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailRecord {
    /// The directory that is the VM's root.
    pub root: PathBuf,
    /// The control group that was made for it and stays when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<PathBuf>,
    /// Whether it is the main process of a unit of systemd's.
    #[serde(default)]
    pub unit: bool,
    /// Memory of its guest, MiB.
    pub mem_mib: u64,
    /// The tap of its interface; `None` also in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
}

/// How a VMM process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitKind {
    /// By itself. 0 is a guest that powered off or rebooted, or a `quit`.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Nobody saw it: whoever started it was gone by then, and the kernel did not keep it.
    Unseen,
    /// By its supervisor, which was told to: its unit, its tenant's slice or its host was stopped.
    Told,
}

/// Firecracker's exit codes for what its host did to it: a page of a file that cannot be read, and
/// the limits of files, CPU and pipes (its `FcExitCode`).
const OF_THE_HOST: [i32; 5] = [149, 151, 154, 155, 156];

impl ExitKind {
    /// Whether the VMM failed by itself. Not what was killed, which a host does that lacks memory,
    /// nor what left in order or with nobody looking: from that nothing is concluded.
    fn is_own_failure(&self) -> bool {
        use nix::libc::{SIGABRT, SIGFPE, SIGILL, SIGSEGV, SIGSYS};
        match self {
            Self::Code(code) => *code != 0 && !OF_THE_HOST.contains(code),
            Self::Signal(signal) => [SIGABRT, SIGFPE, SIGILL, SIGSEGV, SIGSYS].contains(signal),
            Self::Unseen | Self::Told => false,
        }
    }
}

/// The record of an ended VMM process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Which process.
    pub process: ProcessId,
    /// How.
    pub how: ExitKind,
    /// When, milliseconds since the epoch.
    pub at: u64,
    /// Console bytes that were not kept.
    pub console_dropped: u64,
    /// Last lines of the VMM's log, made printable.
    pub last_log: Vec<String>,
    /// Last lines of the console, made printable.
    pub last_console: Vec<String>,
    /// How its guest ended it, when its kernel said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestEnd>,
}

impl ExitRecord {
    /// Whether the VMM failed over what it was given: by itself, and its log names nothing that the
    /// host lacked.
    pub fn is_over_its_content(&self) -> bool {
        let lacked = self.last_log.iter().any(|line| crate::vmm::names_a_lack(line));
        self.how.is_own_failure() && !lacked
    }

    /// The record a supervisor left in a run directory; `None` when there is none: the VMM runs,
    /// or its supervisor was killed before it.
    ///
    /// # Errors
    /// What reading said; `InvalidData` for a damaged record.
    pub fn load(run_dir: &Path) -> io::Result<Option<Self>> {
        load(run_dir, EXIT)
    }

    pub(super) fn store(&self, run_dir: &Path) -> io::Result<()> {
        crate::files::write_json(run_dir, EXIT, self)
    }
}

impl RunningRecord {
    /// The instance whose unit it is the main process of.
    pub(super) fn unit(&self) -> Option<InstanceId> {
        self.jail.as_ref().is_some_and(|jail| jail.unit).then_some(self.instance)
    }

    /// The record of a run directory's VMM, which may be gone by now: ask
    /// [`is_alive`](crate::process::is_alive).
    ///
    /// # Errors
    /// What reading said; `InvalidData` for a damaged record.
    pub fn load(run_dir: &Path) -> io::Result<Option<Self>> {
        load(run_dir, RUNNING)
    }

    pub(super) fn store(&self, run_dir: &Path) -> io::Result<()> {
        crate::files::write_json(run_dir, RUNNING, self)
    }
}

/// Removes what an earlier VMM left, but its logs.
pub(super) fn forget(run_dir: &Path) -> io::Result<()> {
    let sockets = [crate::qemu::QMP_SOCKET, crate::qemu::AGENT_SOCKET];
    for name in [RUNNING, EXIT, PID_FILE, CONSOLE_FIFO, VMM_FIFO].into_iter().chain(sockets) {
        crate::files::remove_if_there(&run_dir.join(name))?;
    }
    Ok(())
}

/// Writes a pid as systemd reads it.
pub(super) fn write_pid(path: &Path, pid: u32) -> io::Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, format!("{pid}\n"))?;
    fs::rename(temporary, path)
}

fn load<T: for<'de> Deserialize<'de>>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    let path = dir.join(name);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => {
            if other?.len() > MAX_DOCUMENT {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
    let document = serde_json::from_slice(&fs::read(&path)?);
    document.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl From<ExitStatus> for ExitKind {
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Code(code),
            None => Self::Signal(status.signal().unwrap_or(0)),
        }
    }
}

impl ExitKind {
    /// From the status word the kernel keeps for a process's parent.
    pub(super) fn from_wait_status(status: i32) -> Self {
        ExitStatus::from_raw(status).into()
    }
}

impl std::fmt::Display for ExitKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
            Self::Unseen => f.write_str("how is not known"),
            Self::Told => f.write_str("its unit was stopped"),
        }
    }
}

/// Milliseconds since the epoch; 0 on a host whose clock is before it.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(how: ExitKind, last_log: &str) -> ExitRecord {
        ExitRecord {
            process: ProcessId { pid: 7, start_ticks: 1, boot_id: "now".into() },
            how,
            at: 0,
            console_dropped: 0,
            last_log: vec![last_log.into()],
            last_console: Vec::new(),
            guest: None,
        }
    }

    #[test]
    fn only_an_end_of_its_own_over_its_content_is_one() {
        use ExitKind::{Code, Signal, Told, Unseen};
        for (how, log) in [
            (Code(1), "Failed to deserialize the microVM state: Crc64(12)"),
            (Code(148), ""),
            (Code(150), ""),
            (Signal(6), "thread 'main' panicked"),
            (Signal(11), ""),
        ] {
            assert!(ended(how.clone(), log).is_over_its_content(), "{how:?} {log}");
        }
        for (how, log) in [
            // Killed, as a host does that lacks memory, or told to go.
            (Signal(9), ""),
            (Signal(15), ""),
            (Code(0), ""),
            (Told, ""),
            (Unseen, ""),
            // A page of the file cannot be read; the host's limits.
            (Code(149), ""),
            (Signal(7), ""),
            (Signal(25), ""),
            (Code(1), "Cannot create the guest memory: Cannot allocate memory (os error 12)"),
            (Code(1), "qemu: load of migration failed: Input/output error"),
        ] {
            assert!(!ended(how.clone(), log).is_over_its_content(), "{how:?} {log}");
        }
    }
}
