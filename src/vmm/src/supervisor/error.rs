//! Why a VM was not started.

use std::io;
use std::path::PathBuf;

use mvm_model::vm::{ProcessId, VmmKind};

use super::{ExitKind, READY};
use crate::firecracker::{FirecrackerError, JailError, Uncontained};
use crate::spec::BadSpec;

/// Why a VM was not started. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The spec is absurd.
    #[error("the VM's specification is refused")]
    Spec(#[from] BadSpec),
    /// The specification is for one VMM, the program is another.
    #[error("the VM is specified for {0}, and the program is another")]
    OtherProgram(VmmKind),
    /// Its jail cannot be had.
    #[error("failed to prepare the VM's jail")]
    Jail(#[from] JailError),
    /// It refused what it was told.
    #[error("failed to set up the VM")]
    Api(#[from] FirecrackerError),
    /// It is not as confined as it must be; it was killed.
    #[error("the VM is not confined")]
    Uncontained(#[from] Uncontained),
    /// An earlier VMM of this run directory still lives.
    #[error("the VM runs already as process {}", .0.pid)]
    Running(ProcessId),
    /// The run directory cannot be used.
    #[error("failed to prepare {path}")]
    RunDir {
        /// The run directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A drive, the kernel or the initrd cannot be opened.
    #[error("failed to open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Kernel or initrd are closed to the VM's uid.
    #[error("{path} must be readable by everyone (mode 0444): the confined VMM reads it")]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
    /// Another VM writes to the drive.
    #[error("the drive {path} is in use by another VM")]
    DriveInUse {
        /// The file.
        path: PathBuf,
    },
    /// The spec has an interface and no tap was passed, or the other way round.
    #[error("the tap's descriptor and the specification do not match")]
    Tap,
    /// A socket cannot be made.
    #[error("failed to listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pipe or thread cannot be made.
    #[error("failed to make a pipe")]
    Pipe(#[source] io::Error),
    /// The child cannot be made.
    #[error("failed to start {program}")]
    Spawn {
        /// The trampoline, or the jailer.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be recorded, so it was killed again.
    #[error("failed to record the VM's process")]
    Record(#[source] io::Error),
    /// The VMM ended at once.
    #[error("the VMM ended at once ({how}){}", last_words(.last_log))]
    Ended {
        /// How.
        how: ExitKind,
        /// Last lines of its log.
        last_log: Vec<String>,
    },
    /// The VMM does not answer; it was killed.
    #[error("the VMM did not answer within {} s{}", READY.as_secs(), last_words(.last_log))]
    Silent {
        /// Last lines of its log.
        last_log: Vec<String>,
    },
}

/// The last two lines: a failed assertion is the last, what led to it the one before.
pub(crate) fn last_words(log: &[String]) -> String {
    let last = log[log.len().saturating_sub(2)..].join(" / ");
    if last.is_empty() { last } else { format!(": {last}") }
}

impl StartError {
    /// The variant's stable name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Spec(_) => "spec",
            Self::OtherProgram(_) => "other-program",
            Self::Jail(_) => "jail",
            Self::Api(_) => "api",
            Self::Uncontained(_) => "uncontained",
            Self::Running(_) => "running",
            Self::RunDir { .. } => "run-dir",
            Self::Open { .. } => "open",
            Self::Unreadable { .. } => "unreadable",
            Self::DriveInUse { .. } => "drive-in-use",
            Self::Tap => "tap",
            Self::Listen { .. } => "listen",
            Self::Pipe(_) => "pipe",
            Self::Spawn { .. } => "spawn",
            Self::Record(_) => "record",
            Self::Ended { .. } => "ended",
            Self::Silent { .. } => "silent",
        }
    }

    /// The last lines the VMM said, if it came to that.
    pub fn last_log(&self) -> &[String] {
        match self {
            Self::Ended { last_log, .. } | Self::Silent { last_log } => last_log,
            _ => &[],
        }
    }
}
