//! sleeping → running.
//!
//! Load without executing → consumed mark, synced → execute. A failure before anything executes
//! leaves the snapshot good: a fresh VM process tries again, three times at most. From then on the
//! snapshot is never used again, whatever happens. Any doubt about it is a cold boot with the data
//! drive; what this host could not do says nothing about it, and it goes on sleeping.

use mvm_host::file::{self, FileError};
use mvm_host::snapshot::{Held, Snapshots, Unproven};
use mvm_model::snapshot::{FileStamp, Manifest, Present};
use mvm_model::state::{State, Transition, VmRef};
use mvm_vmm::StartMode;

use super::Driver;
use super::boot::and;
use super::prepare::Prepared;
use super::stand_by::Ahead;
use crate::blueprint;
use crate::disk::aside;
use crate::error::{About, Error, Kind, Result};

/// How often a snapshot is tried before its instance is booted from its drives.
const ATTEMPTS: usize = 3;

/// How one attempt ended.
enum Attempt {
    /// The VM executes.
    Woken(VmRef),
    /// Nothing was executed and the snapshot is still good: the host could not do something
    /// (`Host`) or the VM process did not take the memory (`Snapshot`).
    Again(Fault, Error),
    /// The snapshot is spent or useless.
    Spent(Error),
    /// The VM process does not end: nothing may be started beside it. The transition stays, for
    /// the next command to settle.
    Stuck(Error),
}

/// What an attempt broke on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// This host: says nothing about the snapshot, which is kept.
    Host,
    /// The VMM refused the memory.
    Snapshot,
}

impl Fault {
    /// Whose fault it is that the memory was not loaded.
    fn of_restore(error: &Error) -> Self {
        match error.kind {
            Kind::Corrupt => Self::Snapshot,
            _ => Self::Host,
        }
    }
}

