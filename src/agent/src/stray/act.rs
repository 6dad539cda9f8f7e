//! Carries out one finding. What it is about is looked at again under the lock its owner would
//! hold; what is explained by then is left.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mvm_api::repair::{Outcome, Verdict};
use mvm_host::file;
use mvm_host::lock::{self, Lock};
use mvm_host::snapshot::Snapshots;
use mvm_model::id::InstanceRef;
use mvm_model::record::{InstanceRecord, PoolRecord, TenantRecord};
use mvm_model::state::Transition;
use mvm_model::{InstanceId, InstancePath, NetId, Offset, TenantName};
use mvm_vmm::process;
use mvm_vmm::systemd::Systemd;

use super::judge::{self, Holder, Known, Moving, Seen, Thing, What};
use super::look::last_links;
use super::revive::{Truth, revive};
use super::{Case, Subject};
use crate::disk::aside;
use crate::error::{About, Error, Kind, Result};
use crate::machine::Machine;
use crate::records::{holds_data, spare_of};
use crate::service::Service;

/// How long a killed process may take to vanish.
const END: Duration = Duration::from_secs(10);

/// What an action came to: done, with where something was moved, or not necessary.
type Done = Option<Option<PathBuf>>;

const DONE: Result<Done> = Ok(Some(None));

impl Service {
    /// Does what a finding's verdict says.
    pub(super) async fn carry_out(&self, case: &Case, known: &Known) -> Outcome {
        let done = match &case.about {
            Subject::Instance(path) => self.settle_stray(path).await,
            Subject::Thing(thing) => self.act_on(case, thing, known).await,
        };
        match done {
            Ok(Some(moved_to)) => Outcome::Done { moved_to },
            Ok(None) => Outcome::Gone,
            Err(error) => Outcome::Failed { message: error.chain() },
        }
    }

    async fn act_on(&self, case: &Case, thing: &Thing, known: &Known) -> Result<Done> {
        let why = case.stray.why.as_str();
        match &thing.what {
            What::Record { of: Holder::Instance(id), path, .. } => {
                self.mend_instance(*id, path, case.stray.verdict, why).await
            }
            What::Unrecorded { of, path, .. } => {
                self.mend_instance(*of, &path.join("instance.json"), case.stray.verdict, why).await
            }
            What::Record { of: Holder::Many, path, .. } => self.restore_many(path, why).await,
            What::Tap { net_id, offset, .. } => self.reclaim_tap(*net_id, *offset).await,
            What::Bridge { net_id, tenant, .. } => self.reclaim_bridge(*net_id, tenant).await,
            What::Resolver { .. } => self.refresh_dns().await.map(|()| Some(None)),
            What::Process { of, .. }
            | What::Unit { of, .. }
            | What::RunFiles { of, .. }
            | What::Jail { of, .. }
            | What::LastLink { of, .. }
            | What::Snapshot { of, .. } => self.of_instance(*of, case, thing, known).await,
            What::Litter { of: Some(of), .. } => self.of_instance(*of, case, thing, known).await,
            What::Litter { of: None, path, .. } => remove(path).await,
            What::Twin { .. } => Ok(None),
        }
    }

