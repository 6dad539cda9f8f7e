//! A VMM confined by our own trampoline: QEMU.
//!
//! ```text
//! supervisor ── fork ──▶ trampoline: takes everything away from itself ─┐
//!     │ vmm.json: who it is, durably                                    │ waits on stdin
//!     └─ one byte ─────────────────────────────────────────────────────▶└ exec ──▶ qemu
//! ```
//!
//! The trampoline goes on only with the word that it is written down: a supervisor that is killed
//! before that leaves no VM nobody knows of.

use std::io::{self, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use command_fds::CommandFdExt;
use mvm_model::Digest;
use mvm_model::failpoint::{self, Effect};
use mvm_model::vm::{Accel, Vmm};

use super::record::VMM_FIFO;
use super::watched::Watched;
use super::{CONSOLE_LOG, ExitKind, Launch, RunningRecord, StartError, Supervised, Trampoline};
use super::{READY, VMM_LOG, WhenDropped, drain, open};
use crate::confine::{self, Bind, Confinement, Device, Plan};
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
    let (mut supervised, word) = spawn(launch, qemu, tap, trampoline)?;
    if let Err(source) = supervised.record(launch, fingerprint) {
        supervised.kill().await;
        return Err(StartError::Record(source));
    }
    say(word);
    supervised.wait_ready().await?;
    Ok(supervised)
}

fn spawn(
    launch: &Launch,
    qemu: &QemuBinary,
    tap: Option<OwnedFd>,
    trampoline: &Trampoline,
) -> Result<(Supervised, PipeWriter), StartError> {
    let spec = &launch.spec;
    let opened = open::open(spec, tap)?;
    let (stdin, word) = io::pipe().map_err(StartError::Pipe)?;
    let (log, log_end) = open::fifo(&spec.run_dir, VMM_FIFO)?;
    let log_twin = log_end.try_clone().map_err(StartError::Pipe)?;
    let confinement = serde_json::to_string(&Plan::Vmm(confinement(launch, qemu)))
        .map_err(|error| StartError::Pipe(error.into()))?;
    let mut command = Command::new(&trampoline.program);
    command
        .args(&trampoline.args)
        .arg(confinement)
        .env_clear()
        .current_dir("/")
        .stdin(stdin)
        .stdout(log_end)
        .stderr(log_twin)
        .fd_mappings(opened.mappings)
        .map_err(|error| StartError::Pipe(io::Error::other(error)))?;
    let failed = |source| StartError::Spawn { program: trampoline.program.clone(), source };
    failpoint::before(Effect::StartVmm).map_err(failed)?;
    // The command owns the child's descriptors; it is dropped here, so that they are the VMM's
    // alone and its pipes end with it.
    let child = tokio::process::Command::from(command).spawn().map_err(failed)?;
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
    Ok((supervised, word))
}

/// Has the trampoline become the VMM; without it, it ends with us. One that is gone has said why.
fn say(mut word: PipeWriter) {
    let _ = word.write_all(&[confine::GO]);
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