impl Driver<'_> {
    pub(super) async fn wake(&mut self, generation: u64) -> Result<()> {
        self.take_place().await?;
        self.begin(Transition::Waking { generation }).await?;
        let snapshots = Snapshots::of(&self.service.instance_dir(&self.record));
        let prepared = match self.prepare(self.record.revision.clone()).await {
            Ok(prepared) => prepared,
            Err(error) => return self.take_back().and(Err(error)),
        };
        self.phase("prepare");
        let late = |what: &&str| format!("{what} was not ready and was made in the path");
        self.slow.extend(prepared.made.iter().map(late));
        let doubt = match self.usable(&snapshots, &prepared, generation).await? {
            Err(Unproven::Unusable(unusable)) => unusable.to_string(),
            Err(Unproven::Unread(error)) => {
                let error = Err(error).about(self.record.path(), "look at its snapshot");
                return self.take_back().and(error);
            }
            Ok(()) => match self.attempts(&snapshots, &prepared, generation).await? {
                Ok(vm) => return self.woken(&snapshots, generation, vm).await,
                Err(error) => error.chain(),
            },
        };
        self.cold_boot_instead(&snapshots, &doubt).await
    }

    async fn usable(
        &self,
        snapshots: &Snapshots,
        prepared: &Prepared,
        generation: u64,
    ) -> Result<Result<(), Unproven>> {
        let manifest = match self.fits(snapshots, prepared, generation) {
            Ok(manifest) => manifest,
            Err(unproven) => return Ok(Err(unproven)),
        };
        let snapshots = snapshots.clone();
        // Hashed again where a stamp is another: gigabytes.
        aside("look at its snapshot", move || snapshots.prove_memory(&manifest)).await
    }

    fn fits(
        &self,
        snapshots: &Snapshots,
        prepared: &Prepared,
        generation: u64,
    ) -> Result<Manifest, Unproven> {
        let manifest = snapshots.manifest(generation)?;
        manifest.check(&Present {
            instance: self.record.instance_id,
            platform: &blueprint::platform(prepared.blueprint.vmm())?,
            spec_hash: &blueprint::spec_hash(&self.record),
            data_drive: self.data_drive()?,
            consumed: snapshots.held(generation)? == Held::Used,
        })?;
        Ok(manifest)
    }

    /// What its data drive is now; nothing where there is none.
    fn data_drive(&self) -> Result<Option<FileStamp>, FileError> {
        if self.record.resources.data_disk_mib == 0 {
            return Ok(None);
        }
        match file::stamp(&self.service.instance_dir(&self.record).join("data.img")) {
            Err(error) if error.is_missing() => Ok(None),
            stamp => stamp.map(Some),
        }
    }

    /// Tries until the VM executes or the snapshot is spent. The inner error asks for a cold
    /// boot; the outer one (an interrupt) leaves the instance asleep.
    async fn attempts(
        &mut self,
        snapshots: &Snapshots,
        prepared: &Prepared,
        generation: u64,
    ) -> Result<Result<VmRef>> {
        let (mut last, mut left) = (None, ATTEMPTS);
        let mut ahead = self.take_ahead(prepared).await;
        while left > 0 {
            if let Err(interrupted) = self.check_cancel() {
                return self.take_back().and(Err(interrupted));
            }
            let waited = ahead.take();
            let is_fresh = waited.is_none();
            match self.attempt(snapshots, prepared, generation, waited).await {
                Attempt::Woken(vm) => return Ok(Ok(vm)),
                // It may have been its own fault: it costs time, never one of the attempts.
                Attempt::Again(_, error) if !is_fresh => {
                    let reason = error.chain();
                    self.slow.push(format!("the VMM that waited could not be used: {reason}"));
                }
                Attempt::Again(fault, error) => (last, left) = (Some((fault, error)), left - 1),
                Attempt::Spent(error) => return Ok(Err(error)),
                Attempt::Stuck(error) => return Err(error),
            }
        }
        match last {
            Some((Fault::Snapshot, error)) => Ok(Err(error)),
            // It goes on sleeping: a cold boot would meet the same host.
            Some((Fault::Host, error)) => self.take_back().and(Err(error)),
            None => self.take_back().and(Err(Error::new(
                Kind::Failed,
                self.record.path(),
                "no attempt",
            ))),
        }
    }

    /// The VMM that waits for this wake; that there is none is a reason to be slow.
    async fn take_ahead(&mut self, prepared: &Prepared) -> Option<VmRef> {
        let ahead = self.ahead(prepared).await;
        self.phase("ahead");
        match ahead {
            Ahead::Ready(vm) => Some(vm),
            Ahead::Missing(reason) => {
                self.slow.push(reason.into());
                None
            }
            Ahead::NotWanted => None,
        }
    }

    async fn attempt(
        &mut self,
        snapshots: &Snapshots,
        prepared: &Prepared,
        generation: u64,
        ahead: Option<VmRef>,
    ) -> Attempt {
        let machine = self.machine();
        let vm = match self.load(snapshots, prepared, generation, ahead).await {
            Ok(vm) => vm,
            Err((fault, error)) => {
                return match machine.kill().await {
                    Ok(()) => Attempt::Again(fault, error),
                    Err(stays) => Attempt::Stuck(stays),
                };
            }
        };
        if let Err(error) =
            snapshots.consume(generation).about(self.record.path(), "mark its snapshot as used")
        {
            return self.unmark(snapshots, generation, error).await;
        }
        self.phase("mark");
        if let Err(error) = self.execute().await {
            return self.spend(error).await;
        }
        self.phase("resume");
        let told = machine.wake_guest().await;
        self.phase("guest");
        match told {
            Ok(problems) => {
                self.record.note = problems;
                Attempt::Woken(vm)
            }
            Err(error) => self.spend(error).await,
        }
    }

    /// Lets a VM execute whose snapshot is spent, so there is no other. One that surely does not
    /// is told twice.
    async fn execute(&self) -> Result<()> {
        match self.resume_vm().await {
            Err(error) if self.machine().is_executing().await == Some(false) => {
                tracing::warn!(instance = %self.record.path(), error = error.chain(), "it is told to go on again");
                self.resume_vm().await
            }
            resumed => resumed,
        }
    }

    /// Its mark was not made for certain. Nothing executed, and once this VM is gone nothing of it
    /// will: a snapshot whose mark is gone for certain is as good as before.
    async fn unmark(&self, snapshots: &Snapshots, generation: u64, error: Error) -> Attempt {
        if let Err(stays) = self.machine().kill().await {
            return Attempt::Stuck(stays);
        }
        match snapshots.unmark(generation) {
            Ok(()) => Attempt::Again(Fault::Host, error),
            Err(_) => Attempt::Spent(error),
        }
    }

    /// The snapshot was or may have been used: its VM ends, and the next boot is a cold one.
    async fn spend(&self, error: Error) -> Attempt {
        match self.machine().kill().await {
            Ok(()) => Attempt::Spent(error),
            Err(stays) => Attempt::Stuck(stays),
        }
    }

    /// A VM that holds the snapshot's memory and executes nothing yet.
    async fn load(
        &mut self,
        snapshots: &Snapshots,
        prepared: &Prepared,
        generation: u64,
        ahead: Option<VmRef>,
    ) -> Result<VmRef, (Fault, Error)> {
        let machine = self.machine();
        let vm = match ahead {
            Some(vm) => vm,
            None => {
                let launched = machine.launch(&prepared.blueprint, StartMode::Restore).await;
                let vm = launched.map_err(|error| (Fault::Host, error))?;
                self.phase("spawn");
                vm
            }
        };
        let restored = machine.restore(&snapshots.path(generation)).await;
        restored.map_err(|error| (Fault::of_restore(&error), error))?;
        self.phase("load");
        Ok(VmRef { resumed_from: Some(generation), ..vm })
    }

    async fn woken(&mut self, snapshots: &Snapshots, generation: u64, vm: VmRef) -> Result<()> {
        self.record.note = and(self.record.note.take(), self.catch_up_secrets().await);
        self.record.wakes.add(&self.slow);
        self.finish(State::Running { vm })?;
        // QEMU has read the memory file whole. Firecracker maps it until it ends; its jail holds
        // the file, without a name here that somebody could resume it by.
        if let Err(error) = snapshots.remove_except(None) {
            tracing::warn!(instance = %self.record.path(), generation, %error, "cannot remove the used snapshot");
        }
        Ok(())
    }

    async fn cold_boot_instead(&mut self, snapshots: &Snapshots, doubt: &str) -> Result<()> {
        let note = format!(
            "booted from its drives instead of its snapshot: {doubt}; the data drive was kept"
        );
        // One that waits for a snapshot must not be taken for the VM that boots.
        self.machine().kill().await?;
        // From here on an interruption must not find a sleeping instance again.
        self.record.state =
            State::Failed { reason: doubt.to_owned(), kept: "the data drive".into() };
        self.record.transition = Some(Transition::Starting);
        self.service.records.put_instance(&self.record)?;
        snapshots.remove_except(None).about(self.record.path(), "remove the useless snapshot")?;
        self.boot(Some(note)).await
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use mvm_vmm::RestoreError;

    use super::*;

    #[test]
    fn only_a_refusal_of_the_memory_is_the_snapshots_fault() {
        let fault = |error: RestoreError| {
            Fault::of_restore(&Err::<(), _>(error).about("acme", "load its memory").unwrap_err())
        };
        assert_eq!(fault(RestoreError::Refused("Crc64(12)".into())), Fault::Snapshot);
        for hosts in [
            RestoreError::Hindered("Cannot allocate memory (os error 12)".into()),
            RestoreError::File(io::Error::from_raw_os_error(24)),
            RestoreError::Deadline(Duration::from_secs(30)),
        ] {
            assert_eq!(fault(hosts), Fault::Host);
        }
        // A failpoint, or a VMM that cannot be reached.
        assert_eq!(Fault::of_restore(&Error::new(Kind::Timeout, "acme", "late")), Fault::Host);
    }
}