    /// Something of an instance: under its lock, when there is one, and only if it is as stray
    /// there as it was.
    async fn of_instance(
        &self,
        of: InstanceId,
        case: &Case,
        thing: &Thing,
        known: &Known,
    ) -> Result<Done> {
        let mut known = known.clone();
        let _lock = match known.instances.get(&of).and_then(|one| one.path.parse().ok()) {
            None if self.instance_ids().contains(&of) => return Ok(None),
            None => None,
            Some(path) => {
                let Some((lock, record)) = self.seize(&path)? else { return Ok(None) };
                known.instances.insert(of, judge::Instance { held: false, ..self.know(&record) });
                Some(lock)
            }
        };
        let again = judge::judge(thing, &known, Duration::ZERO);
        if again.is_none_or(|again| again.verdict != case.stray.verdict) {
            return Ok(None);
        }
        match (&thing.what, case.stray.verdict) {
            (What::Process { process, .. }, _) => {
                let ended = process::kill(process, END).await;
                ended.map_err(|error| failed(case, "cannot end it").because(error))?;
                DONE
            }
            (What::Unit { of, .. }, _) => self.end_unit(*of, case).await,
            (What::LastLink { path, .. } | What::Snapshot { path, .. }, Verdict::Quarantine) => {
                self.move_aside(path, &case.stray.why).await
            }
            (What::Jail { path, .. }, _) => match last_links(&path.join("root")).is_empty() {
                true => remove(path).await,
                false => Ok(None),
            },
            (What::Snapshot { path, .. } | What::RunFiles { path, .. }, _)
            | (What::Litter { path, .. }, _) => remove(path).await,
            _ => Ok(None),
        }
    }

    /// The lock and the record of an instance nobody is at.
    fn seize(&self, path: &InstancePath) -> Result<Option<(Lock, InstanceRecord)>> {
        let InstanceRef::Id(id) = path.instance else { return Ok(None) };
        let dir = self.dirs.instance(&path.pool, id);
        if !dir.exists() {
            return Ok(None);
        }
        let Ok(lock) = Lock::try_take(&lock::path_in(&dir), &self.who) else { return Ok(None) };
        Ok(self.records.instance(&path.pool, id)?.map(|record| (lock, record)))
    }

    async fn end_unit(&self, of: InstanceId, case: &Case) -> Result<Done> {
        let systemd = Systemd::connect().await;
        let systemd = systemd.map_err(|error| failed(case, "cannot end it").because(error))?;
        let ended = systemd.end(of).await;
        ended.map_err(|error| failed(case, "cannot end it").because(error))?;
        DONE
    }

    async fn move_aside(&self, path: &Path, why: &str) -> Result<Done> {
        let (service, path, why) = (self.clone(), path.to_owned(), why.to_owned());
        let moved = aside("move it aside", move || service.put_aside(&path, &why)).await?;
        moved.about("", "move it aside").map(|to| Some(Some(to)))
    }

    /// Writes down what became of an instance. One whose record is older than its VM gets that VM.
    async fn settle_stray(&self, path: &InstancePath) -> Result<Done> {
        let Some((lock, record)) = self.seize(path)? else { return Ok(None) };
        let Seen::Good(claim) = self.know(&record).seen else { return Ok(None) };
        let is_older = claim.motion == Moving::No
            && claim.vm.is_some()
            && !claim.vm_lives
            && claim.recorded.is_some();
        if is_older {
            self.records.put_instance(&self.revived(record.clone()).await?)?;
        }
        drop(lock);
        let settled = self.settle_instance(path, &AtomicBool::new(false)).await;
        self.audit(&record.tenant_id, path, "instance.repair", &settled).await;
        settled.map(|()| Some(None))
    }

    async fn revived(&self, before: InstanceRecord) -> Result<InstanceRecord> {
        let snapshots = Snapshots::of(&self.instance_dir(&before));
        let machine = Machine::of(self, &before);
        let vm = machine.living_vm();
        let executing = if vm.is_some() { machine.is_executing().await } else { None };
        let truth = Truth { vm, executing, held: &|generation| snapshots.held(generation) };
        let path = before.path();
        revive(before, &truth).about(path, "look at its snapshots")
    }

