//! What can be asked of a running VM process, whichever program it is.
//!
//! A closed set: the trait says what each backend must offer, [`AnyVmm`] is the one type callers
//! hold. A connection is cheap, lives as long as one transition, and is made anew by whoever
//! (CLI, agent, after a crash of either) drives the next one.
//!
//! ```text
//!            boot ───────────────▶ Running ◀──resume── Paused ◀──pause── Running
//!  launch ──┤                                            │ ▲
//!            restore ─▶ Waiting ──restore(files)─────────┼─┘
//!                                            snapshot(files): Saving ─▶ Paused (files complete)
//!                                                               └─ failed, cancelled ─▶ Paused
//!  any ── quit, crash, guest powers off ─▶ the process is gone
//! ```
//!
//! After *any* failure of `snapshot` the VM is paused with its memory intact and `resume` works.
//! After a failure of `restore` the process is spent: start another.

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use mvm_model::vm::VmmKind;
use nix::errno::Errno;

use crate::firecracker::{Firecracker, FirecrackerError, Uncontained};
use crate::qemu::{Qemu, QmpError};
use crate::snapshot::SnapshotFiles;

/// What a VM process does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// vCPUs run.
    Running,
    /// vCPUs are stopped, memory kept; `resume` continues.
    Paused,
    /// Started with [`StartMode::Restore`](crate::StartMode::Restore), nothing restored yet.
    Waiting,
    /// A snapshot is being written or read.
    Saving,
    /// The guest is over or the VMM is broken; its own word for it.
    Ended(String),
}

/// Why an operation on a VM process failed.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// Talking to Firecracker failed.
    #[error("failed to {doing} the VM")]
    Firecracker {
        /// The operation.
        doing: &'static str,
        /// What its API said.
        #[source]
        source: FirecrackerError,
    },
    /// Talking to QEMU failed.
    #[error("failed to {doing} the VM")]
    Qemu {
        /// The operation.
        doing: &'static str,
        /// What the monitor said.
        #[source]
        source: QmpError,
    },
}

