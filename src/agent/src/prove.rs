//! Which VMM and accelerator this host is proven to run.
//!
//! Candidates are tried best first: Firecracker with KVM, QEMU with KVM, QEMU emulating. Each
//! outcome is remembered until the host boots anew or the VMM or the guest's kernel changes, so
//! only the first start after a boot pays for the proof.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_host::file;
use mvm_host::image::BootFiles;
use mvm_host::lock::Lock;
use mvm_host::packages::Arch;
use mvm_model::Digest;
use mvm_model::record::{FIRST_VMM_UID, free_uid};
use mvm_model::snapshot::FileStamp;
use mvm_model::vm::{Accel, Vmm, VmmKind};
use mvm_vmm::firecracker::{Binaries, NotAllowed, Search};
use mvm_vmm::probe::{CANDIDATES, Cache, DEADLINE, Outcome, Probe};
use mvm_vmm::qemu::{QemuBinary, QemuMissing};
use mvm_vmm::{Jailed, Placement, Program, Trampoline};
use serde::{Deserialize, Serialize};

use crate::dirs::Dirs;
use crate::error::{About, Error, Kind, Result};
use crate::service::Service;
use crate::shim::CONFINE;

/// A reason's first line, short enough for a table; the JSON has all of it.
fn first_words(reason: &str) -> String {
    let line = reason.split(" / ").next().unwrap_or(reason);
    match line.char_indices().nth(110) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// A VMM that runs guests here.
#[derive(Debug, Clone)]
pub struct Proven {
    /// VMM, accelerator, version.
    pub vmm: Vmm,
    /// Its program.
    pub found: Found,
}

/// An installed VMM.
#[derive(Debug, Clone)]
pub enum Found {
    /// QEMU.
    Qemu(QemuBinary),
    /// Firecracker with its jailer.
    Firecracker(Binaries),
}

impl Found {
    /// The program itself.
    pub fn path(&self) -> &Path {
        match self {
            Self::Qemu(qemu) => &qemu.path,
            Self::Firecracker(binaries) => &binaries.firecracker,
        }
    }

    /// The form of a kernel it loads.
    pub fn kernel<'a>(&self, files: &'a BootFiles) -> &'a Path {
        match self {
            Self::Qemu(_) => &files.kernel,
            Self::Firecracker(_) => &files.vmlinux,
        }
    }

    /// What a VM is started with.
    pub fn program(&self, dirs: &Dirs, placement: Placement) -> Program {
        match self {
            Self::Qemu(qemu) => Program::Qemu(qemu.clone()),
            Self::Firecracker(binaries) => Program::Firecracker(Jailed {
                binaries: binaries.clone(),
                jails: dirs.jails(),
                placement,
            }),
        }
    }
}

/// What a proof found about one pair.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verdict {
    /// The program.
    pub vmm: VmmKind,
    /// The accelerator.
    pub accel: Accel,
    /// What was found.
    pub outcome: Outcome,
}

impl Verdict {
    /// Whether a guest ran.
    pub fn is_proven(&self) -> bool {
        matches!(self.outcome, Outcome::Proven { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Proven { version, millis } => {
                write!(
                    f,
                    "{}/{}: proven ({version}, a guest booted in {:.1} s)",
                    self.vmm,
                    self.accel,
                    *millis as f64 / 1000.0
                )
            }
            Outcome::Refused { reason } => {
                write!(f, "{}/{}: no ({})", self.vmm, self.accel, first_words(reason))
            }
        }
    }
}

/// How long a proof waits for others'.
const PROOF: Duration = Duration::from_secs(120);

/// Which outcomes of earlier probes are taken for true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// All of them.
    All,
    /// Only that a guest ran.
    Proofs,
}

impl Known {
    fn counts(self, outcome: &Outcome) -> bool {
        self == Self::All || matches!(outcome, Outcome::Proven { .. })
    }
}

impl Service {
    /// Proves every pair up to the first that works, with an image's kernel.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] when none works, with each one's reason, tried just now.
    pub async fn prove(&self, digest: &Digest) -> Result<Vec<Verdict>> {
        let files = self.images()?.get(digest).and_then(|revision| revision.files(Arch::HOST));
        let files = files.about("", "use the image's kernel")?;
        let proven = |verdicts: &[Verdict]| verdicts.iter().any(Verdict::is_proven);
        let mut verdicts = self.verdicts(&files, Known::All).await?;
        if !proven(&verdicts) {
            // What was refused once may have had too much beside it then.
            verdicts = self.verdicts(&files, Known::Proofs).await?;
        }
        match proven(&verdicts) {
            true => Ok(verdicts),
            false => Err(none_works(&verdicts)),
        }
    }

