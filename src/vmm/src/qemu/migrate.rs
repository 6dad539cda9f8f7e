//! Saving a stopped VM into a file and loading it again, by QEMU's migration over a descriptor.
//!
//! ```text
//! save:  stop ─ getfd ─ migrate fd: ─▶ active ─┬─▶ completed ─▶ fsync    (VM: postmigrate)
//!                                              ├─▶ failed                (VM: paused)
//!                          migrate_cancel ─────┴─▶ cancelled             (VM: paused)
//! load:  getfd ─ migrate-incoming fd: ─▶ completed (VM: paused) │ QEMU exits: file refused
//! ```
//!
//! `fd:` is what every supported QEMU takes (`file:` is unknown to 7.2; 10.0 warns in its log
//! that it prefers it). Progress comes by event; a query every 50 ms covers a lost one.

use std::fs::File;
use std::future::Future;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{COMMAND, Qemu, QmpError, failed};
use crate::vmm::{RestoreError, RunState, SnapshotDone, SnapshotError, Vmm};

/// Name of the passed descriptor inside QEMU.
const FD_NAME: &str = "mvm-memory";
/// The default of 128 MiB/s is for networks; a local file takes what the disk gives.
const BANDWIDTH: u64 = 1 << 40;
/// How long one that was called off may take to end: what is being written then is written.
const GIVE_UP: Duration = Duration::from_secs(60);
/// How often progress is asked for when no event comes.
const POLL: Duration = Duration::from_millis(50);
/// Free space below which a failed write is blamed on a full file system.
const FULL_BELOW: u64 = 1 << 20;

/// Where a migration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// None was ever started.
    Idle,
    /// Under way.
    Active,
    /// Done.
    Completed,
    /// Ended by `migrate_cancel`.
    Cancelled,
    /// Ended by an error; QEMU's words, which may be empty.
    Failed(String),
}

/// Reads `query-migrate`.
pub(super) fn progress(answer: &Value) -> Progress {
    match answer["status"].as_str() {
        None | Some("none") => Progress::Idle,
        Some("completed") => Progress::Completed,
        Some("cancelled") => Progress::Cancelled,
        Some("failed") => Progress::Failed(crate::text::printable(
            answer["error-desc"].as_str().unwrap_or_default(),
            300,
        )),
        Some(_) => Progress::Active,
    }
}

/// Why waiting for the end stopped.
enum Ended {
    At(Progress),
    Cancelled,
    Deadline,
}

