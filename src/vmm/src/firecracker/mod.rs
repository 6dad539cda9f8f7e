//! Firecracker, the production VMM: always in a jail of its own, driven by its API.
//!
//! `find` says which program is trusted, `jail` makes the directory it is locked into, `config`
//! what it is told, `api` how; `contain` reads back that the confinement holds. The
//! [`supervisor`](crate::supervisor) puts it together.

pub(crate) mod api;
pub(crate) mod config;
pub(crate) mod contain;
mod find;
pub(crate) mod jail;

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::UnixStream;
use tokio::time::Instant;

pub use api::FirecrackerError;
pub use contain::Uncontained;
pub use find::{ALLOWED, Binaries, NotAllowed, Origin, Search, known_problem};
pub use jail::{JailError, remove_jails};

use crate::process::Handle;
use crate::snapshot::SnapshotFiles;
use crate::supervisor::{JailRecord, RunningRecord};
use crate::vmm::{
    RestoreError, RunState, SnapshotDone, SnapshotError, Vmm, VmmError, transfer_deadline,
};
use api::{Api, Call};
use jail::Shown;

/// Where the guest's vsock ports are, below a jail's root.
pub const VSOCK_SOCKET: &str = "run/v.sock";

/// Connects to the vsock's socket in a jail, without following a link.
///
/// # Errors
/// When nobody listens there, or something else is there.
pub async fn connect_vsock(root: &Path) -> io::Result<UnixStream> {
    crate::files::connect_beneath(root, VSOCK_SOCKET).await
}

/// How long a call that changes a setting may take.
const SETTING: Duration = Duration::from_secs(10);
/// Firecracker itself waits up to half a minute for its vCPUs.
const STATE: Duration = Duration::from_secs(45);

/// A Firecracker process, by its API.
#[derive(Debug)]
pub struct Firecracker {
    api: Api,
    jail: JailRecord,
    record: Box<RunningRecord>,
}

fn failed(doing: &'static str) -> impl Fn(FirecrackerError) -> VmmError {
    move |source| VmmError::Firecracker { doing, source }
}

/// Firecracker's states, as `GET /` names them.
fn run_state(name: &str) -> RunState {
    match name {
        "Running" => RunState::Running,
        "Paused" => RunState::Paused,
        "Not started" => RunState::Waiting,
        other => RunState::Ended(crate::text::printable(other, 40)),
    }
}

impl Firecracker {
    /// The Firecracker of a run directory. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When no record leads to one.
    pub fn connect(run_dir: &Path) -> Result<Self, VmmError> {
        let unknown = |source| failed("reach")(FirecrackerError::NoRecord(source));
        let record = RunningRecord::load(run_dir).map_err(|error| unknown(Some(error)))?;
        let record = record.ok_or_else(|| unknown(None))?;
        let jail = record.jail.clone().ok_or_else(|| unknown(None))?;
        Ok(Self { api: Api::of(jail.root.clone()), jail, record: Box::new(record) })
    }

    async fn call(
        &self,
        doing: &'static str,
        call: &Call,
        limit: Duration,
    ) -> Result<(), VmmError> {
        self.api.call(call, self.patience(limit)).await.map_err(failed(doing))
    }

    /// Whoever asked for a snapshot may be gone while it is still written, and until it is done
    /// nothing else is answered.
    fn patience(&self, limit: Duration) -> Duration {
        match jail::is_being_saved(&self.jail.root, self.record.uid) {
            true => limit + transfer_deadline(self.jail.mem_mib),
            false => limit,
        }
    }

    /// The two files, written, whose jail links are gone again unless it is still at them.
    async fn write(
        &self,
        files: &SnapshotFiles,
        deadline: Duration,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<(), SnapshotError> {
        let owner = (self.record.uid, self.record.uid);
        let shown = Shown::for_writing(&self.jail.root, files, owner, self.jail.mem_mib << 20)
            .map_err(saving)?;
        let create = config::create_snapshot();
        let mut create = std::pin::pin!(self.api.call(&create, deadline));
        // It cannot be called off: the API answers nothing else before it is done.
        let (written, cancelled) = tokio::select! {
            biased;
            written = &mut create => (written, false),
            () = cancel => (create.await, true),
        };
        // Whoever lets the VM go on knows by them that it may have to wait, and hides them then.
        if !may_go_on(&written) {
            shown.hide().map_err(saving)?;
        }
        match written {
            Ok(()) if cancelled => Err(SnapshotError::Cancelled),
            Ok(()) => Ok(()),
            Err(FirecrackerError::Deadline { .. }) => Err(SnapshotError::Deadline(deadline)),
            Err(FirecrackerError::Refused { reason, .. }) => Err(refused(reason)),
            Err(other) => Err(SnapshotError::Vmm(failed("save")(other))),
        }
    }
}

impl Firecracker {
    async fn must_wait(&mut self) -> Result<(), RestoreError> {
        match self.status().await? {
            RunState::Waiting => Ok(()),
            other => Err(RestoreError::NotWaiting(other)),
        }
    }

