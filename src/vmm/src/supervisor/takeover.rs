//! A new supervisor for a VM whose first one died.
//!
//! Everything it needs was left for it: who the VMM is (`vmm.json`), the fifos the VMM writes to,
//! the sockets it listens on. Two at once are kept apart by the caller's lock.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use mvm_model::vm::ProcessId;

use super::drain::Drain;
use super::record::{CONSOLE_FIFO, VMM_FIFO};
use super::ring::{Ring, SEGMENT};
use super::watched::Watched;
use super::{CONSOLE_LOG, RunningRecord, Supervised, VMM_LOG, WhenDropped, jailed, open};
use crate::firecracker::jail;
use crate::process::{self, Handle};

/// Why a VM was not taken over. It goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// There is none: it ended, or nothing says that there was one.
    #[error("there is no VM to take over")]
    Gone,
    /// Its supervisor lives.
    #[error("process {} supervises the VM", .0.pid)]
    Supervised(ProcessId),
    /// The run directory cannot be used.
    #[error("failed to {doing}")]
    RunDir {
        /// A verb phrase.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes this process the supervisor of a living VM that has none. The VM is not touched.
///
/// # Errors
/// [`TakeOverError`].
pub fn take_over(run_dir: &Path) -> Result<Supervised, TakeOverError> {
    let failed = |doing| move |source| TakeOverError::RunDir { doing, source };
    let running = RunningRecord::load(run_dir).map_err(failed("read who the VM is"))?;
    let running = running.ok_or(TakeOverError::Gone)?;
    if process::is_alive(&running.supervisor) {
        return Err(TakeOverError::Supervised(running.supervisor));
    }
    let handle = Handle::open(&running.process).map_err(failed("watch the VM"))?;
    let handle = handle.filter(|_| process::is_alive(&running.process));
    let handle = handle.ok_or(TakeOverError::Gone)?;
    let supervisor = process::identify(std::process::id()).map_err(failed("know ourselves"))?;
    let record = RunningRecord { supervisor, ..running };
    record.store(run_dir).map_err(failed("record ourselves"))?;
    let says = "read what the VM says";
    let console = open::read_fifo(&run_dir.join(CONSOLE_FIFO));
    let log = match &record.jail {
        Some(jail) => jailed::resume_log(jail),
        None => open::read_fifo(&run_dir.join(VMM_FIFO)),
    };
    Ok(Supervised {
        console: resume(run_dir, console, CONSOLE_LOG).map_err(failed(says))?,
        log: resume(run_dir, log, VMM_LOG).map_err(failed(says))?,
        jail: record.jail.clone(),
        told: std::sync::Arc::default(),
        _locks: record
            .jail
            .as_ref()
            .and_then(|jail| jail::lock_data(&jail.root))
            .into_iter()
            .collect(),
        vmm: Watched::Adopted { process: record.process.clone(), handle, unit: record.unit() },
        process: record.process,
        when_dropped: WhenDropped::LeaveRunning,
        run_dir: run_dir.to_owned(),
    })
}

/// Goes on with a log. A VM that was started by an older version has no fifo: its words are lost.
fn resume(run_dir: &Path, fifo: io::Result<OwnedFd>, log: &str) -> io::Result<Option<Drain>> {
    match fifo {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        pipe => Drain::start(pipe?, Ring::resume(run_dir.join(log), SEGMENT)?).map(Some),
    }
}
