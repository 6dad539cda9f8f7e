//! A VMM confined by our own trampoline: QEMU.
//!
//! It is told what to become once it is written down who it is, durably: a supervisor that is
//! killed before that leaves no VM nobody knows of.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mvm_model::Digest;
use mvm_model::failpoint::{self, Effect};
use mvm_model::vm::{Accel, Vmm};

use super::record::VMM_FIFO;
use super::trampoline::{Saying, Waiting};
use super::watched::Watched;
use super::{CONSOLE_LOG, ExitKind, Launch, RunningRecord, StartError, Supervised, Trampoline};
use super::{READY, VMM_LOG, WhenDropped, drain, open};
use crate::confine::{Bind, Confinement, Device};
use crate::qemu::{self, Fds, INITRD, KERNEL, QemuBinary};
use crate::spec::StartMode;

/// `/dev/kvm`.
const KVM: (u64, u64) = (10, 232);

pub(super) async fn start(
    launch: &Launch,
    qemu: &QemuBinary,
    tap: Option<OwnedFd>,
    trampoline: &Trampoline,
) -> Result<Supervised, StartError> {
    // Of the files as they are before they are opened.
    let fingerprint = launch.fingerprint();
    let plan = confinement(launch, qemu);
    let (mut supervised, trampoline) = spawn(launch, tap, trampoline)?;
    let recorded = supervised.record(launch, fingerprint);
    if let Err(source) = recorded.and_then(|()| trampoline.say(&plan)) {
        supervised.kill().await;
        return Err(StartError::Record(source));
    }
    supervised.wait_ready().await?;
    Ok(supervised)
}

fn spawn(
    launch: &Launch,
    tap: Option<OwnedFd>,
    trampoline: &Trampoline,
) -> Result<(Supervised, Saying), StartError> {
    let spec = &launch.spec;
    let opened = open::open(spec, tap)?;
    let (log, log_end) = open::fifo(&spec.run_dir, VMM_FIFO)?;
    let failed = |source| trampoline.failed(source);
    failpoint::before(Effect::StartVmm).map_err(failed)?;
    let Waiting { child, plan } = trampoline.start(log_end, opened.mappings)?;
    let process = child
        .id()
        .ok_or_else(|| io::ErrorKind::NotFound.into())
        .and_then(crate::process::identify)
        .map_err(failed)?;
    let supervised = Supervised {
        process,
        vmm: Watched::Child(child),
        when_dropped: WhenDropped::Kill,
        console: Some(drain(spec, CONSOLE_LOG, opened.console)?),
        log: Some(drain(spec, VMM_LOG, log)?),
        run_dir: spec.run_dir.clone(),
        jail: None,
        told: Arc::default(),
        _locks: Vec::new(),
    };
    Ok((supervised, plan))
}

fn confinement(launch: &Launch, qemu: &QemuBinary) -> Confinement {
    let spec = &launch.spec;
    let arch = qemu.arch;
    let tsc = match launch.mode {
        StartMode::Boot => crate::qemu::guest_tsc(spec.accel, arch),
        // The restored kernel has read its command line long ago.
        StartMode::Restore => None,
    };
    let bind = |from: &PathBuf, to: &str| Bind { from: from.clone(), to: to.into() };
    Confinement {
        uid: spec.uid,
        gid: spec.gid,
        keep_fds: Fds::of(spec).end(),
        mount_point: spec.run_dir.clone(),
        binds: vec![bind(&spec.kernel, KERNEL), bind(&spec.initrd, INITRD)],
        devices: match spec.accel {
            Accel::Tcg => vec![],
            Accel::Kvm => vec![Device { path: "/dev/kvm".into(), major: KVM.0, minor: KVM.1 }],
        },
        program: qemu.path.clone(),
        args: crate::qemu::command_line(spec, launch.mode, arch, tsc),
    }
}

impl Supervised {
    fn record(&self, launch: &Launch, fingerprint: Digest) -> io::Result<()> {
        let running = RunningRecord {
            instance: launch.spec.instance,
            process: self.process.clone(),
            supervisor: crate::process::identify(std::process::id())?,
            vmm: Vmm {
                kind: launch.spec.vmm,
                accel: launch.spec.accel,
                version: launch.program.build(),
            },
            uid: launch.spec.uid,
            mode: launch.mode,
            fingerprint: Some(fingerprint),
            jail: None,
        };
        failpoint::before(Effect::RecordVmm)?;
        running.store(&self.run_dir)?;
        failpoint::after(Effect::RecordVmm)
    }

    /// A monitor that greets is a VMM that accepted its whole command line.
    async fn wait_ready(&mut self) -> Result<(), StartError> {
        let ready = qemu::Qmp::connect(&self.run_dir, qemu::QMP_SOCKET, READY);
        tokio::select! {
            biased;
            ended = self.vmm.wait() => {
                let how = ended.unwrap_or(ExitKind::Unseen);
                Err(StartError::Ended { how, last_log: self.settled_log().await })
            }
            answer = ready => match answer {
                Ok(_) => Ok(()),
                Err(_) => Err(self.explain_silence().await),
            },
        }
    }

    /// The connection broke or stayed silent: the VMM is ending, or hangs and is killed.
    async fn explain_silence(&mut self) -> StartError {
        let ending = tokio::time::timeout(Duration::from_secs(1), self.vmm.wait()).await;
        match ending {
            Ok(Ok(how)) => StartError::Ended { how, last_log: self.settled_log().await },
            _ => {
                self.kill().await;
                StartError::Silent { last_log: self.settled_log().await }
            }
        }
    }
}