    /// The best VMM that is proven to run this kernel here.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] when there is none.
    pub(crate) async fn proven(&self, files: &BootFiles) -> Result<Proven> {
        let verdicts = self.verdicts(files, Known::All).await?;
        let best = verdicts.iter().find_map(|verdict| match &verdict.outcome {
            Outcome::Proven { version, .. } => {
                Some(Vmm { kind: verdict.vmm, accel: verdict.accel, version: version.clone() })
            }
            Outcome::Refused { .. } => None,
        });
        let vmm = best.ok_or_else(|| none_works(&verdicts))?;
        let found = self.program(vmm.kind).await;
        let found = found
            .map_err(|reason| Error::new(Kind::Unavailable, "", reason).hint("mvm bootstrap"))?;
        Ok(Proven { vmm, found })
    }

    /// The pairs this host's settings leave, best first.
    fn candidates(&self) -> Result<Vec<(VmmKind, Accel)>> {
        let settings = self.settings()?;
        let left: Vec<_> =
            CANDIDATES.into_iter().filter(|&(vmm, accel)| settings.allows(vmm, accel)).collect();
        match left.is_empty() {
            false => Ok(left),
            true => Err(Error::new(
                Kind::Invalid,
                "",
                "the host's settings leave no VMM: there is no such VMM with that accelerator",
            )),
        }
    }

    async fn verdicts(&self, files: &BootFiles, known: Known) -> Result<Vec<Verdict>> {
        let path = self.proofs();
        let mut cache = Cache::load(&path);
        let mut verdicts = Vec::new();
        let (mut learnt, mut turn) = (false, None);
        for (vmm, accel) in self.candidates()? {
            let outcome = match self.program(vmm).await {
                Err(reason) => Outcome::Refused { reason },
                Ok(found) => {
                    let kernel = found.kernel(files);
                    let key = cache.key((vmm, accel), found.path(), kernel).ok();
                    match key.as_ref().and_then(|key| cache.get(key)).cloned() {
                        Some(outcome) if known.counts(&outcome) => outcome,
                        _ => {
                            if turn.is_none() {
                                turn = Some(self.turn_to_prove().await?);
                                cache = Cache::load(&path);
                            }
                            match key.as_ref().and_then(|key| cache.get(key)).cloned() {
                                // Somebody else proved it meanwhile.
                                Some(outcome) if known.counts(&outcome) => outcome,
                                _ => {
                                    let outcome = self.probe(files, &found, accel).await;
                                    if let Some(key) = key {
                                        cache.put(key, outcome.clone());
                                        learnt = true;
                                    }
                                    outcome
                                }
                            }
                        }
                    }
                }
            };
            verdicts.push(Verdict { vmm, accel, outcome });
            if verdicts.last().is_some_and(Verdict::is_proven) {
                break;
            }
        }
        if cache.is_changed() {
            // A proof that cannot be kept is made again next time.
            let _ = cache.store(&path);
        }
        if learnt {
            self.keep_verdicts(&verdicts);
        }
        drop(turn);
        Ok(verdicts)
    }

    /// One proof at a time on this host, also when many instances start after its boot: all of
    /// them use one jail, and the first one's outcome is the others'.
    async fn turn_to_prove(&self) -> Result<Lock> {
        let turn = self.dirs.run.join(".prove.lock");
        Lock::take(&turn, &self.who, PROOF).await.about("", "prove a VMM")
    }

    /// An installed program, or why there is none that can be used.
    async fn program(&self, vmm: VmmKind) -> std::result::Result<Found, String> {
        match vmm {
            VmmKind::Firecracker => {
                self.firecracker().await.map(Found::Firecracker).map_err(|error| error.to_string())
            }
            VmmKind::Qemu => self.qemu().await.map(Found::Qemu).map_err(|error| error.to_string()),
        }
    }

