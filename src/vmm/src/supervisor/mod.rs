//! The parent of one VM process: starts it confined, keeps what it says within bounds, and
//! records how it ended. The shim (`mvm __shim`, one per VM, in its own session) is a thin wrap
//! around [`start`].
//!
//! ```text
//! caller ── Launch ─▶ shim: open files, tap, sockets ─ fork ─▶ trampoline, or jailer ─ exec ─▶ VMM
//!        ◀─ Report ──  │  vmm.json                                │ console pipe, log pipe
//!                      │  rings ◀─────────── drains ◀─────────────┘
//!                      └─ wait ─▶ exit.json
//! ```
//!
//! The VM does not depend on its supervisor: nothing signals it when the supervisor dies, its
//! pipes then have no reader and writes to them fail without waiting, and its locks and sockets
//! are its own descriptors. What is lost is what the VM says until the next supervisor takes
//! over ([`take_over`]): pipes have names, sockets listen, and the end is seen by pidfd.

mod confined;
mod drain;
mod error;
mod jailed;
mod open;
mod record;
mod report;
pub mod ring;
mod takeover;
mod trampoline;
mod watched;
mod words;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mvm_model::Digest;
use mvm_model::vm::{ProcessId, VmmKind};
use serde::{Deserialize, Serialize};

pub use error::StartError;
pub(crate) use error::last_words;
pub use jailed::Jailed;
pub use record::{CONSOLE_LOG, ExitKind, ExitRecord, JailRecord, PID_FILE, RunningRecord, VMM_LOG};
pub use report::{Failure, Report};
pub use takeover::{TakeOverError, take_over};
pub use trampoline::Trampoline;
use words::last_lines_of;
pub use words::{GuestEnd, keep_only_logs};

use crate::firecracker::FirecrackerError;
use crate::qemu::QemuBinary;
use crate::spec::{StartMode, VmSpec};
use drain::Drain;
use watched::Watched;

/// How long a VMM may take until its monitor answers; milliseconds on an idle host.
const READY: Duration = Duration::from_secs(15);

/// What to start; the document a shim reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The VM.
    pub spec: VmSpec,
    /// Boot, or wait for a restore.
    pub mode: StartMode,
    /// The program; proven before.
    pub program: Program,
}

impl Launch {
    /// Digest of the order and of which files it names (device, inode, size, modification time).
    /// A VM that waits for a restore is right for a wake while this is what the wake would launch:
    /// a drive or a program that was replaced meanwhile is another file. What cannot be looked at
    /// counts as missing.
    pub fn fingerprint(&self) -> Digest {
        let spec = &self.spec;
        let programs = match &self.program {
            Program::Qemu(qemu) => vec![&qemu.path],
            Program::Firecracker(jailed) => {
                vec![&jailed.binaries.firecracker, &jailed.binaries.jailer]
            }
        };
        let drives = spec.drives.iter().map(|drive| &drive.path);
        let files = drives.chain([&spec.kernel, &spec.initrd]).chain(programs);
        let identity = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
        };
        let files: Vec<_> = files.map(identity).collect();
        // Cannot fail: words, numbers and paths that came out of such a document.
        Digest::of(&serde_json::to_vec(&(self, files)).unwrap_or_default())
    }
}

/// The program a VM is started with, and what that one needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// QEMU, confined by us.
    Qemu(QemuBinary),
    /// Firecracker in its jail. Its tap belongs to the VM's uid.
    Firecracker(Jailed),
}

impl Program {
    /// Which VMM it is.
    pub fn kind(&self) -> VmmKind {
        match self {
            Self::Qemu(_) => VmmKind::Qemu,
            Self::Firecracker(_) => VmmKind::Firecracker,
        }
    }

    /// Its version with the build: a snapshot of another one is not resumed.
    pub fn build(&self) -> String {
        match self {
            Self::Qemu(qemu) => qemu.version.clone(),
            Self::Firecracker(jailed) => jailed.binaries.build(),
        }
    }
}

/// A running VM process and the threads that drain it.
#[derive(Debug)]
pub struct Supervised {
    process: ProcessId,
    vmm: Watched,
    when_dropped: WhenDropped,
    console: Option<Drain>,
    log: Option<Drain>,
    run_dir: PathBuf,
    jail: Option<JailRecord>,
    /// Raised when it is told to end its VM.
    told: Arc<AtomicBool>,
    /// Drives that are locked as long as this lives.
    _locks: Vec<OwnedFd>,
}

/// What becomes of the VM when its [`Supervised`] is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDropped {
    /// It runs on without a supervisor. The state after a successful [`start`].
    LeaveRunning,
    /// It is killed. The state while starting, so that a cancelled start leaves nothing.
    Kill,
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if self.when_dropped == WhenDropped::Kill {
            self.vmm.start_kill();
        }
    }
}

