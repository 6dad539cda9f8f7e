//! Changing what a tenant or a pool should be. Starts and stops nothing: the loop and `agent
//! reconcile` make it so.

use mvm_api::secret::{Delivered, Delivery};
pub use mvm_api::update::{PoolUpdate, PoolUpdated, Setting, TenantUpdate};
use mvm_model::desired::{self, PoolSpec, TenantSpec};
use mvm_model::intent::Object;
use mvm_model::record::{PoolRecord, TenantRecord};
use mvm_model::state::Status;
use mvm_model::{PoolPath, TenantName};

use crate::error::{About, Error, Kind, Result};
use crate::service::Service;
use crate::tenant::{net_of, refuse_fleet_egress};

/// Whether the owner of what is changed agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// That is to be looked at.
    Ask,
    /// They do.
    Given,
}

fn apply_to_tenant(update: TenantUpdate, spec: &mut TenantSpec) {
    let quotas = &mut spec.quotas;
    set(&mut quotas.max_vcpus, update.max_vcpus);
    set(&mut quotas.max_mem_mib, update.max_mem_mib);
    set(&mut quotas.max_running, update.max_running);
    set(&mut quotas.max_warm, update.max_warm);
    set(&mut quotas.max_pools, update.max_pools);
    set(&mut quotas.max_instances_per_pool, update.max_instances_per_pool);
    set(&mut quotas.max_disk_gib, update.max_disk_gib);
    set(&mut spec.egress, update.egress.clone());
    set(&mut spec.pinned, update.pinned);
}

fn apply_to_pool(update: PoolUpdate, spec: &mut PoolSpec) {
    set(&mut spec.image, update.image);
    set(&mut spec.instance_resources.vcpus, update.vcpus);
    set(&mut spec.instance_resources.mem_mib, update.mem_mib);
    set(&mut spec.instance_resources.data_disk_mib, update.data_disk_mib);
    update.warm_after_seconds.apply(&mut spec.idle.warm_after_seconds);
    update.sleep_after_seconds.apply(&mut spec.idle.sleep_after_seconds);
    set(&mut spec.idle.keep_running, update.keep_running);
    set(&mut spec.idle.keep_warm, update.keep_warm);
    let policy = &mut spec.runtime_policy;
    set(&mut policy.min_running_seconds, update.min_running_seconds);
    set(&mut policy.min_warm_seconds, update.min_warm_seconds);
    set(&mut policy.drain_timeout_seconds, update.drain_timeout_seconds);
    set(&mut policy.graceful_shutdown_seconds, update.graceful_shutdown_seconds);
    set(&mut spec.pinned, update.pinned);
    set(&mut spec.critical, update.critical);
    update.secret_scopes.apply(&mut spec.secret_scopes);
}

