//! Starts a Firecracker in its jail.
//!
//! ```text
//! jail: links, fifo ─▶ jailer ─fork─▶ firecracker (pid 1 of its namespace)
//!                       └ exits       │ vmm.json, vmm.pid
//!         API listens ◀───────────────┘
//!   boot:    settings ─ start ─ confinement read back
//!   restore: nothing; the snapshot is loaded by whoever wakes it
//! ```
//!
//! The VMM is not our child, because its jailer ends; its end is seen by pidfd.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mvm_model::failpoint::{self, Effect};
use mvm_model::vm::{ProcessId, Vmm, VmmKind};
use mvm_model::{Digest, InstanceId};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::record::{self, CONSOLE_FIFO, JailRecord, PID_FILE};
use super::{
    CONSOLE_LOG, ExitKind, Launch, READY, RunningRecord, StartError, Supervised, VMM_LOG,
    WhenDropped, open,
};
use crate::confine::{Bind, Jailer};
use crate::firecracker::api::Api;
use crate::firecracker::jail::{self, Jail};
use crate::firecracker::{Binaries, FirecrackerError, config, contain};
use crate::placement::{Limits, Placement};
use crate::process::{self, Handle};
use crate::spec::{Access, StartMode, VmSpec};
use crate::supervisor::watched::Watched;

/// How long one setting may take.
const SETTING: Duration = Duration::from_secs(10);
/// How long a jailer may take: it copies some megabytes.
const JAILER: Duration = Duration::from_secs(15);
/// Pause between looks for what takes a fraction of a millisecond.
const LOOK: Duration = Duration::from_micros(100);
/// So often it is looked for in such short order.
const SOON: u32 = 30;
/// Descriptors of a Firecracker: some dozens of its own, and one per vsock connection.
const MAX_FILES: u64 = 2048;
/// What a snapshot's other file, and anything else Firecracker writes, fits into, MiB.
const FILE_SLACK_MIB: u64 = 64;

/// What is needed to start a jailed VM beside its specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jailed {
    /// The programs; allowed before.
    pub binaries: Binaries,
    /// Where jails are made: on the file system of drives, images and snapshots.
    pub jails: std::path::PathBuf,
    /// The control group it belongs into.
    pub placement: Placement,
}

/// Starts it; the caller looked that no earlier VM of the instance lives.
pub(super) async fn start(launch: &Launch, jailed: &Jailed) -> Result<Supervised, StartError> {
    let spec = &launch.spec;
    jail::remove_jails(&jailed.jails, spec.instance)?;
    let locks = lock_drives(spec)?;
    // Of the files as they are before they are shown to it.
    let fingerprint = launch.fingerprint();
    let (jail, binds) = Jail::prepare(&jailed.jails, spec)?;
    let start = Start { launch, jailed, jail: &jail, fingerprint };
    let started = start.run(binds, locks).await;
    if started.is_err() {
        // Its error is the one that matters; the next start removes what stays.
        let _ = jail::remove_jails(&jailed.jails, spec.instance);
    }
    started
}

/// Another VM's drive is never shown; the lock is this supervisor's as long as it lives.
fn lock_drives(spec: &VmSpec) -> Result<Vec<OwnedFd>, StartError> {
    let writable = spec.drives.iter().filter(|drive| drive.access == Access::ReadWrite);
    writable.map(open::open_drive).collect()
}

struct Start<'a> {
    launch: &'a Launch,
    jailed: &'a Jailed,
    jail: &'a Jail,
    fingerprint: Digest,
}