/// Why a snapshot was not taken. The VM is paused and can be resumed, unless it is gone.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The memory file's file system is full.
    #[error("no space left for the memory file")]
    NoSpace,
    /// The caller cancelled.
    #[error("the snapshot was cancelled")]
    Cancelled,
    /// It took too long.
    #[error("the snapshot was not complete within {} s", .0.as_secs())]
    Deadline(Duration),
    /// The VMM gave up; its own words.
    #[error("the VMM failed to write its memory: {0}")]
    Failed(String),
    /// The memory file could not be prepared or synced.
    #[error("failed to write the memory file")]
    File(#[source] io::Error),
    /// The VMM does not answer or is gone.
    #[error(transparent)]
    Vmm(#[from] VmmError),
}

/// Why a VM was not restored. The process cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It was not started to be restored, or was restored already.
    #[error("the VM process is not waiting for a restore but {0:?}")]
    NotWaiting(RunState),
    /// The VMM refused the memory file: damaged, truncated, or of another VM.
    #[error("the VMM refused the memory file: {0}")]
    Refused(String),
    /// This host kept the VMM from loading it: no memory, no descriptors, a tap in use.
    #[error("the VMM could not load the memory file here: {0}")]
    Hindered(String),
    /// The VMM left while it loaded it. Whether over the file or because it was killed its
    /// [`ExitRecord`](crate::ExitRecord) says, soon.
    #[error("the VMM left while it loaded the memory file: {0}")]
    Left(String),
    /// It is loaded by a VMM that is not confined as it must be.
    #[error("the VMM that loaded the memory file is not confined")]
    Uncontained(#[source] Uncontained),
    /// It took too long.
    #[error("the restore was not complete within {} s", .0.as_secs())]
    Deadline(Duration),
    /// The memory file cannot be read.
    #[error("failed to read the memory file")]
    File(#[source] io::Error),
    /// The VMM does not answer or is gone.
    #[error(transparent)]
    Vmm(#[from] VmmError),
}

impl RestoreError {
    /// A refusal in the VMM's own words, which name an errno where the system refused it something.
    pub(crate) fn refusal(words: String) -> Self {
        match names_a_lack(&words) {
            true => Self::Hindered(words),
            false => Self::Refused(words),
        }
    }

    /// Whether it is the snapshot that cannot be loaded, and not this host that cannot do it now.
    pub fn is_of_the_snapshot(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// Whether a VMM's words name what its host lacked.
pub(crate) fn names_a_lack(words: &str) -> bool {
    errno_in(words).is_some_and(|errno| HOSTS.contains(&errno))
}

/// What a system refuses that lacks something: no file can be the reason.
const HOSTS: [Errno; 7] = [
    Errno::EIO,
    Errno::EAGAIN,
    Errno::ENOMEM,
    Errno::EBUSY,
    Errno::ENFILE,
    Errno::EMFILE,
    Errno::ENOSPC,
];

/// The errno in words like `Cannot allocate memory (os error 12)`; QEMU says the words alone.
fn errno_in(words: &str) -> Option<Errno> {
    let number = |rest: &str| {
        let digits = rest.split(|it: char| !it.is_ascii_digit()).next()?;
        digits.parse().ok().map(Errno::from_raw)
    };
    let says = |errno: &Errno| {
        let text = io::Error::from(*errno).to_string();
        text.split(" (os error").next().is_some_and(|text| words.contains(text))
    };
    let named = words.split_once("os error ").and_then(|(_, rest)| number(rest));
    named.or_else(|| HOSTS.into_iter().find(says))
}

/// How long the parts of a snapshot took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotDone {
    /// Size of the memory file, bytes.
    pub bytes: u64,
    /// Stopping the vCPUs and flushing the drives.
    pub stop: Duration,
    /// Writing the memory.
    pub write: Duration,
    /// Syncing the file to disk.
    pub sync: Duration,
}

/// How long a snapshot or restore of this much memory may take: a slow disk's 20 MiB/s, and half
/// a minute for a busy host.
pub fn transfer_deadline(mem_mib: u64) -> Duration {
    Duration::from_secs(30 + mem_mib / 20)
}

/// A VM process that can be driven.
pub trait Vmm {
    /// What it does now.
    fn status(&mut self) -> impl Future<Output = Result<RunState, VmmError>> + Send;

    /// Stops the vCPUs, keeping the memory; a paused VM is fine.
    fn pause(&mut self) -> impl Future<Output = Result<(), VmmError>> + Send;

    /// Lets the vCPUs run; a running VM is fine. Gives up a snapshot somebody left half written,
    /// and continues after a complete one too: from then on that snapshot is worthless.
    fn resume(&mut self) -> impl Future<Output = Result<(), VmmError>> + Send;

    /// Stops the VM and writes its memory and devices to new or empty files, synced to disk. The VM
    /// stays paused. `cancel` ends the attempt when it completes; pass
    /// [`std::future::pending`] for never. Dropping the future leaves a half-written file and a
    /// paused VM, which the next `resume` sets right.
    fn snapshot(
        &mut self,
        files: &SnapshotFiles,
        deadline: Duration,
        cancel: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = Result<SnapshotDone, SnapshotError>> + Send;

    /// Loads memory and devices into a process started with
    /// [`StartMode::Restore`](crate::StartMode::Restore). It stays paused: patch what must be
    /// patched, write the consumed mark, then `resume`.
    fn restore(
        &mut self,
        files: &SnapshotFiles,
        deadline: Duration,
    ) -> impl Future<Output = Result<(), RestoreError>> + Send;

    /// Asks the process to end at once, without telling the guest. Its end is seen through
    /// [`process::Handle`](crate::process::Handle).
    fn quit(&mut self) -> impl Future<Output = Result<(), VmmError>> + Send;
}

/// Whichever VMM a VM runs on.
#[derive(Debug)]
pub enum AnyVmm {
    /// QEMU, by its monitor.
    Qemu(Qemu),
    /// Firecracker, by its API.
    Firecracker(Firecracker),
}

impl AnyVmm {
    /// Connects to the VM process of a run directory.
    ///
    /// # Errors
    /// [`VmmError`]; the process may be gone.
    pub async fn connect(kind: VmmKind, run_dir: &Path) -> Result<Self, VmmError> {
        match kind {
            VmmKind::Qemu => Ok(Self::Qemu(Qemu::connect(run_dir).await?)),
            VmmKind::Firecracker => Ok(Self::Firecracker(Firecracker::connect(run_dir)?)),
        }
    }
}

impl Vmm for AnyVmm {
    async fn status(&mut self) -> Result<RunState, VmmError> {
        match self {
            Self::Qemu(vmm) => vmm.status().await,
            Self::Firecracker(vmm) => vmm.status().await,
        }
    }

    async fn pause(&mut self) -> Result<(), VmmError> {
        match self {
            Self::Qemu(vmm) => vmm.pause().await,
            Self::Firecracker(vmm) => vmm.pause().await,
        }
    }

    async fn resume(&mut self) -> Result<(), VmmError> {
        match self {
            Self::Qemu(vmm) => vmm.resume().await,
            Self::Firecracker(vmm) => vmm.resume().await,
        }
    }

    async fn snapshot(
        &mut self,
        files: &SnapshotFiles,
        deadline: Duration,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<SnapshotDone, SnapshotError> {
        match self {
            Self::Qemu(vmm) => vmm.snapshot(files, deadline, cancel).await,
            Self::Firecracker(vmm) => vmm.snapshot(files, deadline, cancel).await,
        }
    }

    async fn restore(
        &mut self,
        files: &SnapshotFiles,
        deadline: Duration,
    ) -> Result<(), RestoreError> {
        match self {
            Self::Qemu(vmm) => vmm.restore(files, deadline).await,
            Self::Firecracker(vmm) => vmm.restore(files, deadline).await,
        }
    }

    async fn quit(&mut self) -> Result<(), VmmError> {
        match self {
            Self::Qemu(vmm) => vmm.quit().await,
            Self::Firecracker(vmm) => vmm.quit().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_refused_over_its_content_is_the_snapshots_fault() {
        let is_its = |words: &str| RestoreError::refusal(words.into()).is_of_the_snapshot();
        for words in [
            "Failed to deserialize the microVM state: Crc64(12)",
            "Cannot open the memory file: No such file or directory (os error 2)",
            "Missing section footer for 0000:00:01.0/virtio-net",
            "Load state of cpu: Invalid argument (os error 22)",
        ] {
            assert!(is_its(words), "{words}");
        }
        for words in [
            "Cannot create the guest memory: Cannot allocate memory (os error 12)",
            "Open tap device failed: Resource busy (os error 16): tn1i3",
            "Cannot open /dev/kvm: Too many open files (os error 24)",
            "Unable to read: Input/output error",
        ] {
            assert!(!is_its(words), "{words}");
        }
        let late = RestoreError::Deadline(Duration::from_secs(1));
        assert!(!late.is_of_the_snapshot());
        assert!(!RestoreError::File(io::ErrorKind::Other.into()).is_of_the_snapshot());
    }
}
