//! sleeping → running.
//!
//! Load without executing → consumed mark, synced → execute. A failure before the mark leaves
//! the snapshot good: a fresh VM process tries again, three times at most. After the mark the
//! snapshot is never used again, whatever happens. Any doubt is a cold boot with the data drive.

use mvm_host::file;
use mvm_host::snapshot::Snapshots;
use mvm_model::snapshot::{Manifest, Present, Unusable};
use mvm_model::state::{State, Transition, VmRef};
use mvm_vmm::StartMode;

use super::Driver;
use super::prepare::Prepared;
use crate::blueprint;
use crate::error::{About, Error, Result};

/// How often a snapshot is tried before its instance is booted from its drives.
const ATTEMPTS: usize = 3;

/// How one attempt ended.
enum Attempt {
    /// The VM executes.
    Woken(VmRef),
    /// Nothing was executed; the snapshot is still good.
    Again(Error),
    /// The snapshot is spent or useless.
    Spent(Error),
}

impl Driver<'_> {
    pub(super) async fn wake(&mut self, generation: u64) -> Result<()> {
        self.begin(Transition::Waking { generation }).await?;
        let snapshots = Snapshots::of(&self.service.instance_dir(&self.record));
        let prepared = match self.prepare(self.record.revision.clone()).await {
            Ok(prepared) => prepared,
            Err(error) => return self.take_back().and(Err(error)),
        };
        self.phase("prepare");
        let doubt = match self.usable(&snapshots, &prepared, generation) {
            Err(unusable) => unusable.to_string(),
            Ok(_) => match self.attempts(&snapshots, &prepared, generation).await? {
                Ok(vm) => return self.woken(&snapshots, generation, vm),
                Err(error) => error.chain(),
            },
        };
        self.cold_boot_instead(&snapshots, &doubt).await
    }

    fn usable(
        &self,
        snapshots: &Snapshots,
        prepared: &Prepared,
        generation: u64,
    ) -> Result<Manifest, Unusable> {
        let manifest = snapshots.manifest(generation)?;
        let data = self.service.instance_dir(&self.record).join("data.img");
        let drive =
            (self.record.resources.data_disk_mib > 0).then(|| file::stamp(&data).ok()).flatten();
        manifest.check(&Present {
            instance: self.record.instance_id,
            platform: &blueprint::platform(prepared.blueprint.vmm()),
            spec_hash: &blueprint::spec_hash(&self.record),
            data_drive: drive,
            consumed: snapshots.is_consumed(generation),
        })?;
        snapshots.prove_memory(&manifest)?;
        Ok(manifest)
    }

    /// Tries until the VM executes or the snapshot is spent. The inner error asks for a cold
    /// boot; the outer one (an interrupt) leaves the instance asleep.
    async fn attempts(
        &mut self,
        snapshots: &Snapshots,
        prepared: &Prepared,
        generation: u64,
    ) -> Result<Result<VmRef>> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            if let Err(interrupted) = self.check_cancel() {
                return self.take_back().and(Err(interrupted));
            }
            match self.attempt(snapshots, prepared, generation).await {
                Attempt::Woken(vm) => return Ok(Ok(vm)),
                Attempt::Again(error) => last = Some(error),
                Attempt::Spent(error) => return Ok(Err(error)),
            }
        }
        Ok(Err(last.unwrap_or_else(|| {
            Error::new(crate::error::Kind::Failed, self.record.path(), "no attempt")
        })))
    }

    async fn attempt(
        &mut self,
        snapshots: &Snapshots,
        prepared: &Prepared,
        generation: u64,
    ) -> Attempt {
        let machine = self.machine();
        let vm = match self.load(snapshots, prepared, generation).await {
            Ok(vm) => vm,
            Err(error) => {
                self.end_vm().await;
                return Attempt::Again(error);
            }
        };
        if let Err(error) =
            snapshots.consume(generation).about(self.record.path(), "mark its snapshot as used")
        {
            // Whether the mark is on disk is unknown: the snapshot may not be tried again.
            self.end_vm().await;
            return Attempt::Spent(error);
        }
        self.phase("mark");
        if let Err(error) = machine.resume().await {
            self.end_vm().await;
            return Attempt::Spent(error);
        }
        self.phase("resume");
        let told = machine.wake_guest().await;
        self.phase("guest");
        match told {
            Ok(()) => Attempt::Woken(vm),
            Err(error) => {
                self.end_vm().await;
                Attempt::Spent(error)
            }
        }
    }

    /// A VM that holds the snapshot's memory and executes nothing yet.
    async fn load(
        &mut self,
        snapshots: &Snapshots,
        prepared: &Prepared,
        generation: u64,
    ) -> Result<VmRef> {
        let machine = self.machine();
        let vm = machine.launch(&prepared.blueprint, StartMode::Restore).await?;
        self.phase("spawn");
        machine.restore(&snapshots.memory(generation)).await?;
        self.phase("load");
        Ok(VmRef { resumed_from: Some(generation), ..vm })
    }

    fn woken(&mut self, snapshots: &Snapshots, generation: u64, vm: VmRef) -> Result<()> {
        self.finish(State::Running { vm })?;
        // QEMU has read the memory file whole; a VMM that maps it needs it until it ends.
        if let Err(error) = snapshots.remove_except(None) {
            tracing::warn!(instance = %self.record.path(), generation, %error, "cannot remove the used snapshot");
        }
        Ok(())
    }

    async fn cold_boot_instead(&mut self, snapshots: &Snapshots, doubt: &str) -> Result<()> {
        let note = format!(
            "booted from its drives instead of its snapshot: {doubt}; the data drive was kept"
        );
        // From here on an interruption must not find a sleeping instance again.
        self.record.state =
            State::Failed { reason: doubt.to_owned(), kept: "the data drive".into() };
        self.record.transition = Some(Transition::Starting);
        self.service.records.put_instance(&self.record)?;
        snapshots.remove_except(None).about(self.record.path(), "remove the useless snapshot")?;
        self.boot(Some(note)).await
    }
}
