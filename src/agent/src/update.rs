//! Changing what a tenant or a pool should be. Starts and stops nothing: the loop and `agent
//! reconcile` make it so.

use mvm_model::desired::{self, PoolSpec, TenantSpec};
use mvm_model::image::ImageSource;
use mvm_model::intent::Object;
use mvm_model::record::{Egress, ManagedBy, PoolRecord, TenantRecord};
use mvm_model::state::Status;
use mvm_model::{PoolPath, TenantName};
use serde::{Deserialize, Serialize};

use crate::error::{About, Error, Kind, Result};
use crate::service::Service;
use crate::tenant::{net_of, refuse_fleet_egress};

/// What of a tenant changes; `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TenantUpdate {
    /// vCPUs of all running and warm instances.
    pub max_vcpus: Option<u32>,
    /// Memory of all running and warm instances, MiB.
    pub max_mem_mib: Option<u64>,
    /// Running instances.
    pub max_running: Option<u32>,
    /// Warm instances.
    pub max_warm: Option<u32>,
    /// Pools.
    pub max_pools: Option<u32>,
    /// Instances in one pool.
    pub max_instances_per_pool: Option<u32>,
    /// Data drives and snapshots, GiB.
    pub max_disk_gib: Option<u64>,
    /// What its guests may reach.
    pub egress: Option<Egress>,
    /// Whether all its pools are pinned.
    pub pinned: Option<bool>,
}

impl TenantUpdate {
    fn apply(&self, spec: &mut TenantSpec) {
        let quotas = &mut spec.quotas;
        set(&mut quotas.max_vcpus, self.max_vcpus);
        set(&mut quotas.max_mem_mib, self.max_mem_mib);
        set(&mut quotas.max_running, self.max_running);
        set(&mut quotas.max_warm, self.max_warm);
        set(&mut quotas.max_pools, self.max_pools);
        set(&mut quotas.max_instances_per_pool, self.max_instances_per_pool);
        set(&mut quotas.max_disk_gib, self.max_disk_gib);
        set(&mut spec.egress, self.egress.clone());
        set(&mut spec.pinned, self.pinned);
    }
}

/// A setting that can be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting<T> {
    /// It stays.
    #[default]
    Keep,
    /// It goes.
    Clear,
    /// It is this.
    Set(T),
}

impl<T> Setting<T> {
    fn apply(self, place: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Clear => *place = None,
            Self::Set(value) => *place = Some(value),
        }
    }
}

/// What of a pool changes; `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolUpdate {
    /// Where its image comes from; built by `pool build` or the next reconcile that boots.
    pub image: Option<ImageSource>,
    /// vCPUs of each instance.
    pub vcpus: Option<u32>,
    /// Memory of each instance, MiB.
    pub mem_mib: Option<u64>,
    /// Data drive of each instance, MiB; an existing one only grows.
    pub data_disk_mib: Option<u64>,
    /// When a running idle instance becomes warm, seconds.
    pub warm_after_seconds: Setting<u64>,
    /// When an idle instance goes to sleep, seconds.
    pub sleep_after_seconds: Setting<u64>,
    /// How many keep running however idle.
    pub keep_running: Option<u32>,
    /// How many stay warm however idle.
    pub keep_warm: Option<u32>,
    /// The shortest time it runs before the idle policy parks it, seconds.
    pub min_running_seconds: Option<u64>,
    /// The shortest time it is warm before the idle policy puts it to sleep, seconds.
    pub min_warm_seconds: Option<u64>,
    /// How long open work may drain before a stop, seconds.
    pub drain_timeout_seconds: Option<u64>,
    /// How long a guest may take to turn itself off, seconds.
    pub graceful_shutdown_seconds: Option<u64>,
    /// Its instances stay in memory.
    pub pinned: Option<bool>,
    /// Its instances are never taken down.
    pub critical: Option<bool>,
    /// The secrets its instances see; cleared: every one of the tenant's.
    pub secret_scopes: Setting<Vec<String>>,
}

impl PoolUpdate {
    fn apply(self, spec: &mut PoolSpec) {
        set(&mut spec.image, self.image);
        set(&mut spec.instance_resources.vcpus, self.vcpus);
        set(&mut spec.instance_resources.mem_mib, self.mem_mib);
        set(&mut spec.instance_resources.data_disk_mib, self.data_disk_mib);
        self.warm_after_seconds.apply(&mut spec.idle.warm_after_seconds);
        self.sleep_after_seconds.apply(&mut spec.idle.sleep_after_seconds);
        set(&mut spec.idle.keep_running, self.keep_running);
        set(&mut spec.idle.keep_warm, self.keep_warm);
        let policy = &mut spec.runtime_policy;
        set(&mut policy.min_running_seconds, self.min_running_seconds);
        set(&mut policy.min_warm_seconds, self.min_warm_seconds);
        set(&mut policy.drain_timeout_seconds, self.drain_timeout_seconds);
        set(&mut policy.graceful_shutdown_seconds, self.graceful_shutdown_seconds);
        set(&mut spec.pinned, self.pinned);
        set(&mut spec.critical, self.critical);
        self.secret_scopes.apply(&mut spec.secret_scopes);
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// A pool after an update.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PoolUpdated {
    /// The pool.
    pub record: PoolRecord,
    /// What a person should know: when it reaches which instances.
    pub notes: Vec<String>,
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
        let result = self.edit_tenant(name, Some(ManagedBy::Local), |spec| update.apply(spec)).await;
        self.audit(name, name, "tenant.update", &result).await;
        result
    }

    /// Changes a tenant for a writer (`None` when ownership was looked at already).
    pub(crate) async fn edit_tenant(
        &self,
        name: &TenantName,
        writer: Option<ManagedBy>,
        edit: impl FnOnce(&mut TenantSpec),
    ) -> Result<TenantRecord> {
        let lock = self.lock_state().await?;
        let before = self.living_tenant(name)?;
        if writer.is_some() {
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
        let result =
            self.edit_pool(path, Some(ManagedBy::Local), |spec| update.apply(spec)).await;
        self.audit(&path.tenant, path, "pool.update", &result).await;
        let record = result?;
        let notes = self.consequences(&before, &record);
        Ok(PoolUpdated { record, notes })
    }

    /// Changes a pool for a writer (`None` when ownership was looked at already).
    pub(crate) async fn edit_pool(
        &self,
        path: &PoolPath,
        writer: Option<ManagedBy>,
        edit: impl FnOnce(&mut PoolSpec),
    ) -> Result<PoolRecord> {
        let _lock = self.lock_state().await?;
        let tenant = self.living_tenant(&path.tenant)?;
        let before = self.pool(path)?;
        if writer.is_some() {
            self.permit(Object::Pool(path.clone()), before.managed_by)?;
        }
        let mut spec = before.spec();
        edit(&mut spec);
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
        let before = (desired::check_quotas(&spec), desired::check_tenants(std::slice::from_ref(&spec)));
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