    /// Makes an instance's record from the version before, or moves it aside.
    async fn mend_instance(
        &self,
        id: InstanceId,
        file: &Path,
        verdict: Verdict,
        why: &str,
    ) -> Result<Done> {
        let Some(dir) = file.parent() else { return Ok(None) };
        let Ok(lock) = Lock::try_take(&lock::path_in(dir), &self.who) else { return Ok(None) };
        let spare = spare_of::<InstanceRecord>(file);
        match (verdict, spare) {
            (Verdict::Restore, Some(before)) => {
                let record = self.revived(before).await?;
                let moved_to = self.clear(file, why).await?;
                self.records.put_instance(&record)?;
                drop(lock);
                let settled = self.settle_restored(&record).await;
                self.audit(&record.tenant_id, record.path(), "instance.restore", &settled).await;
                settled.map(|()| Some(moved_to))
            }
            (Verdict::Quarantine, None) => self.clear(file, why).await.map(Some),
            (Verdict::Reclaim, None) if !file.exists() => {
                drop(lock);
                self.remove_empty(id, dir).await
            }
            _ => Ok(None),
        }
    }

    async fn settle_restored(&self, record: &InstanceRecord) -> Result<()> {
        // It deletes data: left to who asked for it.
        if record.transition == Some(Transition::Destroying) {
            return Ok(());
        }
        self.settle_instance(&record.path(), &AtomicBool::new(false)).await
    }

    /// Moves a record that cannot be used aside; says where, if there is one.
    async fn clear(&self, file: &Path, why: &str) -> Result<Option<PathBuf>> {
        match file.exists() {
            true => Ok(self.move_aside(file, why).await?.flatten()),
            false => Ok(None),
        }
    }

    async fn remove_empty(&self, id: InstanceId, dir: &Path) -> Result<Done> {
        // Whoever creates an instance holds it.
        let _state = self.lock_state().await?;
        let record = dir.join("instance.json");
        if record.exists() || holds_data(&record) {
            return Ok(None);
        }
        self.records.remove(id, dir).map(|()| Some(None))
    }

    async fn restore_many(&self, file: &Path, why: &str) -> Result<Done> {
        let _state = self.lock_state().await?;
        let (tenant, pool) = (spare_of::<TenantRecord>(file), spare_of::<PoolRecord>(file));
        if tenant.is_none() && pool.is_none() {
            return Ok(None);
        }
        let moved_to = self.clear(file, why).await?;
        match (tenant, pool) {
            (Some(tenant), _) => self.records.put_tenant(&tenant)?,
            (None, Some(pool)) => self.records.put_pool(&pool)?,
            (None, None) => {}
        }
        Ok(Some(moved_to))
    }

    /// Under the lock under which instances get their addresses and tell that they start.
    async fn reclaim_tap(&self, net_id: NetId, offset: Offset) -> Result<Done> {
        let _state = self.lock_state().await?;
        let leased = |record: &InstanceRecord| (record.net_id, record.offset) == (net_id, offset);
        if self.records.all_instances().records.iter().any(leased) {
            return Ok(None);
        }
        let gone = self.net().await?.remove_own_tap(net_id, offset).await;
        let gone = gone.about(net_id.tap(offset), "take it away")?;
        Ok(gone.then_some(None))
    }

    async fn reclaim_bridge(&self, net_id: NetId, tenant: &TenantName) -> Result<Done> {
        let _state = self.lock_state().await?;
        let is_theirs = |record: &TenantRecord| record.network.tenant_net_id == net_id;
        let found = self.records.tenants();
        let doubt = found.problems.iter().any(|p| p.path.starts_with(self.dirs.tenant(tenant)));
        if doubt || found.records.iter().any(is_theirs) {
            return Ok(None);
        }
        let gone = self.net().await?.remove_own_bridge(net_id).await;
        gone.about(net_id.bridge(), "take it away")?;
        self.forget_zone(net_id).await;
        DONE
    }
}

fn failed(case: &Case, message: &str) -> Error {
    Error::new(Kind::Failed, &case.stray.object, message)
}

async fn remove(path: &Path) -> Result<Done> {
    let owned = path.to_owned();
    let removed = aside("remove it", move || match owned.symlink_metadata() {
        Ok(meta) if meta.is_dir() => file::remove_dir(&owned),
        _ => file::remove_file(&owned),
    });
    removed.await?.about(path.display(), "remove it")?;
    DONE
}
