//! A host of values that does what steps say, slowly enough to be interrupted anywhere, and
//! objects to every step that makes no sense in its state or exceeds a quota.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mvm_model::desired::{PoolSpec, TenantSpec};
use mvm_model::id::{InstancePath, InstanceRef, PoolPath};
use mvm_model::observed::{
    Failure, ImageState, Motion, NetState, Observed, ObservedInstance, ObservedPool,
    ObservedTenant, Parked,
};
use mvm_model::record::Millis;
use mvm_model::resources::Resources;
use mvm_model::state::{Status, Transition, Verb};
use mvm_model::{Digest, InstanceId, InstanceName, Offset, TenantName};
use mvm_plan::Ensure;

use super::Facilities;
use crate::error::{Error, Kind, Result};

/// What the host's clock says.
pub(crate) const NOW: Millis = 10_000_000_000;

/// How often a step gives others the word before it is done.
const MOMENTS: usize = 3;

/// A host of values.
pub(crate) struct Fake {
    host: Mutex<Observed>,
    /// Tenants in which every step fails, and as what.
    pub(crate) broken: BTreeMap<TenantName, Kind>,
    /// How many of the next instances somebody else is quicker to create.
    pub(crate) rivals: AtomicU32,
    next: AtomicU32,
    /// What began and ended, in order: `+start acme/workers/i-…`, `-start …`.
    pub(crate) log: Mutex<Vec<String>>,
}

impl Fake {
    pub(crate) fn new(host: Observed) -> Self {
        let (host, log) = (Mutex::new(host), Mutex::new(Vec::new()));
        let (broken, rivals) = (BTreeMap::new(), AtomicU32::new(0));
        Self { host, broken, rivals, next: AtomicU32::new(1 << 24), log }
    }

    pub(crate) fn host(&self) -> MutexGuard<'_, Observed> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, text: String) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    async fn take_time(&self, tenant: &TenantName) -> Result<()> {
        for _ in 0..MOMENTS {
            tokio::task::yield_now().await;
        }
        match self.broken.get(tenant) {
            Some(kind) => Err(Error::new(*kind, tenant, "broken on purpose")),
            None => Ok(()),
        }
    }

    fn with<T>(&self, path: &InstancePath, act: impl FnOnce(&mut ObservedInstance) -> T) -> T {
        let mut host = self.host();
        let InstanceRef::Id(id) = path.instance else { panic!("steps name ids") };
        let mut all = host
            .tenants
            .iter_mut()
            .flat_map(|tenant| tenant.pools.iter_mut().flat_map(|pool| pool.instances.iter_mut()));
        act(all.find(|one| one.instance_id == id).expect("the instance exists"))
    }

    /// Nobody holds more than their quota, whatever is on its way.
    fn check_quotas(&self) {
        for tenant in &self.host().tenants {
            let (usage, quotas) = (tenant.usage(), tenant.spec.quotas);
            assert!(usage.running <= quotas.max_running, "{}: {usage:?}", tenant.spec.tenant_id);
            assert!(usage.mem_mib <= quotas.max_mem_mib, "{}: {usage:?}", tenant.spec.tenant_id);
        }
    }

    /// What a killed executor left: transitions nobody works on.
    pub(crate) fn abandon(&self) {
        for tenant in &mut self.host().tenants {
            for one in tenant.pools.iter_mut().flat_map(|pool| &mut pool.instances) {
                if let Motion::Moving(transition) = &one.motion {
                    one.motion = Motion::Interrupted(transition.clone());
                }
            }
        }
    }
}

fn tenant_mut<'a>(host: &'a mut Observed, name: &TenantName) -> &'a mut ObservedTenant {
    let mut tenants = host.tenants.iter_mut();
    tenants.find(|tenant| tenant.spec.tenant_id == *name).expect("the tenant exists")
}

fn pool_mut<'a>(host: &'a mut Observed, path: &PoolPath) -> &'a mut ObservedPool {
    let mut pools = tenant_mut(host, &path.tenant).pools.iter_mut();
    pools.find(|pool| pool.spec.pool_id == path.pool).expect("the pool exists")
}

/// Which transition a verb is in a status, and what it leads to; `None` when it makes no sense.
fn course(verb: Verb, status: Status) -> Option<(Transition, Option<Status>)> {
    use Status::{Created, Failed, Running, Sleeping, Stopped, Warm};
    Some(match (verb, status) {
        (Verb::Start, Created | Stopped | Failed) => (Transition::Starting, Some(Running)),
        (Verb::Wake, Warm) => (Transition::Resuming, Some(Running)),
        (Verb::Wake, Sleeping) => (Transition::Waking { generation: 1 }, Some(Running)),
        (Verb::Warm, Running) => (Transition::Warming, Some(Warm)),
        (Verb::Sleep, Running | Warm) => (Transition::Sleeping { generation: 1 }, Some(Sleeping)),
        (Verb::Stop, Running | Warm | Sleeping) => (Transition::Stopping, Some(Stopped)),
        (Verb::Destroy, Created | Stopped | Failed) => (Transition::Destroying, None),
        _ => return None,
    })
}

impl Facilities for Fake {
    fn now(&self) -> Millis {
        NOW
    }

    async fn observe(&self) -> Result<Observed> {
        tokio::task::yield_now().await;
        Ok(self.host().clone())
    }

    async fn await_free(&self, instances: &[InstancePath], goes_on: &(dyn Fn() -> bool + Sync)) {
        assert!(goes_on());
        for instance in instances {
            self.with(instance, |one| {
                one.status = one.heading().expect("nobody destroys it");
                one.motion = Motion::Still;
            });
        }
    }

