//! running, warm → sleeping.
//!
//! Nothing is lost at any step: until the snapshot is renamed into place the VM is alive and can
//! go on; from then on the snapshot is complete and the VM no longer needed.

use std::path::PathBuf;

use mvm_host::file::{self, FileError};
use mvm_host::snapshot::{Draft, Snapshots};
use mvm_model::record::InstanceRecord;
use mvm_model::snapshot::{DevicesFile, DriveStamp, Kind as SnapshotKind, Manifest};
use mvm_model::state::{State, Transition, VmRef};
use mvm_model::vm::Vmm;
use mvm_vmm::process;

use super::Driver;
use crate::blueprint;
use crate::disk::aside;
use crate::error::{About, Error, Kind, Result};
use crate::machine::Machine;

/// What must stay free on the disk beside a snapshot, bytes.
const SLACK: u64 = 64 << 20;

/// What a snapshot is made of.
struct Files {
    memory: PathBuf,
    devices: PathBuf,
    drive: Option<PathBuf>,
}

impl Files {
    /// Hashes them. The data drive is synced first.
    fn manifest(
        &self,
        record: &InstanceRecord,
        vmm: &Vmm,
        generation: u64,
    ) -> Result<Manifest, FileError> {
        let drive = self.drive.as_ref().map(|drive| {
            file::sync(drive)?;
            file::stamp(drive)
        });
        let devices = self.devices.exists().then(|| {
            let digest = file::digest(&self.devices)?;
            Ok(DevicesFile { file: file::stamp(&self.devices)?, digest })
        });
        Ok(Manifest {
            schema_version: 1,
            kind: SnapshotKind::Sleep,
            instance: record.instance_id,
            generation,
            platform: blueprint::platform(vmm)?,
            spec_hash: blueprint::spec_hash(record),
            data_drive: drive.transpose()?.map(|file| DriveStamp { file }),
            memory: file::stamp(&self.memory)?,
            memory_digest: file::digest(&self.memory)?,
            devices: devices.transpose()?,
        })
    }
}