    /// The host's Firecracker, kept like the host's QEMU.
    pub(crate) async fn firecracker(&self) -> std::result::Result<Binaries, NotAllowed> {
        let kept_at = self.dirs.run.join("firecracker.json");
        let search = Search::from_env(&self.dirs.bin(), |name| std::env::var_os(name));
        let kept = std::fs::read(&kept_at)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<KeptFirecracker>(&bytes).ok());
        if let Some(kept) = kept
            && kept.searched == format!("{search:?}")
            && stamps(&kept.binaries).is_some_and(|stamps| stamps == kept.stamps)
        {
            return Ok(kept.binaries);
        }
        let searched = format!("{search:?}");
        let binaries = Binaries::find(&search).await?;
        if let Some(stamps) = stamps(&binaries) {
            let kept = KeptFirecracker { searched, stamps, binaries: binaries.clone() };
            // What cannot be kept is asked again.
            let _ = file::write_durably(&kept_at, &serde_json::to_vec(&kept).unwrap_or_default());
        }
        Ok(binaries)
    }

    /// The host's QEMU. Asking it for its version starts a process, so the answer is kept as long
    /// as the program's file is the same: a wake does not pay for it.
    async fn qemu(&self) -> std::result::Result<QemuBinary, QemuMissing> {
        let kept_at = self.dirs.run.join("qemu.json");
        let kept = std::fs::read(&kept_at)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<KeptQemu>(&bytes).ok());
        if let Some(kept) = kept
            && file::stamp(&kept.qemu.path).is_ok_and(|stamp| stamp == kept.stamp)
        {
            return Ok(kept.qemu);
        }
        let qemu = QemuBinary::find().await?;
        if let Ok(stamp) = file::stamp(&qemu.path) {
            let json =
                serde_json::to_vec(&KeptQemu { stamp, qemu: qemu.clone() }).unwrap_or_default();
            // What cannot be kept is asked again.
            let _ = file::write_durably(&kept_at, &json);
        }
        Ok(qemu)
    }

    async fn probe(&self, files: &BootFiles, found: &Found, accel: Accel) -> Outcome {
        let taken: Vec<_> =
            self.records.all_instances().records.iter().map(|record| record.uid).collect();
        // Not a uid an instance may get while we probe: count from the far end of the range.
        let uid = free_uid(&taken).max(FIRST_VMM_UID) + 1_000_000;
        let trampoline = Trampoline { program: self.exe.clone(), args: vec![CONFINE.into()] };
        let seconds = self.settings().ok().and_then(|settings| settings.probe_seconds);
        let probe = Probe {
            kernel: found.kernel(files),
            initrd: &files.initrd,
            uid,
            scratch: &self.dirs.run,
            trampoline: &trampoline,
            deadline: seconds.map_or(DEADLINE, |seconds| Duration::from_secs(seconds.into())),
        };
        // Ten seconds at most, and killed then: it needs no limits.
        probe.run(&found.program(&self.dirs, Placement::Unlimited), accel).await
    }

    fn proofs(&self) -> PathBuf {
        self.dirs.run.join("proofs.json")
    }

    fn keep_verdicts(&self, verdicts: &[Verdict]) {
        let kept = Kept {
            boot_id: mvm_vmm::process::boot_id().unwrap_or_default(),
            verdicts: verdicts.to_vec(),
        };
        let json = serde_json::to_vec(&kept).unwrap_or_default();
        let _ = file::write_durably(&self.dirs.run.join("verdicts.json"), &json);
    }

    /// What was proven since this boot, without proving anything.
    pub fn known_verdicts(&self) -> Vec<Verdict> {
        let bytes = std::fs::read(self.dirs.run.join("verdicts.json")).unwrap_or_default();
        let kept: Kept = serde_json::from_slice(&bytes).unwrap_or_default();
        let now = mvm_vmm::process::boot_id().unwrap_or_default();
        if kept.boot_id == now { kept.verdicts } else { Vec::new() }
    }

    /// Whether Firecracker and its jailer are installed.
    pub fn has_firecracker(&self) -> bool {
        Search::from_env(&self.dirs.bin(), |name| std::env::var_os(name)).finds_both()
    }

    /// Whether Firecracker is there, /dev/kvm can be opened, and no proof was against it.
    pub(crate) fn may_run_firecracker(&self) -> bool {
        let verdicts = self.known_verdicts();
        let verdict = verdicts.iter().find(|verdict| verdict.vmm == VmmKind::Firecracker);
        let kvm = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        verdict.is_none_or(Verdict::is_proven) && self.has_firecracker() && kvm()
    }

    /// Each VMM program: its name with the version, and whether it is installed and runs.
    pub async fn installed_vmms(&self, running: &[VmmKind]) -> Vec<(String, String)> {
        let firecracker = self.firecracker().await.ok().map(|found| found.version);
        let qemu = QemuBinary::find().await.ok().map(|found| found.version);
        [("Firecracker", VmmKind::Firecracker, firecracker), ("QEMU", VmmKind::Qemu, qemu)]
            .into_iter()
            .map(|(name, kind, version)| {
                let count = running.iter().filter(|other| **other == kind).count();
                match (version, count) {
                    (None, _) => (name.to_owned(), "Not installed".to_owned()),
                    // A distribution's version goes on in parentheses; the number is enough here.
                    (Some(version), count) => {
                        let number = version.split(' ').next().unwrap_or_default();
                        let runs = if count == 0 {
                            "not running".into()
                        } else {
                            format!("{count} running")
                        };
                        (format!("{name} {number}"), format!("Installed, {runs}"))
                    }
                }
            })
            .collect()
    }
}

#[derive(Serialize, Deserialize)]
struct KeptQemu {
    stamp: FileStamp,
    qemu: QemuBinary,
}

#[derive(Serialize, Deserialize)]
struct KeptFirecracker {
    /// Where it was looked for.
    searched: String,
    stamps: [FileStamp; 2],
    binaries: Binaries,
}

fn stamps(binaries: &Binaries) -> Option<[FileStamp; 2]> {
    let stamp = |path| file::stamp(path).ok();
    Some([stamp(&binaries.firecracker)?, stamp(&binaries.jailer)?])
}

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    boot_id: String,
    verdicts: Vec<Verdict>,
}

fn none_works(verdicts: &[Verdict]) -> Error {
    let reasons: Vec<_> = verdicts.iter().map(ToString::to_string).collect();
    Error::new(
        Kind::Unavailable,
        "",
        format!("no VMM runs guests on this host: {}", reasons.join("; ")),
    )
    .hint("'mvm doctor' says what to do about each")
}
