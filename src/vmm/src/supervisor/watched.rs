//! The VMM process a supervisor watches: its own child, or one somebody else started.

use std::io;
use std::time::Duration;

use mvm_model::InstanceId;
use mvm_model::vm::ProcessId;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::process::Child;

use super::ExitKind;
use crate::process::Handle;
use crate::systemd::Systemd;

/// Longer than any VM lives.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

#[derive(Debug)]
pub(super) enum Watched {
    /// Ours: the kernel tells us how it ended.
    Child(Child),
    /// Its parent is gone.
    Adopted {
        process: ProcessId,
        handle: Handle,
        /// Set when it is the main process of this instance's unit.
        unit: Option<InstanceId>,
    },
}

impl Watched {
    /// Waits until it ends.
    ///
    /// # Errors
    /// What waiting said.
    pub(super) async fn wait(&mut self) -> io::Result<ExitKind> {
        match self {
            Self::Child(child) => child.wait().await.map(ExitKind::from),
            Self::Adopted { process, handle, unit } => {
                handle.wait_async(FOR_EVER).await?;
                if let Some(status) = collect(process) {
                    return Ok(status);
                }
                if let Some(unit) = unit
                    && let Some(status) = systemd_says(*unit, process).await
                {
                    return Ok(status);
                }
                let status = handle.exit_status(process).await;
                Ok(status.map_or(ExitKind::Unseen, ExitKind::from_wait_status))
            }
        }
    }

    /// Kills it without waiting; one that is gone is fine.
    pub(super) fn start_kill(&mut self) {
        // An error means that it has ended.
        let _ = match self {
            Self::Child(child) => child.start_kill(),
            Self::Adopted { handle, .. } => handle.signal(Signal::SIGKILL),
        };
    }
}

/// How it ended, by who collected it.
async fn systemd_says(unit: InstanceId, process: &ProcessId) -> Option<ExitKind> {
    Systemd::connect().await.ok()?.how_it_ended(unit, process).await
}

/// How it ended when it became our child: its own parent is gone, and we take in orphans.
fn collect(process: &ProcessId) -> Option<ExitKind> {
    let pid = Pid::from_raw(i32::try_from(process.pid).ok()?);
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(ExitKind::Code(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(ExitKind::Signal(signal as i32)),
        _ => None,
    }
}
