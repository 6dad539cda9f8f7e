//! The VM of one instance, as its driver sees it: launched, driven, ended.
//!
//! The VM itself is a process with a shim beside it ([`crate::shim`]); this is only a way to
//! reach both. It holds no connection between calls, so it can be dropped and made anew by
//! whoever comes next.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mvm_host::file;
use mvm_model::failpoint::{self, Effect};
use mvm_model::record::InstanceRecord;
use mvm_model::state::VmRef;
use mvm_model::vm::{ProcessId, VmmKind};
use mvm_vmm::firecracker::{JailError, remove_jails};
use mvm_vmm::process::{self, Handle, Waited};
use mvm_vmm::supervisor::{self, Report, RunningRecord};
use mvm_vmm::{
    AnyVmm, Placement, RestoreError, RunState, SnapshotError, SnapshotFiles, StartMode, Vmm,
    VmmError, transfer_deadline,
};
use nix::sys::signal::Signal;

use crate::behind::Behind;
use crate::blueprint::Blueprint;
use crate::error::{About, Classify, Error, Kind, Result};
use crate::failpoint::{around, at};
use crate::launch::{self, START};
use crate::service::Service;
use crate::shim::{GUEST_SOCKET, Order, Task};
use crate::socket::connect_in;

/// How long a process may take to end after it was told to.
const END: Duration = Duration::from_secs(10);
/// How often it is looked whether a supervisor is there.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is looked whether one that is on its way has come.
const SOON: Duration = Duration::from_millis(5);

/// The VM of one instance.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(crate) service: Service,
    pub(crate) record: InstanceRecord,
    run_dir: PathBuf,
}

impl Machine {
    /// The VM of this instance, whether there is one or not.
    pub fn of(service: &Service, record: &InstanceRecord) -> Self {
        Self {
            service: service.clone(),
            record: record.clone(),
            run_dir: service.dirs.vm(record.instance_id),
        }
    }

    /// Its run directory.
    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The VM that lives, by the record its supervisor wrote.
    pub fn living_vm(&self) -> Option<VmRef> {
        let running = RunningRecord::load(&self.run_dir).ok().flatten()?;
        let ours =
            running.instance == self.record.instance_id && process::is_alive(&running.process);
        ours.then_some(VmRef { process: running.process, vmm: running.vmm, resumed_from: None })
    }

    /// Launches the VM: booting, or paused and waiting for a restore.
    ///
    /// # Errors
    /// What its supervisor said; nothing runs then.
    pub async fn launch(&self, blueprint: &Blueprint, mode: StartMode) -> Result<VmRef> {
        // The records of an older VM are the only way to it: it ends before they go.
        self.kill().await?;
        let placement = self.service.placement(blueprint)?;
        let log = self.claim().await?;
        let doing = "prepare its run directory";
        file::create_dir(&self.run_dir).about(self.record.path(), doing)?;
        supervisor::keep_only_logs(&self.run_dir)
            .map_err(|error| self.error(Kind::Failed, doing).because(error))?;
        let order = Order {
            task: Task::Launch {
                launch: Box::new(blueprint.launch(mode, placement.clone())),
                tap: Some(self.record.tap()),
            },
            instance: self.record.path().to_string(),
            dirs: self.service.dirs.clone(),
            unit: matches!(placement, Placement::Unit(_)),
        };
        at(failpoint::before(Effect::StartSupervisor), self.record.path())?;
        let report = match placement {
            Placement::Unit(net) => {
                // Its supervisor takes the lock: systemd would keep ours for as long as the unit.
                drop(log);
                // What speaks to systemd is a type too deep for the compiler to look through.
                launch::in_unit(&self.service.exe, &order, net).boxed().await
            }
            Placement::Group(_) | Placement::Unlimited => {
                launch::as_child(&self.service.exe, log, &order).await
            }
        };
        match report {
            Ok(Report::Started(process)) => {
                at(failpoint::after(Effect::StartSupervisor), self.record.path())?;
                Ok(VmRef { process, vmm: blueprint.vmm().clone(), resumed_from: None })
            }
            Ok(Report::Failed(failure)) => {
                Err(self.error(Kind::Failed, "cannot start its VM").because(failure.message))
            }
            Err(error) => {
                Err(self.error(Kind::Failed, "cannot start its VM's supervisor").because(error))
            }
        }
    }

