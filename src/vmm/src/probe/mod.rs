//! Whether this host can run guests with a VMM and an accelerator: proven by booting the real
//! guest kernel under the confinement a tenant's VM gets, never assumed.
//!
//! ```text
//! candidates: Firecracker+KVM, QEMU+KVM, QEMU+TCG     (order of preference)
//! each: key ─▶ cached? ─ no ─▶ boot with mvm.probe ─▶ console says MVM-PROBE-OK and the VM
//!                                                     powers off within 10 s: proven
//!                              abort · hang · early exit: refused, with the VMM's last words
//! ```
//!
//! The outcome is kept in a [`Cache`] under everything it depends on ([`Key`]), so a second run
//! answers without booting.

mod cache;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mvm_model::InstanceId;
use mvm_model::vm::{Accel, ProcessId, VmmKind};
use serde::{Deserialize, Serialize};

pub use cache::{Cache, Key, cpu_model};

use crate::spec::{StartMode, VmSpec};
use crate::supervisor::{
    self, CONSOLE_LOG, ExitKind, Launch, Program, Supervised, Trampoline, WhenDropped, ring,
};

/// How long a guest may take from start to power-off, on a host with a CPU to spare.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Time spent waiting for a CPU that is not counted, at most.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often the deadline is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// What the guest says when its kernel runs and its modules are loaded.
const OK: &str = "MVM-PROBE-OK";
/// Memory of the probe's guest, MiB.
const MEM_MIB: u64 = 128;

/// All pairs, best first.
pub const CANDIDATES: [(VmmKind, Accel); 3] =
    [(VmmKind::Firecracker, Accel::Kvm), (VmmKind::Qemu, Accel::Kvm), (VmmKind::Qemu, Accel::Tcg)];

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A guest ran.
    Proven {
        /// The VMM's version.
        version: String,
        /// From start to power-off.
        millis: u64,
    },
    /// No guest ran.
    Refused {
        /// Why, in one line.
        reason: String,
    },
}

impl Outcome {
    fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }
}

/// What to probe with.
#[derive(Debug, Clone)]
pub struct Probe<'a> {
    /// The guest's kernel, in the form the VMM loads.
    pub kernel: &'a Path,
    /// Its initrd.
    pub initrd: &'a Path,
    /// The uid and gid the VMM runs as; no VM may have it at the same time.
    pub uid: u32,
    /// An existing directory for the probe's run directory, root's.
    pub scratch: &'a Path,
    /// How to start a confined VMM.
    pub trampoline: &'a Trampoline,
    /// How long the guest may take from start to power-off: [`DEADLINE`], if nobody knows better.
    pub deadline: Duration,
}

impl Probe<'_> {
    /// Boots a guest with this program and says whether it ran. Nothing of it is left when this
    /// returns.
    pub async fn run(&self, program: &Program, accel: Accel) -> Outcome {
        if accel == Accel::Kvm
            && let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm")
        {
            return Outcome::refused(format!("/dev/kvm cannot be used: {error}"));
        }
        let scratch = match Scratch::make(self.scratch) {
            Ok(scratch) => scratch,
            Err(error) => {
                let place = self.scratch.display();
                return Outcome::refused(format!("no directory for the probe in {place}: {error}"));
            }
        };
        let spec = self.spec(program.kind(), accel, &scratch.0);
        let launch = Launch { spec, mode: StartMode::Boot, program: program.clone() };
        self.boot(&launch).await
    }

    fn spec(&self, vmm: VmmKind, accel: Accel, run_dir: &Path) -> VmSpec {
        VmSpec {
            instance: InstanceId::from_bits(0),
            vmm,
            accel,
            vcpus: 1,
            mem_mib: MEM_MIB,
            kernel: self.kernel.to_owned(),
            initrd: self.initrd.to_owned(),
            cmdline: "mvm.probe".into(),
            drives: vec![],
            net: None,
            uid: self.uid,
            gid: self.uid,
            run_dir: run_dir.to_owned(),
        }
    }

    async fn boot(&self, launch: &Launch) -> Outcome {
        let began = Instant::now();
        let mut vm = match supervisor::start(launch, None, self.trampoline).await {
            Ok(vm) => vm,
            Err(error) => return Outcome::refused(one_line(&error)),
        };
        vm.set_when_dropped(WhenDropped::Kill);
        let process = vm.process().clone();
        let run_dir = &launch.spec.run_dir;
        let mut ended = std::pin::pin!(Supervised::wait(vm));
        while fair_time(&process, began.elapsed()) < self.deadline {
            let Ok(exit) = tokio::time::timeout(LOOK, &mut ended).await else { continue };
            return match exit {
                Ok(exit) => judge(launch, run_dir, &exit.how, exit.last_log, began.elapsed()),
                Err(error) => Outcome::refused(format!("the probe could not be watched: {error}")),
            };
        }
        let killed = crate::process::kill(&process, DEADLINE).await;
        // Only the end of the process makes the log complete.
        let _ = tokio::time::timeout(Duration::from_secs(5), ended).await;
        let seconds = self.deadline.as_secs();
        match killed {
            Ok(()) => Outcome::refused(format!(
                "the guest did not come up within {seconds} s{}",
                last_console(run_dir)
            )),
            Err(error) => Outcome::refused(format!("the guest hangs and does not end: {error}")),
        }
    }
}

/// The time a guest had: without what its VMM waited for a CPU, so that a busy host is not taken
/// for one that cannot run guests; the host's load counts half a minute at most.
fn fair_time(process: &ProcessId, elapsed: Duration) -> Duration {
    elapsed.saturating_sub(crate::process::waited_for_cpu(process).min(LONGEST_WAIT))
}

/// A clean power-off after the word is the only proof.
fn judge(
    launch: &Launch,
    run_dir: &Path,
    how: &ExitKind,
    last_log: Vec<String>,
    took: Duration,
) -> Outcome {
    let console = ring::read(&run_dir.join(CONSOLE_LOG), 2 * ring::SEGMENT).unwrap_or_default();
    let said = String::from_utf8_lossy(&console).contains(OK);
    // A jailed VMM is not our child: how it ended is not always seen.
    let fine = match launch.program {
        Program::Qemu(_) => *how == ExitKind::Code(0),
        Program::Firecracker(_) => matches!(how, ExitKind::Code(0) | ExitKind::Unseen),
    };
    if said && fine {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        return Outcome::Proven { version: launch.program.build(), millis };
    }
    let words = match &last_log[..] {
        [] => last_console(run_dir),
        lines => supervisor::last_words(lines),
    };
    Outcome::refused(format!("the guest did not come up, the VMM ended ({how}){words}"))
}

fn last_console(run_dir: &Path) -> String {
    let tail = ring::read(&run_dir.join(CONSOLE_LOG), 4096).unwrap_or_default();
    let line = crate::text::last_lines(&tail, 1).pop();
    line.map(|line| format!("; it last said: {line}")).unwrap_or_default()
}

fn one_line(error: &supervisor::StartError) -> String {
    supervisor::Failure::from(error).message
}

/// The probe's run directory, removed with everything in it.
struct Scratch(PathBuf);

impl Scratch {
    fn make(parent: &Path) -> io::Result<Self> {
        let path = nix::unistd::mkdtemp(&parent.join("probe-XXXXXX"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the probe's directory stays");
        }
    }
}
