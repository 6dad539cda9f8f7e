//! QEMU, for machines where Firecracker cannot run.
//!
//! `args` says how it is started, `qmp` how it is spoken to, `migrate` how its memory is saved and
//! loaded, `find` where it is installed. All of it is reached through [`Vmm`] and the
//! [`supervisor`](crate::supervisor).

mod args;
mod find;
mod migrate;
mod qmp;
mod tsc;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

pub use args::Arch;
pub(crate) use args::{Fds, INITRD, KERNEL, command_line};
pub use find::{QemuBinary, QemuMissing};
pub use qmp::{Event, Qmp, QmpError, connect_in};
pub(crate) use tsc::guest_tsc;

use crate::snapshot::SnapshotFiles;
use crate::vmm::{RestoreError, RunState, SnapshotDone, SnapshotError, Vmm, VmmError};

/// Name of the monitor's socket in the run directory.
pub const QMP_SOCKET: &str = "qmp.sock";
/// Name of the guest agent's socket in the run directory.
pub const AGENT_SOCKET: &str = "agent.sock";

/// How long one short command may take; on a busy host a monitor can be seconds late.
const COMMAND: Duration = Duration::from_secs(10);
/// Stopping flushes the drives, which takes as long as the disk needs.
const STOP: Duration = Duration::from_secs(60);

/// A QEMU process, by its monitor.
#[derive(Debug)]
pub struct Qemu {
    qmp: Qmp,
}

impl Qemu {
    /// Connects to the monitor in a run directory.
    ///
    /// # Errors
    /// [`VmmError::Qemu`]; the process may be gone, or another client may hold the monitor.
    pub async fn connect(run_dir: &Path) -> Result<Self, VmmError> {
        let qmp = Qmp::connect(run_dir, QMP_SOCKET, COMMAND).await.map_err(failed("reach"))?;
        Ok(Self { qmp })
    }

    /// The version it greeted with, like `7.2.22`.
    pub fn version(&self) -> &str {
        self.qmp.version()
    }

    async fn command(&mut self, doing: &'static str, name: &'static str) -> Result<(), VmmError> {
        self.qmp.execute(name, json!({}), STOP).await.map(drop).map_err(failed(doing))
    }

    async fn run_state(&mut self) -> Result<RunState, QmpError> {
        let answer = self.query("query-status").await?;
        Ok(run_state(answer["status"].as_str().unwrap_or("unknown")))
    }

    async fn query(&mut self, name: &'static str) -> Result<Value, QmpError> {
        self.qmp.execute(name, json!({}), COMMAND).await
    }
}

fn failed(doing: &'static str) -> impl Fn(QmpError) -> VmmError {
    move |source| VmmError::Qemu { doing, source }
}

/// QEMU's run states, as `query-status` names them.
fn run_state(name: &str) -> RunState {
    match name {
        "running" => RunState::Running,
        "paused" | "prelaunch" | "postmigrate" | "suspended" => RunState::Paused,
        "inmigrate" => RunState::Waiting,
        "finish-migrate" | "save-vm" | "restore-vm" => RunState::Saving,
        other => RunState::Ended(crate::text::printable(other, 40)),
    }
}

impl Vmm for Qemu {
    async fn status(&mut self) -> Result<RunState, VmmError> {
        self.run_state().await.map_err(failed("ask"))
    }

    async fn pause(&mut self) -> Result<(), VmmError> {
        self.command("pause", "stop").await
    }

    async fn resume(&mut self) -> Result<(), VmmError> {
        self.give_up_snapshot().await.map_err(failed("resume"))?;
        self.command("resume", "cont").await
    }

    async fn snapshot(
        &mut self,
        files: &SnapshotFiles,
        deadline: Duration,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<SnapshotDone, SnapshotError> {
        let memory = files.create_memory().map_err(SnapshotError::File)?;
        self.save(memory, deadline, cancel).await
    }

    async fn restore(
        &mut self,
        files: &SnapshotFiles,
        deadline: Duration,
    ) -> Result<(), RestoreError> {
        match self.status().await? {
            RunState::Waiting => {
                let memory = files.open_memory().map_err(RestoreError::File)?;
                self.load(memory, deadline).await
            }
            other => Err(RestoreError::NotWaiting(other)),
        }
    }

    async fn quit(&mut self) -> Result<(), VmmError> {
        match self.qmp.execute("quit", json!({}), COMMAND).await {
            // QEMU may be gone before its answer is.
            Ok(_) | Err(QmpError::Closed) => Ok(()),
            Err(source) => Err(failed("end")(source)),
        }
    }
}