    /// Why it did not load: it has a VM already, or else what it says.
    async fn refused(&mut self, reason: String, shown: Shown) -> RestoreError {
        match self.must_wait().await {
            Err(RestoreError::NotWaiting(state)) => match shown.hide() {
                Ok(()) => RestoreError::NotWaiting(state),
                Err(error) => RestoreError::File(error),
            },
            _ => RestoreError::refusal(reason),
        }
    }
}

/// Whether a snapshot may still be written: nobody said that it is not.
fn may_go_on(written: &Result<(), FirecrackerError>) -> bool {
    use FirecrackerError::{Broken, Deadline};
    matches!(written, Err(Broken { .. } | Deadline { .. }))
}

fn refused(reason: String) -> SnapshotError {
    match reason.contains("os error 28") || reason.contains("No space left") {
        true => SnapshotError::NoSpace,
        false => SnapshotError::Failed(reason),
    }
}

fn saving(error: io::Error) -> SnapshotError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SnapshotError::NoSpace,
        _ => SnapshotError::File(error),
    }
}

impl Vmm for Firecracker {
    async fn status(&mut self) -> Result<RunState, VmmError> {
        let info = self.api.info(self.patience(SETTING)).await.map_err(failed("ask"))?;
        Ok(run_state(&info.state))
    }

    async fn pause(&mut self) -> Result<(), VmmError> {
        self.call("pause", &config::pause(), STATE).await
    }

    async fn resume(&mut self) -> Result<(), VmmError> {
        self.call("resume", &config::resume(), STATE).await?;
        if let Err(error) = jail::forget_saved(&self.jail.root, self.record.uid) {
            tracing::warn!(jail = %self.jail.root.display(), %error, "half a snapshot stays");
        }
        Ok(())
    }

    async fn snapshot(
        &mut self,
        files: &SnapshotFiles,
        deadline: Duration,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<SnapshotDone, SnapshotError> {
        let began = Instant::now();
        self.pause().await?;
        let stop = began.elapsed();
        self.write(files, deadline, cancel).await?;
        let write = began.elapsed() - stop;
        let (kept, gid) = (files.clone(), self.record.uid);
        let sync = move || -> io::Result<u64> {
            jail::take_back(&kept, gid)?;
            Ok(kept.memory.metadata()?.len() + kept.devices.metadata()?.len())
        };
        let bytes = tokio::task::spawn_blocking(sync).await.map_err(io::Error::other);
        let bytes = bytes.and_then(|bytes| bytes).map_err(saving)?;
        Ok(SnapshotDone { bytes, stop, write, sync: began.elapsed() - stop - write })
    }

    async fn restore(
        &mut self,
        files: &SnapshotFiles,
        deadline: Duration,
    ) -> Result<(), RestoreError> {
        // Of a VMM whose jail shows none there is no need to ask: it refuses when it has a VM.
        if Shown::is_there(&self.jail.root) {
            self.must_wait().await?;
        }
        // They stay in the jail: the VM's memory is the file for as long as it lives.
        let shown = Shown::for_reading(&self.jail.root, files).map_err(RestoreError::File)?;
        let load = config::load_snapshot(self.jail.tap.as_deref());
        match self.api.call(&load, deadline).await {
            Ok(()) => {}
            Err(FirecrackerError::Refused { reason, .. }) => {
                return Err(self.refused(reason, shown).await);
            }
            Err(FirecrackerError::Deadline { .. }) => return Err(RestoreError::Deadline(deadline)),
            Err(FirecrackerError::Broken { reason, .. }) => return Err(RestoreError::Left(reason)),
            Err(other) => return Err(RestoreError::Vmm(failed("restore")(other))),
        }
        jail::close(&self.jail.root, jail::SOCKETS)
            .map_err(|error| RestoreError::File(io::Error::other(error)))?;
        contain::check_vm(self.record.process.pid, self.record.uid)
            .await
            .map_err(RestoreError::Uncontained)
    }

    /// It has no word for that: its process is ended.
    async fn quit(&mut self) -> Result<(), VmmError> {
        let ended = Handle::open(&self.record.process)
            .and_then(|handle| handle.map_or(Ok(()), |handle| handle.signal(Signal::SIGKILL)));
        ended.map_err(|error| failed("end")(FirecrackerError::NoRecord(Some(error))))
    }
}

#[cfg(test)]
mod tests;
