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

use crate::firecracker::{Firecracker, FirecrackerError};
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
