//! Which VMM and accelerator this host is proven to run.
//!
//! Candidates are tried best first: Firecracker with KVM, QEMU with KVM, QEMU emulating. Each
//! outcome is remembered until the host boots anew or the VMM or the guest's kernel changes, so
//! only the first start after a boot pays for the proof.

use std::fmt;
use std::path::PathBuf;

use mvm_host::file;
use mvm_host::image::BootFiles;
use mvm_host::packages::Arch;
use mvm_model::Digest;
use mvm_model::record::{FIRST_VMM_UID, free_uid};
use mvm_model::snapshot::FileStamp;
use mvm_model::vm::{Accel, Vmm, VmmKind};
use mvm_vmm::Trampoline;
use mvm_vmm::probe::{CANDIDATES, Cache, Outcome, Probe, find_firecracker};
use mvm_vmm::qemu::{QemuBinary, QemuMissing};
use serde::{Deserialize, Serialize};

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
    pub qemu: QemuBinary,
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

impl Service {
    /// Proves every pair up to the first that works, with an image's kernel.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] when none works, with each one's reason.
    pub async fn prove(&self, digest: &Digest) -> Result<Vec<Verdict>> {
        let files = self.images()?.get(digest).and_then(|revision| revision.files(Arch::HOST));
        let verdicts = self.verdicts(&files.about("", "use the image's kernel")?).await?;
        match verdicts.iter().any(Verdict::is_proven) {
            true => Ok(verdicts),
            false => Err(none_works(&verdicts)),
        }
    }

    /// The best VMM that is proven to run this kernel here.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] when there is none.
    pub(crate) async fn proven(&self, files: &BootFiles) -> Result<Proven> {
        let verdicts = self.verdicts(files).await?;
        let best = verdicts.iter().find_map(|verdict| match &verdict.outcome {
            Outcome::Proven { version, .. } => {
                Some(Vmm { kind: verdict.vmm, accel: verdict.accel, version: version.clone() })
            }
            Outcome::Refused { .. } => None,
        });
        let vmm = best.ok_or_else(|| none_works(&verdicts))?;
        let qemu = self.qemu().await;
        let qemu = qemu.map_err(|error| {
            Error::new(Kind::Unavailable, "", error.to_string()).hint("mvm bootstrap")
        })?;
        Ok(Proven { vmm, qemu })
    }

    async fn verdicts(&self, files: &BootFiles) -> Result<Vec<Verdict>> {
        let path = self.proofs();
        let mut cache = Cache::load(&path);
        let mut verdicts = Vec::new();
        let mut learnt = false;
        for (vmm, accel) in CANDIDATES {
            let key = match self.program(vmm).await {
                Some(program) => cache.key((vmm, accel), &program, &files.kernel).ok(),
                None => None,
            };
            let known = key.as_ref().and_then(|key| cache.get(key)).cloned();
            let outcome = match known {
                Some(outcome) => outcome,
                None => {
                    let outcome = self.probe(files, vmm, accel).await;
                    if let Some(key) = key {
                        cache.put(key, outcome.clone());
                        learnt = true;
                    }
                    outcome
                }
            };
            verdicts.push(Verdict { vmm, accel, outcome });
            if verdicts.last().is_some_and(Verdict::is_proven) {
                break;
            }
        }
        if learnt {
            // A proof that cannot be kept is made again next time.
            let _ = cache.store(&path);
            self.keep_verdicts(&verdicts);
        }
        Ok(verdicts)
    }

    async fn program(&self, vmm: VmmKind) -> Option<PathBuf> {
        match vmm {
            VmmKind::Firecracker => find_firecracker().await.ok().map(|found| found.path),
            VmmKind::Qemu => self.qemu().await.ok().map(|found| found.path),
        }
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

    async fn probe(&self, files: &BootFiles, vmm: VmmKind, accel: Accel) -> Outcome {
        let taken: Vec<_> =
            self.records.all_instances().records.iter().map(|record| record.uid).collect();
        // Not a uid an instance may get while we probe: count from the far end of the range.
        let uid = free_uid(&taken).max(FIRST_VMM_UID) + 1_000_000;
        let trampoline = Trampoline { program: self.exe.clone(), args: vec![CONFINE.into()] };
        let probe = Probe {
            kernel: &files.kernel,
            initrd: &files.initrd,
            uid,
            scratch: &self.dirs.run,
            trampoline: &trampoline,
        };
        probe.run(vmm, accel).await
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

    /// Each VMM program: its name with the version, and whether it is installed and runs.
    pub async fn installed_vmms(&self, running: &[VmmKind]) -> Vec<(String, String)> {
        let firecracker = find_firecracker().await.ok().map(|found| found.version);
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