/// Starts a VM process and waits until it answers. `tap` is the open tap of `spec.net` for QEMU;
/// Firecracker opens its own by name.
///
/// # Errors
/// [`StartError`]; then nothing runs.
pub async fn start(
    launch: &Launch,
    tap: Option<OwnedFd>,
    trampoline: &Trampoline,
) -> Result<Supervised, StartError> {
    let spec = &launch.spec;
    spec.check()?;
    if spec.vmm != launch.program.kind() {
        return Err(StartError::OtherProgram(spec.vmm));
    }
    clear(spec)?;
    let mut supervised = match &launch.program {
        Program::Qemu(qemu) => confined::start(launch, qemu, tap, trampoline).await?,
        Program::Firecracker(jailed) => jailed::start(launch, jailed).await?,
    };
    supervised.when_dropped = WhenDropped::LeaveRunning;
    Ok(supervised)
}

/// Removes an earlier VMM's sockets and records, unless it still lives.
fn clear(spec: &VmSpec) -> Result<(), StartError> {
    let failed = |source| StartError::RunDir { path: spec.run_dir.clone(), source };
    // A damaged record names nobody; the drive's lock still keeps two VMs apart.
    if let Ok(Some(earlier)) = RunningRecord::load(&spec.run_dir)
        && crate::process::is_alive(&earlier.process)
    {
        return Err(StartError::Running(earlier.process));
    }
    check_private(&spec.run_dir).and_then(|()| record::forget(&spec.run_dir)).map_err(failed)
}

/// Sockets and records in a directory others can write to could be theirs.
fn check_private(run_dir: &Path) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(run_dir)?;
    let ours = meta.uid() == nix::unistd::geteuid().as_raw();
    if meta.is_dir() && ours && meta.mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(io::Error::other("it must be a directory of our own with mode 0700"))
    }
}

fn drain(spec: &VmSpec, name: &str, pipe: OwnedFd) -> Result<Drain, StartError> {
    ring::Ring::create(spec.run_dir.join(name), ring::SEGMENT)
        .and_then(|ring| Drain::start(pipe, ring))
        .map_err(|source| StartError::RunDir { path: spec.run_dir.clone(), source })
}

impl Supervised {
    /// The VM process.
    pub fn process(&self) -> &ProcessId {
        &self.process
    }

    /// Chooses what becomes of the VM when this is dropped.
    pub fn set_when_dropped(&mut self, choice: WhenDropped) {
        self.when_dropped = choice;
    }

    async fn kill(&mut self) {
        self.vmm.start_kill();
        // An error means that it is gone.
        let _ = self.vmm.wait().await;
    }

    async fn settled_log(&self) -> Vec<String> {
        drain::settle(self.log.as_ref()).await;
        self.last_lines(VMM_LOG)
    }

    /// What a call that failed means for a start: the VMM is ending, or hangs and is killed.
    async fn explain(&mut self, error: FirecrackerError) -> StartError {
        let ending = tokio::time::timeout(Duration::from_secs(1), self.vmm.wait()).await;
        match ending {
            Ok(Ok(how)) => StartError::Ended { how, last_log: self.settled_log().await },
            _ => StartError::Api(error),
        }
    }

    fn last_lines(&self, name: &str) -> Vec<String> {
        last_lines_of(&self.run_dir, name)
    }

    /// Ends the VM; [`Self::wait`] then returns.
    pub fn end(&mut self) {
        self.vmm.start_kill();
    }

    /// To be raised before somebody else than an instance's driver has the VM ended in order: its
    /// end is then nobody's failure.
    pub fn told(&self) -> Arc<AtomicBool> {
        self.told.clone()
    }

    /// Whether the VM is the main process of a unit of systemd's.
    pub fn has_unit(&self) -> bool {
        self.jail.as_ref().is_some_and(|jail| jail.unit)
    }

    /// Waits until the VM process ends, then writes the exit record.
    ///
    /// # Errors
    /// What waiting or writing the record said.
    pub async fn wait(mut self) -> io::Result<ExitRecord> {
        let seen = self.vmm.wait().await?;
        let how = if self.told.load(Ordering::SeqCst) { ExitKind::Told } else { seen };
        let at = record::now_ms();
        drain::settle(self.console.as_ref()).await;
        drain::settle(self.log.as_ref()).await;
        let exit = ExitRecord {
            process: self.process.clone(),
            how,
            at,
            console_dropped: self.console.as_ref().map_or(0, Drain::dropped),
            last_log: self.last_lines(VMM_LOG),
            last_console: self.last_lines(CONSOLE_LOG),
            guest: words::guest_end(&self.run_dir),
        };
        exit.store(&self.run_dir)?;
        if let Some(jail) = &self.jail {
            jailed::clean(jail);
        }
        Ok(exit)
    }
}

/// Removes the jail a VM that is gone left, when its supervisor could not. It must be certain
/// that the VM is gone.
pub fn clean(run_dir: &Path) {
    if let Ok(Some(RunningRecord { jail: Some(jail), .. })) = RunningRecord::load(run_dir) {
        jailed::clean(&jail);
    }
}
