//! The VMM process a supervisor watches: its own child, or one somebody else started.

use std::io;
use std::time::Duration;

use mvm_model::vm::ProcessId;
use nix::sys::signal::Signal;
use tokio::process::Child;

use super::ExitKind;
use crate::process::Handle;

/// Longer than any VM lives.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

#[derive(Debug)]
pub(super) enum Watched {
    /// Ours: the kernel tells us how it ended.
    Child(Child),
    /// Its parent is gone.
    Adopted { process: ProcessId, handle: Handle },
}

impl Watched {
    /// Waits until it ends.
    ///
    /// # Errors
    /// What waiting said.
    pub(super) async fn wait(&mut self) -> io::Result<ExitKind> {
        match self {
            Self::Child(child) => child.wait().await.map(ExitKind::from),
            Self::Adopted { process, handle } => {
                handle.wait_async(FOR_EVER).await?;
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