    /// The supervisor's log, locked for as long as a supervisor lives: it inherits the lock. So
    /// one that was started and has not recorded anything yet is known of too, and ended before
    /// another is started.
    async fn claim(&self) -> Result<File> {
        let log = self.open_log()?;
        let failed = |error| self.log_error(error);
        let give_up = Instant::now() + START;
        loop {
            match log.try_lock() {
                Ok(()) => return log.set_len(0).map(|()| log).map_err(failed),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if Instant::now() > give_up => {
                    return Err(self.error(Kind::Busy, "a supervisor of it does not end"));
                }
                Err(TryLockError::WouldBlock) => {
                    self.kill().await?;
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// Makes sure that a living VM has a supervisor: one that died is followed by another, which
    /// takes the VM over as it is. Fine when there is no VM.
    ///
    /// # Errors
    /// When the next one does not come up; the VM goes on without.
    pub async fn ensure_supervisor(&self) -> Result<()> {
        if !self.is_alone() {
            return Ok(());
        }
        let Some(log) = self.claim_once()? else { return self.await_other_supervisor().await };
        let order = Order {
            task: Task::TakeOver { run_dir: self.run_dir.clone() },
            instance: self.record.path().to_string(),
            dirs: self.service.dirs.clone(),
            unit: false,
        };
        let doing = "cannot replace its VM's supervisor";
        match launch::as_child(&self.service.exe, log, &order).await {
            Ok(Report::Started(_)) => {
                tracing::info!(instance = %self.record.path(), "its supervisor was gone; another took over");
                Ok(())
            }
            Ok(Report::Failed(failure)) => {
                Err(self.error(Kind::Failed, doing).because(failure.message))
            }
            Err(error) => Err(self.error(Kind::Failed, doing).because(error)),
        }
    }

    /// Whether there is a living VM whose supervisor is gone.
    pub(crate) fn is_alone(&self) -> bool {
        let running = RunningRecord::load(&self.run_dir).ok().flatten();
        let supervised = running.is_some_and(|running| process::is_alive(&running.supervisor));
        !supervised && self.living_vm().is_some()
    }

    /// Somebody else is at it, or a supervisor that is just ending still holds its log.
    async fn await_other_supervisor(&self) -> Result<()> {
        let give_up = Instant::now() + END;
        while connect_in(&self.run_dir, GUEST_SOCKET).await.is_err() {
            if self.living_vm().is_none() {
                return Ok(());
            }
            if Instant::now() > give_up {
                return Err(self.error(Kind::Busy, "its VM's supervisor does not answer"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn open_log(&self) -> Result<File> {
        let path = self.service.dirs.supervisor_log(self.record.instance_id);
        path.parent()
            .map_or(Ok(()), file::create_dir)
            .about(self.record.path(), "prepare its run directory")?;
        let log = fs::OpenOptions::new().create(true).append(true).open(&path);
        log.map_err(|error| self.log_error(error))
    }

    fn log_error(&self, error: io::Error) -> Error {
        self.error(Kind::Failed, "cannot open its supervisor's log").because(error)
    }

    /// The supervisor's log with what it holds, unless a supervisor has it.
    fn claim_once(&self) -> Result<Option<File>> {
        let log = self.open_log()?;
        match log.try_lock() {
            Ok(()) => Ok(Some(log)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(self.log_error(error)),
        }
    }

    fn error(&self, kind: Kind, message: &str) -> Error {
        Error::new(kind, self.record.path(), message)
    }

    async fn connect(&self) -> Result<AnyVmm> {
        let kind = self.living_vm().map_or(VmmKind::Qemu, |vm| vm.vmm.kind);
        AnyVmm::connect(kind, &self.run_dir).await.about(self.record.path(), "reach its VM")
    }

    /// Pauses the vCPUs.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn pause(&self) -> Result<()> {
        let pause =
            async { self.connect().await?.pause().await.about(self.record.path(), "pause its VM") };
        around(Effect::PauseVm, self.record.path(), pause).await
    }

    /// Lets the vCPUs execute.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn resume(&self) -> Result<()> {
        let resume = async {
            self.connect().await?.resume().await.about(self.record.path(), "resume its VM")
        };
        around(Effect::ResumeVm, self.record.path(), resume).await
    }

    /// Whether the vCPUs execute now; `None` when the VMM does not say.
    pub async fn is_executing(&self) -> Option<bool> {
        Some(self.run_state().await? == RunState::Running)
    }

    /// What the VMM does now; `None` when it does not say.
    pub(crate) async fn run_state(&self) -> Option<RunState> {
        self.connect().await.ok()?.status().await.ok()
    }

    /// Writes memory and devices into a directory, synced. The VM is paused afterwards.
    ///
    /// # Errors
    /// When the disk is full, `cancel` completed or the VMM gave up; the VM can be resumed.
    pub async fn save(&self, dir: &Path, cancel: impl Future<Output = ()> + Send) -> Result<()> {
        let path = self.record.path();
        let deadline = transfer_deadline(self.record.resources.mem_mib);
        let files = SnapshotFiles::in_dir(dir);
        let mut vm = self.connect().await?;
        let behind = Behind::start(&path, &files.memory);
        let save = async {
            let saved = vm.snapshot(&files, deadline, cancel).await;
            saved.map(drop).about(&path, "write its memory")
        };
        // A guest whose save was called off does not stay paused for a slow disk.
        around(Effect::SaveMemory, &path, save).await?;
        behind.finish().await
    }

    /// Loads memory and devices into a VM launched with [`StartMode::Restore`]; it stays paused.
    ///
    /// # Errors
    /// When the VMM refuses the files; that VM is spent then.
    pub async fn restore(&self, dir: &Path) -> Result<()> {
        let path = self.record.path();
        let deadline = transfer_deadline(self.record.resources.mem_mib);
        let files = SnapshotFiles::in_dir(dir);
        let load = async {
            let loaded = self.connect().await?.restore(&files, deadline).await;
            let left = matches!(loaded, Err(RestoreError::Left(_)));
            let mut loaded = loaded.about(&path, "load its memory");
            if let Err(error) = &mut loaded
                && left
                && self.ended_over_its_memory().await
            {
                (error.kind, error.hint) = (Kind::Corrupt, None);
            }
            loaded
        };
        around(Effect::LoadMemory, &path, load).await
    }

    /// Ends VM and supervisor for certain; fine when there are none.
    ///
    /// # Errors
    /// When a process stays although it was killed.
    pub async fn kill(&self) -> Result<()> {
        let give_up = Instant::now() + START;
        loop {
            let killed = self.kill_recorded().await;
            // Whoever started a supervisor may be gone before it has recorded anything: it makes a
            // jail and a VM all the same, which the next look finds.
            if !self.has_other_supervisor() {
                return killed;
            }
            if Instant::now() > give_up {
                killed?;
                return Err(self.error(Kind::Busy, "a supervisor of it does not end"));
            }
            tokio::time::sleep(SOON).await;
        }
    }

    /// Whether a supervisor lives that is not this process, recorded or not: it has its log.
    fn has_other_supervisor(&self) -> bool {
        let log = self.service.dirs.supervisor_log(self.record.instance_id);
        let identity = |meta: &fs::Metadata| (meta.dev(), meta.ino());
        let ours = io::stderr().as_fd().try_clone_to_owned();
        let ours = ours.and_then(|ours| File::from(ours).metadata());
        let is_ours = match (&ours, log.metadata()) {
            (Ok(ours), Ok(log)) => identity(ours) == identity(&log),
            _ => false,
        };
        let log = File::open(log).ok().filter(|_| !is_ours);
        log.is_some_and(|log| matches!(log.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    async fn kill_recorded(&self) -> Result<()> {
        let running = RunningRecord::load(&self.run_dir).ok().flatten();
        let recorded = self.record.state.vm().map(|vm| vm.process.clone());
        let vmm = running.as_ref().map(|running| running.process.clone());
        for process in vmm.into_iter().chain(recorded) {
            self.end(&process, Signal::SIGKILL).await?;
        }
        // The supervisor notes how the VM ended and goes by itself; it may be us who asks.
        let others = |running: &RunningRecord| running.supervisor.pid != std::process::id();
        if let Some(running) = running.filter(others) {
            let gone = self.wait_for(&running.supervisor, END).await?;
            if gone == Waited::StillRunning {
                self.end(&running.supervisor, Signal::SIGKILL).await?;
            }
        }
        // A supervisor that lived did this already.
        supervisor::clean(&self.run_dir);
        // Nothing leads to a jail from before the host's last boot but its name.
        remove_jails(&self.service.dirs.jails(), self.record.instance_id)
            .about(self.record.path(), "remove what its VM left")
    }

    async fn end(&self, process: &ProcessId, signal: Signal) -> Result<()> {
        let failed =
            |error: io::Error| self.error(Kind::Failed, "cannot end its VM").because(error);
        let Some(handle) = Handle::open(process).map_err(failed)? else { return Ok(()) };
        at(failpoint::before(Effect::EndProcess), self.record.path())?;
        handle.signal(signal).map_err(failed)?;
        match handle.wait_async(END).await.map_err(failed)? {
            Waited::Gone => at(failpoint::after(Effect::EndProcess), self.record.path()),
            Waited::StillRunning => Err(self
                .error(Kind::Timeout, &format!("process {} does not end", process.pid))
                .hint("the host's storage may hang; look at the kernel's log")),
        }
    }

    /// Waits until a process is gone.
    pub(crate) async fn wait_for(&self, process: &ProcessId, limit: Duration) -> Result<Waited> {
        let failed =
            |error: io::Error| self.error(Kind::Failed, "cannot watch its VM").because(error);
        match Handle::open(process).map_err(failed)? {
            None => Ok(Waited::Gone),
            Some(handle) => handle.wait_async(limit).await.map_err(failed),
        }
    }
}

impl Service {
    /// Gives every VM whose supervisor died another. The agent's loop calls it, so that little of
    /// what a guest prints is lost; a command that needs the guest does not wait for that.
    pub async fn ensure_supervisors(&self) {
        for record in self.records.all_instances().records {
            if record.state.vm().is_none() || record.transition.is_some() {
                continue;
            }
            if let Err(error) = Machine::of(self, &record).ensure_supervisor().await {
                tracing::warn!(instance = %record.path(), error = error.chain(), "supervisor");
            }
        }
    }
}

impl Classify for VmmError {
    fn classify(&self) -> (Kind, Option<String>) {
        (Kind::Failed, None)
    }
}

impl Classify for SnapshotError {
    fn classify(&self) -> (Kind, Option<String>) {
        match self {
            Self::NoSpace => (
                Kind::DiskFull,
                Some("the instance goes on running; free some space and try again".into()),
            ),
            Self::Cancelled => (Kind::Interrupted, Some("the instance goes on running".into())),
            Self::Deadline(_) => {
                (Kind::Timeout, Some("the instance goes on running; is the disk slow?".into()))
            }
            _ => (Kind::Failed, None),
        }
    }
}

impl Classify for JailError {
    fn classify(&self) -> (Kind, Option<String>) {
        (Kind::Failed, None)
    }
}

impl Classify for RestoreError {
    fn classify(&self) -> (Kind, Option<String>) {
        match self {
            // Nothing else says anything about the snapshot: a wake decides by this.
            _ if self.is_of_the_snapshot() => (Kind::Corrupt, None),
            Self::Deadline(_) => (Kind::Timeout, None),
            Self::Left(_) => (Kind::Failed, Some("its memory is kept: wake it again when this host has room for it, or give it up with 'mvm instance stop' and 'start'; the data drive stays".into())),
            _ => (Kind::Failed, None),
        }
    }
}