impl Start<'_> {
    fn spec(&self) -> &VmSpec {
        &self.launch.spec
    }

    async fn run(&self, binds: Vec<Bind>, locks: Vec<OwnedFd>) -> Result<Supervised, StartError> {
        let (console, console_end) = open::fifo(&self.spec().run_dir, CONSOLE_FIFO)?;
        let (log, log_end) = self.jail.log(self.spec())?;
        let console = super::drain(self.spec(), CONSOLE_LOG, console)?;
        let log = super::drain(self.spec(), VMM_LOG, log)?;
        // From here on nothing is given up before the jailer has ended.
        let jailer = self.jailer(binds, console_end, log_end)?;
        let process = match self.vmm_of(jailer).await {
            Ok(process) => process,
            Err(Failed::Start(error)) => return Err(error),
            Err(Failed::Ended(how)) => {
                log.settle().await;
                return Err(StartError::Ended { how, last_log: self.last_log() });
            }
        };
        let handle = Handle::open(&process).map_err(|source| self.spawn_error(source))?;
        let handle = handle.ok_or_else(|| StartError::Ended {
            how: ExitKind::Unseen,
            last_log: self.last_log(),
        })?;
        let mut supervised = Supervised {
            vmm: Watched::Adopted { process: process.clone(), handle, unit: self.unit() },
            process,
            when_dropped: WhenDropped::Kill,
            console: Some(console),
            log: Some(log),
            run_dir: self.spec().run_dir.clone(),
            jail: Some(self.record()),
            told: std::sync::Arc::default(),
            _locks: locks,
        };
        match self.bring_up(&mut supervised).await {
            Ok(()) => Ok(supervised),
            Err(error) => {
                supervised.kill().await;
                Err(error)
            }
        }
    }

    /// Starts the jailer. Both pipes are its VMM's alone from here on: they end with it.
    fn jailer(
        &self,
        binds: Vec<Bind>,
        console: OwnedFd,
        log: OwnedFd,
    ) -> Result<Child, StartError> {
        let program = self.jailed.binaries.jailer.clone();
        let jailer = Jailer { binds, program, args: self.jailer_args() };
        failpoint::before(Effect::StartVmm).map_err(|source| self.spawn_error(source))?;
        let child = Command::from(jailer.command(console, log)).spawn();
        child.map_err(|source| self.spawn_error(source))
    }

    /// Waits for the jailer's end, which is one of its own process: what came before its exec was
    /// waited for with the fork. What is left is the VMM.
    async fn vmm_of(&self, mut jailer: Child) -> Result<ProcessId, Failed> {
        let ended = tokio::time::timeout(JAILER, jailer.wait()).await;
        let Ok(ended) = ended else {
            let _ = jailer.kill().await;
            return Err(Failed::Start(StartError::Silent { last_log: self.last_log() }));
        };
        let status = ended.map_err(|source| self.spawn_error(source))?;
        if !status.success() {
            return Err(Failed::Ended(status.into()));
        }
        let pid = self.jail.pid().map_err(StartError::from)?;
        let process = process::identify(pid).map_err(|_| Failed::Ended(ExitKind::Unseen))?;
        // The jailer's child may not have become Firecracker yet.
        let began = Instant::now();
        for look in 0.. {
            if self.jail.is_home_of(pid).unwrap_or(false) {
                break;
            }
            if !process::is_alive(&process) {
                return Err(Failed::Ended(ExitKind::Unseen));
            }
            if began.elapsed() > JAILER {
                return Err(Failed::Start(StartError::Silent { last_log: self.last_log() }));
            }
            pause(look).await;
        }
        failpoint::after(Effect::StartVmm).map_err(|source| self.spawn_error(source))?;
        Ok(process)
    }

    fn jailer_args(&self) -> Vec<String> {
        let spec = self.spec();
        let drives = spec.drives.iter().filter(|drive| drive.access == Access::ReadWrite);
        let sizes = drives.filter_map(|drive| Some(drive.path.metadata().ok()?.len()));
        let largest = sizes.chain([spec.mem_mib << 20]).max().unwrap_or(0);
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let mut args: Vec<String> = vec![
            "--id".into(),
            self.jail.id.clone(),
            "--exec-file".into(),
            path(&self.jailed.binaries.firecracker),
            "--uid".into(),
            spec.uid.to_string(),
            "--gid".into(),
            spec.gid.to_string(),
            "--chroot-base-dir".into(),
            path(self.jail.base()),
            "--new-pid-ns".into(),
            "--resource-limit".into(),
            format!("no-file={MAX_FILES}"),
            "--resource-limit".into(),
            format!("fsize={}", largest + (FILE_SLACK_MIB << 20)),
        ];
        args.extend(self.jailed.placement.jailer_args(spec));
        args.push("--".into());
        args.extend(config::FIRECRACKER_ARGS.map(Into::into));
        args
    }

    /// Recorded, answering, set up and confined; all that is left is to let it be.
    async fn bring_up(&self, supervised: &mut Supervised) -> Result<(), StartError> {
        self.write_down(&supervised.process).map_err(StartError::Record)?;
        let pid = supervised.process.pid;
        if let Some(group) = self.jailed.placement.group(self.spec(), &self.jail.id) {
            contain::check_group(pid, &group, Limits::of(self.spec()))?;
        }
        failpoint::before(Effect::SetUpVmm).map_err(StartError::Record)?;
        let ready = self.set_up();
        tokio::select! {
            biased;
            ended = supervised.vmm.wait() => {
                let how = ended.unwrap_or(ExitKind::Unseen);
                return Err(StartError::Ended { how, last_log: supervised.settled_log().await });
            }
            ready = ready => match ready {
                Ok(()) => {}
                Err(StartError::Api(error)) => return Err(supervised.explain(error).await),
                Err(error) => return Err(error),
            }
        }
        failpoint::after(Effect::SetUpVmm).map_err(StartError::Record)?;
        match self.launch.mode {
            StartMode::Boot => contain::check_vm(pid, self.spec().uid).await?,
            StartMode::Restore => contain::check_process(pid, self.spec().uid)?,
        }
        Ok(())
    }

    async fn set_up(&self) -> Result<(), StartError> {
        let api = Api::of(self.jail.root());
        self.listens(&api).await?;
        let root = self.jail.root();
        jail::GIVEN.iter().try_for_each(|dir| jail::close(&root, dir))?;
        // One that waits makes its guest's socket when it loads the snapshot.
        if self.launch.mode == StartMode::Boot {
            for call in config::machine(self.spec()) {
                api.call(&call, SETTING).await?;
            }
            jail::close(&root, jail::SOCKETS)?;
            api.call(&config::start(), SETTING).await?;
        }
        Ok(())
    }

    /// Waits until it listens.
    async fn listens(&self, api: &Api) -> Result<(), FirecrackerError> {
        let give_up = Instant::now() + READY;
        for look in 0.. {
            let Err(error) = api.connect().await else { break };
            let not_yet = matches!(error, FirecrackerError::Connect { .. });
            if !not_yet || Instant::now() > give_up {
                return Err(error);
            }
            pause(look).await;
        }
        Ok(())
    }

    fn write_down(&self, process: &ProcessId) -> std::io::Result<()> {
        let spec = self.spec();
        let running = RunningRecord {
            instance: spec.instance,
            process: process.clone(),
            supervisor: process::identify(std::process::id())?,
            vmm: Vmm {
                kind: VmmKind::Firecracker,
                accel: spec.accel,
                version: self.jailed.binaries.build(),
            },
            uid: spec.uid,
            mode: self.launch.mode,
            fingerprint: Some(self.fingerprint.clone()),
            jail: Some(self.record()),
        };
        failpoint::before(Effect::RecordVmm)?;
        running.store(&spec.run_dir)?;
        record::write_pid(&spec.run_dir.join(PID_FILE), process.pid)?;
        failpoint::after(Effect::RecordVmm)
    }

    fn record(&self) -> JailRecord {
        JailRecord {
            root: self.jail.root(),
            group: self.jailed.placement.leftover(&self.jail.id),
            unit: self.unit().is_some(),
            mem_mib: self.spec().mem_mib,
            tap: self.spec().net.as_ref().map(|net| net.tap.clone()),
        }
    }

    fn unit(&self) -> Option<InstanceId> {
        let placement = &self.jailed.placement;
        matches!(placement, Placement::Unit(_)).then_some(self.spec().instance)
    }

    fn last_log(&self) -> Vec<String> {
        super::last_lines_of(&self.spec().run_dir, VMM_LOG)
    }

    fn spawn_error(&self, source: std::io::Error) -> StartError {
        StartError::Spawn { program: self.jailed.binaries.jailer.clone(), source }
    }
}

/// Between two looks. The runtime's timer counts whole milliseconds, of which a wake has few; so
/// the first ones are slept by the thread, which has nothing else to do yet.
async fn pause(looks: u32) {
    match looks < SOON {
        true => std::thread::sleep(LOOK),
        false => tokio::time::sleep(Duration::from_millis(1)).await,
    }
}

/// Why the jailer left no VMM.
enum Failed {
    /// It ended so.
    Ended(ExitKind),
    /// It did not come to that.
    Start(StartError),
}

impl From<StartError> for Failed {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

/// Removes what a VM that is gone left beside its run directory.
pub(super) fn clean(jail: &JailRecord) {
    if let Err(error) = jail::remove_jail(&jail.root) {
        tracing::warn!(jail = %jail.root.display(), %error, "a jail stays");
    }
    if let Some(group) = &jail.group {
        // Gone, or not empty yet: the next start of the host takes it.
        let _ = std::fs::remove_dir(group);
    }
}

/// The log of a jail somebody else's VMM writes to.
pub(super) fn resume_log(jail: &JailRecord) -> std::io::Result<OwnedFd> {
    jail::read_log(&jail.root)
}