    async fn settle(&self, instance: &InstancePath) -> Result<()> {
        self.take_time(&instance.pool.tenant).await?;
        let gone = self.with(instance, |one| {
            let heading = one.heading();
            one.motion = Motion::Still;
            one.status = heading.unwrap_or(Status::Stopped);
            heading.is_none()
        });
        if gone {
            let mut host = self.host();
            let InstanceRef::Id(id) = instance.instance else { panic!("steps name ids") };
            pool_mut(&mut host, &instance.pool).instances.retain(|one| one.instance_id != id);
        }
        Ok(())
    }

    async fn change(&self, instance: &InstancePath, verb: Verb, parked: Parked) -> Result<()> {
        let to = self.with(instance, |one| {
            assert_eq!(one.motion, Motion::Still, "{verb} {instance}");
            let (transition, to) = course(verb, one.status)
                .unwrap_or_else(|| panic!("{verb} of {instance}: {}", one.status));
            one.motion = Motion::Moving(transition);
            to
        });
        self.note(format!("+{verb} {instance}"));
        self.check_quotas();
        let result = self.take_time(&instance.pool.tenant).await;
        self.note(format!("-{verb} {instance}"));
        if let Err(error) = result {
            self.with(instance, |one| {
                let count = one.failure.map_or(1, |failure| failure.count + 1);
                (one.motion, one.failure) = (Motion::Still, Some(Failure { count, at: NOW }));
            });
            return Err(error);
        }
        match to {
            Some(status) => self.with(instance, |one| {
                (one.motion, one.status, one.parked) = (Motion::Still, status, parked);
                one.failure = None;
            }),
            None => {
                let InstanceRef::Id(id) = instance.instance else { panic!("steps name ids") };
                let mut host = self.host();
                pool_mut(&mut host, &instance.pool).instances.retain(|one| one.instance_id != id);
            }
        }
        Ok(())
    }

    async fn create(
        &self,
        pool: &PoolPath,
        _: Option<&PoolSpec>,
        name: Option<&InstanceName>,
        offset: Offset,
    ) -> Result<()> {
        self.take_time(&pool.tenant).await?;
        let mut host = self.host();
        let taken = tenant_mut(&mut host, &pool.tenant).instances().any(|one| one.offset == offset);
        assert!(!taken, "offset {offset} is leased twice");
        let path = pool;
        let pool = pool_mut(&mut host, path);
        let id = InstanceId::from_bits(self.next.fetch_add(1, Ordering::Relaxed));
        let mut one = instance(id, Status::Created, pool.spec.instance_resources);
        (one.name, one.offset, one.role) = (name.cloned(), offset, pool.spec.role.clone());
        pool.instances.push(one);
        let relaxed = Ordering::Relaxed;
        match self.rivals.fetch_update(relaxed, relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Err(Error::new(Kind::Conflict, path, "somebody was quicker")),
            Err(_) => Ok(()),
        }
    }

    async fn orphan_tenant(&self, tenant: &TenantName) -> Result<()> {
        self.take_time(tenant).await?;
        tenant_mut(&mut self.host(), tenant).spec.orphaned = true;
        Ok(())
    }

    async fn orphan_pool(&self, pool: &PoolPath) -> Result<()> {
        self.take_time(&pool.tenant).await?;
        pool_mut(&mut self.host(), pool).spec.orphaned = true;
        Ok(())
    }

    async fn destroy_tenant(&self, tenant: &TenantName) -> Result<()> {
        self.take_time(tenant).await?;
        self.host().tenants.retain(|other| other.spec.tenant_id != *tenant);
        Ok(())
    }

    async fn destroy_pool(&self, pool: &PoolPath) -> Result<()> {
        self.take_time(&pool.tenant).await?;
        let mut host = self.host();
        assert!(pool_mut(&mut host, pool).instances.is_empty());
        tenant_mut(&mut host, &pool.tenant).pools.retain(|other| other.spec.pool_id != pool.pool);
        Ok(())
    }

    async fn ensure_tenant(&self, spec: &TenantSpec, _: Ensure) -> Result<()> {
        self.take_time(&spec.tenant_id).await?;
        let mut host = self.host();
        match host.tenants.iter_mut().find(|known| known.spec.tenant_id == spec.tenant_id) {
            Some(known) => (known.spec, known.net) = (spec.without_pools(), NetState::Ready),
            None => host.tenants.push(ObservedTenant::new(spec.without_pools())),
        }
        Ok(())
    }

    async fn ensure_pool(&self, path: &PoolPath, spec: &PoolSpec, _: Ensure) -> Result<()> {
        self.take_time(&path.tenant).await?;
        let mut host = self.host();
        let pools = &mut tenant_mut(&mut host, &path.tenant).pools;
        match pools.iter_mut().find(|known| known.spec.pool_id == path.pool) {
            Some(known) => known.spec = spec.clone(),
            None => pools.push(ObservedPool::new(spec.clone())),
        }
        Ok(())
    }

    async fn build(&self, pool: &PoolPath) -> Result<()> {
        self.take_time(&pool.tenant).await?;
        pool_mut(&mut self.host(), pool).image = ImageState::Ready(Digest::of(b"built"));
        Ok(())
    }
}

/// An instance nothing is special about.
pub(crate) fn instance(id: InstanceId, status: Status, resources: Resources) -> ObservedInstance {
    ObservedInstance {
        instance_id: id,
        name: None,
        role: mvm_model::image::Role::Worker,
        offset: Offset(0),
        resources,
        status,
        motion: Motion::Still,
        since: NOW - 3_600_000,
        manual: None,
        idle_since: None,
        parked: Parked::No,
        failure: None,
        revision: None,
    }
}