/// What became of the secrets of an instance whose pool shows others of them now.
fn told(one: &Delivered) -> String {
    let instance = &one.instance;
    match &one.delivery {
        Delivery::Now => format!("{instance} has the secrets its pool shows now"),
        Delivery::AtResume => format!("{instance} gets the secrets its pool shows when it resumes"),
        Delivery::AtWake => format!("{instance} gets the secrets its pool shows at its wake"),
        Delivery::AtStart => format!("{instance} gets the secrets its pool shows at its start"),
        Delivery::NotYet { why } => format!("{instance} keeps the secrets it had for now: {why}"),
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl Service {
    /// Changes a tenant's quotas, egress or protection.
    ///
    /// # Errors
    /// [`Kind::Refused`] for another owner's, [`Kind::OverQuota`] when its pools ask for more
    /// than the new quotas; nothing is changed then.
    pub async fn update_tenant(
        &self,
        name: &TenantName,
        update: TenantUpdate,
    ) -> Result<TenantRecord> {
        let result =
            self.edit_tenant(name, Consent::Ask, |spec| apply_to_tenant(update, spec)).await;
        self.audit(name, name, "tenant.update", &result).await;
        result
    }

    /// Changes a tenant.
    pub(crate) async fn edit_tenant(
        &self,
        name: &TenantName,
        consent: Consent,
        edit: impl FnOnce(&mut TenantSpec),
    ) -> Result<TenantRecord> {
        let lock = self.lock_state().await?;
        let before = self.living_tenant(name)?;
        if consent == Consent::Ask {
            self.permit(Object::Tenant(name.clone()), before.managed_by)?;
        }
        let mut spec = before.spec();
        edit(&mut spec);
        refuse_fleet_egress(name, &spec.egress)?;
        self.refuse_problems(&before, |tenant| {
            let pools = std::mem::take(&mut tenant.pools);
            *tenant = TenantSpec { pools, ..spec.clone() };
        })?;
        let record = before.updated(&spec);
        if record != before {
            self.records.put_tenant(&record)?;
        }
        drop(lock);
        if record.egress != before.egress {
            let net = self.net().await?;
            net.ensure_tenant(&net_of(&record)).await.about(name, "change its egress")?;
            self.refresh_dns().await?;
        }
        Ok(record)
    }

    /// Changes a pool's settings.
    ///
    /// # Errors
    /// [`Kind::Refused`] for another owner's, [`Kind::OverQuota`] or [`Kind::Invalid`] when the
    /// settings cannot be; nothing is changed then.
    pub async fn update_pool(&self, path: &PoolPath, update: PoolUpdate) -> Result<PoolUpdated> {
        let before = self.pool(path)?;
        let result = self.edit_pool(path, Consent::Ask, |spec| apply_to_pool(update, spec)).await;
        self.audit(&path.tenant, path, "pool.update", &result).await;
        let record = result?;
        let mut notes = self.consequences(&before, &record);
        notes.extend(self.rescope(&before, &record).await.iter().map(told));
        Ok(PoolUpdated { record, notes })
    }

    /// Delivers the tenant's secrets anew when a pool shows others of them than before.
    pub(crate) async fn rescope(&self, before: &PoolRecord, after: &PoolRecord) -> Vec<Delivered> {
        let same = before.secret_scopes == after.secret_scopes;
        if same || !self.vault(&after.tenant_id).exists() {
            return Vec::new();
        }
        let mut delivered = self.deliver_secrets(&after.tenant_id).await;
        delivered.retain(|one| one.instance.pool == after.path());
        delivered
    }

    /// Changes a pool.
    pub(crate) async fn edit_pool(
        &self,
        path: &PoolPath,
        consent: Consent,
        edit: impl FnOnce(&mut PoolSpec),
    ) -> Result<PoolRecord> {
        let _lock = self.lock_state().await?;
        let tenant = self.living_tenant(&path.tenant)?;
        let before = self.pool(path)?;
        if consent == Consent::Ask {
            self.permit(Object::Pool(path.clone()), before.managed_by)?;
        }
        let mut spec = before.spec();
        edit(&mut spec);
        if spec.instance_resources != before.instance_resources {
            // What no instance can be is said before what the tenant may have.
            spec.instance_resources.check().map_err(|bad| {
                Error::new(Kind::Invalid, path, bad.to_string())
                    .hint("see 'mvm pool update --help'")
            })?;
        }
        self.refuse_problems(&tenant, |tenant| {
            let pool = tenant.pools.iter_mut().find(|pool| pool.pool_id == path.pool);
            if let Some(pool) = pool {
                let instances = pool.instances.take();
                *pool = PoolSpec { instances, ..spec.clone() };
            }
        })?;
        let record = before.updated(spec);
        if record != before {
            self.records.put_pool(&record)?;
        }
        Ok(record)
    }

    /// When a pool's new settings reach which of its instances.
    fn consequences(&self, before: &PoolRecord, after: &PoolRecord) -> Vec<String> {
        let mut notes = Vec::new();
        let instances = self.records.instances(&after.path()).records;
        let is_up = |status| matches!(status, Status::Running | Status::Warm | Status::Sleeping);
        let up = instances.iter().filter(|record| is_up(record.state.status())).count();
        let (had, given) = (before.instance_resources, after.instance_resources);
        if had != given && up > 0 {
            notes.push(format!(
                "{up} of its instances run or sleep: they get it at their next cold boot \
                 ('mvm instance stop', then 'start')"
            ));
        }
        if given.data_disk_mib < had.data_disk_mib && !instances.is_empty() {
            notes.push("data drives never shrink: only new instances get the smaller one".into());
        }
        if before.image != after.image {
            notes.push(format!(
                "the image is built by 'mvm pool build {}' or the next reconcile that boots; what \
                 runs or sleeps keeps its revision",
                after.path()
            ));
        }
        notes
    }

    /// Refuses a change of a tenant that brings up problems it did not have.
    pub(crate) fn refuse_problems(
        &self,
        tenant: &TenantRecord,
        change: impl FnOnce(&mut TenantSpec),
    ) -> Result<()> {
        let mut spec = self.tenant_spec(tenant);
        let before =
            (desired::check_quotas(&spec), desired::check_tenants(std::slice::from_ref(&spec)));
        change(&mut spec);
        let quotas = desired::check_quotas(&spec);
        let all = desired::check_tenants(std::slice::from_ref(&spec));
        let over = quotas.into_iter().find(|problem| !before.0.contains(problem));
        let kind = if over.is_some() { Kind::OverQuota } else { Kind::Invalid };
        match over.or_else(|| all.into_iter().find(|problem| !before.1.contains(problem))) {
            None => Ok(()),
            Some(new) => Err(Error::new(kind, new.object, new.problem).hint(new.hint)),
        }
    }
}