impl Driver<'_> {
    pub(super) async fn sleep(&mut self, generation: u64) -> Result<()> {
        let vm = self.vm()?;
        let was_warm = matches!(self.record.state, State::Warm { .. });
        self.begin(Transition::Sleeping { generation }).await?;
        let machine = self.machine();
        let snapshots = Snapshots::of(&self.service.instance_dir(&self.record));
        match self.write_snapshot(&machine, &snapshots, &vm, generation, was_warm).await {
            Ok(()) => self.fall_asleep(generation).await,
            Err(error) => {
                // What was written must be worth nothing before the VM executes again. If that is
                // not certain it stays paused, and the next command decides from what is there.
                snapshots.remove_except(None).about(self.record.path(), "discard its snapshot")?;
                Err(self.call_off(&machine, was_warm, vm, error).await)
            }
        }
    }

    /// Everything up to the rename. The VM is paused afterwards, also after a failure.
    async fn write_snapshot(
        &mut self,
        machine: &Machine,
        snapshots: &Snapshots,
        vm: &VmRef,
        generation: u64,
        was_warm: bool,
    ) -> Result<()> {
        let path = self.record.path();
        self.admit_disk()?;
        if was_warm {
            machine.resume().await?;
        }
        machine.prepare_sleep().await?;
        self.phase("guest");
        self.check_called_off()?;
        machine.pause().await?;
        self.phase("pause");
        let draft = snapshots.draft(generation).about(&path, "write its snapshot")?;
        let written = match machine.save(draft.dir(), self.called_off()).await {
            Ok(()) => self.commit(draft, vm, generation).await,
            Err(error) => {
                let _ = draft.abandon();
                // Who called it off says more than that it was.
                self.check_called_off().and(Err(error))
            }
        };
        self.phase("snapshot");
        // The last moment: from here on the VM is ended.
        written.and_then(|()| self.check_called_off())
    }

    async fn commit(&self, draft: Draft, vm: &VmRef, generation: u64) -> Result<()> {
        let path = self.record.path();
        let drive = (self.record.resources.data_disk_mib > 0)
            .then(|| self.service.instance_dir(&self.record).join("data.img"));
        let files = Files { memory: draft.memory_path(), devices: draft.devices_path(), drive };
        let (record, vmm) = (self.record.clone(), vm.vmm.clone());
        let doing = "write its snapshot";
        // Gigabytes: beside those who wait for something quick.
        let manifest = aside(doing, move || files.manifest(&record, &vmm, generation)).await?;
        manifest.and_then(|manifest| draft.commit(&manifest)).about(&path, doing)
    }

    /// The snapshot holds: end the VM, then write that down. In between the transition is on
    /// disk, and settling it comes to the same.
    async fn fall_asleep(&mut self, generation: u64) -> Result<()> {
        self.machine().kill().await?;
        self.phase("end");
        self.park_if_possible();
        self.phase("park");
        self.finish(State::Sleeping { generation })?;
        self.stand_by().await;
        self.phase("stand by");
        Ok(())
    }

    /// Lets the VM go on after a sleep that did not happen. One that does not is left on its way:
    /// whoever comes next tries again.
    async fn call_off(
        &mut self,
        machine: &Machine,
        was_warm: bool,
        vm: VmRef,
        error: Error,
    ) -> Error {
        if let Err(stays) = self.resume_vm().await {
            return match process::is_alive(&vm.process) {
                true => self.still_paused(&error, stays),
                false => self.ended_meanwhile(machine, error).await,
            };
        }
        self.record.note = Some(match machine.wake_guest().await {
            Ok(problems) => {
                let problems = problems.map(|text| format!("; {text}")).unwrap_or_default();
                format!("the last sleep was called off: {}{problems}", error.chain())
            }
            Err(more) => format!(
                "the last sleep failed ({}) and the guest does not answer: {}",
                error.chain(),
                more.chain()
            ),
        });
        let is_warm = was_warm
            && (machine.pause().await.is_ok() || machine.is_executing().await == Some(false));
        let state = match is_warm {
            true => State::Warm { vm },
            false => State::Running { vm },
        };
        match self.finish(state) {
            Ok(()) => error,
            Err(worse) => worse,
        }
    }

    /// Its VM ended by itself on the way: what became of it is written down like any such end.
    async fn ended_meanwhile(&mut self, machine: &Machine, why: Error) -> Error {
        // Also waits for its supervisor, which notes how.
        if let Err(stays) = machine.kill().await {
            return stays;
        }
        self.record.transition = None;
        if let Err(worse) = self.settle_exit().await {
            return worse;
        }
        let path = self.record.path();
        let end = self.record.note.as_deref().unwrap_or("nobody saw how");
        let text = format!("its VM ended while it was put to sleep: {end}");
        Error::new(Kind::Failed, &path, text)
            .hint(format!("its data drive was kept; 'mvm instance start {path}'"))
            .because(why)
    }

    fn still_paused(&self, why: &Error, stays: Error) -> Error {
        let path = self.record.path();
        let text = format!("the sleep failed ({}) and its VM stays paused", why.chain());
        Error::new(stays.kind, &path, text)
            .hint(format!("nothing is lost; 'mvm instance wake {path}' lets it go on"))
            .because(stays)
    }

    /// Refuses a sleep the disk cannot hold: a guest's memory at most, beside an older snapshot.
    fn admit_disk(&self) -> Result<()> {
        let dir = self.service.instance_dir(&self.record);
        let free = file::free_bytes(&dir).about(self.record.path(), "look at the disk")?;
        let needed = (self.record.resources.mem_mib << 20) + SLACK;
        if free >= needed {
            return Ok(());
        }
        let text = format!(
            "a snapshot may need {} MiB, the disk has {} MiB free",
            needed >> 20,
            free >> 20
        );
        Err(Error::new(Kind::DiskFull, self.record.path(), text)
            .hint("the instance goes on running; free some space and try again"))
    }
}