impl Qemu {
    pub(super) async fn save(
        &mut self,
        memory: File,
        deadline: Duration,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<SnapshotDone, SnapshotError> {
        check_empty(&memory).map_err(SnapshotError::File)?;
        let began = Instant::now();
        self.pause().await?;
        let stop = began.elapsed();
        self.start_saving(&memory).await.map_err(saving)?;
        match self.saved(deadline, cancel).await.map_err(saving)? {
            Ended::At(Progress::Completed) => {}
            Ended::At(Progress::Failed(why)) => return Err(write_failure(&memory, why)),
            Ended::At(other) => {
                return Err(SnapshotError::Failed(format!("it ended as {other:?}")));
            }
            Ended::Cancelled => return Err(SnapshotError::Cancelled),
            Ended::Deadline => return Err(SnapshotError::Deadline(deadline)),
        }
        let write = began.elapsed() - stop;
        let bytes = sync(memory).await.map_err(sync_failure)?;
        Ok(SnapshotDone { bytes, stop, write, sync: began.elapsed() - stop - write })
    }

    /// Waits for the end of a save; one that was cancelled or late is over when this returns.
    async fn saved(
        &mut self,
        deadline: Duration,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<Ended, QmpError> {
        let ended = tokio::select! {
            biased;
            () = cancel => Ended::Cancelled,
            ended = timeout(deadline, self.settled()) => match ended {
                Ok(ended) => Ended::At(ended?),
                Err(_) => Ended::Deadline,
            },
        };
        if !matches!(ended, Ended::At(_)) {
            self.give_up_snapshot().await?;
        }
        Ok(ended)
    }

    async fn start_saving(&mut self, memory: &File) -> Result<(), QmpError> {
        self.prepare_transfer().await?;
        self.qmp.pass_fd(FD_NAME, memory.as_fd(), COMMAND).await?;
        let arguments = json!({ "uri": format!("fd:{FD_NAME}") });
        self.qmp.execute("migrate", arguments, COMMAND).await.map(drop)
    }

    async fn prepare_transfer(&mut self) -> Result<(), QmpError> {
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        self.qmp.execute("migrate-set-capabilities", events, COMMAND).await?;
        let speed = json!({ "max-bandwidth": BANDWIDTH });
        self.qmp.execute("migrate-set-parameters", speed, COMMAND).await.map(drop)
    }

    /// Waits until a migration that was just asked for is over. An incoming one may not have
    /// begun when it is first asked about, so idle means wait, too.
    async fn settled(&mut self) -> Result<Progress, QmpError> {
        loop {
            match progress(&self.query("query-migrate").await?) {
                Progress::Active | Progress::Idle => {}
                ended => {
                    self.leave_transfer(&ended).await?;
                    return Ok(ended);
                }
            }
            self.qmp.event("MIGRATION", POLL).await?;
        }
    }

    /// QEMU 10 calls a migration over before its run state has left it, and refuses `cont` until
    /// then. One that failed to come in is waited for no more.
    async fn leave_transfer(&mut self, ended: &Progress) -> Result<(), QmpError> {
        loop {
            match self.run_state().await? {
                RunState::Saving => {}
                RunState::Waiting if *ended == Progress::Completed => {}
                _ => return Ok(()),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends a half-written snapshot, whoever began it; none at all is fine.
    pub(super) async fn give_up_snapshot(&mut self) -> Result<(), QmpError> {
        match timeout(GIVE_UP, self.cancel_and_settle()).await {
            Ok(ended) => ended,
            Err(_) => Err(QmpError::Deadline { what: "migrate_cancel".into(), after: GIVE_UP }),
        }
    }

    async fn cancel_and_settle(&mut self) -> Result<(), QmpError> {
        let progress = progress(&self.query("query-migrate").await?);
        if progress == Progress::Active {
            self.query("migrate_cancel").await?;
            return self.settled().await.map(drop);
        }
        match self.run_state().await? {
            RunState::Waiting => Ok(()),
            _ => self.leave_transfer(&progress).await,
        }
    }

    pub(super) async fn load(
        &mut self,
        mut memory: File,
        deadline: Duration,
    ) -> Result<(), RestoreError> {
        memory.rewind().map_err(RestoreError::File)?;
        match timeout(deadline, self.load_and_settle(&memory)).await {
            Err(_) => Err(RestoreError::Deadline(deadline)),
            Ok(Ok(Progress::Completed)) => Ok(()),
            Ok(Ok(Progress::Failed(why))) => Err(RestoreError::refusal(why)),
            Ok(Ok(other)) => Err(RestoreError::Refused(format!("it ended as {other:?}"))),
            // QEMU exits on a stream it cannot load; its log says why.
            Ok(Err(QmpError::Closed)) => Err(RestoreError::Left("its monitor was closed".into())),
            Ok(Err(error)) => Err(RestoreError::Vmm(failed("restore")(error))),
        }
    }

    async fn load_and_settle(&mut self, memory: &File) -> Result<Progress, QmpError> {
        self.prepare_transfer().await?;
        self.qmp.pass_fd(FD_NAME, memory.as_fd(), COMMAND).await?;
        let arguments = json!({ "uri": format!("fd:{FD_NAME}") });
        self.qmp.execute("migrate-incoming", arguments, COMMAND).await?;
        self.settled().await
    }
}

fn saving(error: QmpError) -> SnapshotError {
    SnapshotError::Vmm(failed("save")(error))
}

/// What was there before would stay behind a shorter snapshot.
fn check_empty(memory: &File) -> io::Result<()> {
    match memory.metadata()?.len() {
        0 => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not empty")),
    }
}

/// QEMU names the cause in some versions only, so a full file system is looked for too.
fn write_failure(memory: &File, why: String) -> SnapshotError {
    if why.contains("No space left") || nearly_full(memory).unwrap_or(false) {
        SnapshotError::NoSpace
    } else {
        SnapshotError::Failed(why)
    }
}

fn sync_failure(error: io::Error) -> SnapshotError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SnapshotError::NoSpace,
        _ => SnapshotError::File(error),
    }
}

fn nearly_full(file: &File) -> io::Result<bool> {
    let stat = nix::sys::statvfs::fstatvfs(file)?;
    Ok(stat.blocks_available() * stat.fragment_size() < FULL_BELOW)
}

async fn sync(memory: File) -> io::Result<u64> {
    let sync = move || memory.sync_all().and_then(|()| Ok(memory.metadata()?.len()));
    tokio::task::spawn_blocking(sync).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_query_migrate_is_understood() {
        let of = |status: &str| progress(&json!({ "status": status }));
        assert_eq!(progress(&json!({})), Progress::Idle);
        assert_eq!(of("completed"), Progress::Completed);
        assert_eq!(of("cancelled"), Progress::Cancelled);
        for active in ["setup", "active", "device", "pre-switchover", "cancelling", "new-word"] {
            assert_eq!(of(active), Progress::Active);
        }
        let failed = json!({ "status": "failed", "error-desc": "Unable\nto write" });
        assert_eq!(progress(&failed), Progress::Failed("Unable\u{fffd}to write".into()));
    }
}
