//! What the executor calls on a real host: the service and its instance drivers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mvm_host::progress::Progress;
use mvm_model::desired::{InstanceSpec, PoolSpec, TenantSpec};
use mvm_model::id::{InstancePath, PoolPath};
use mvm_model::intent::Object;
use mvm_model::observed::{Observed, Parked};
use mvm_model::record::Millis;
use mvm_model::state::Verb;
use mvm_model::{InstanceName, Offset, TenantName};
use mvm_plan::Ensure;
use tokio::sync::Mutex;

use crate::build::SharedSink;
use crate::driver::Asker;
use crate::error::{About, Error, Kind, Result};
use crate::execute::Facilities;
use crate::network::port_of;
use crate::observed::Nets;
use crate::pool::Draft;
use crate::records::Problem;
use crate::service::{Service, now};
use crate::tenant::net_of;

/// How often is looked whether what drains is still visited, and what is busy still is.
const LOOK: Duration = Duration::from_millis(100);

/// The real host.
pub(crate) struct Real {
    pub(crate) service: Service,
    pub(crate) progress: SharedSink,
    pub(crate) cancel: Arc<AtomicBool>,
    /// The networks, as long as nothing of ours changed them since they were looked at.
    nets: Mutex<Option<Nets>>,
    /// What could not be read when the host was last looked at.
    pub(crate) problems: Mutex<Vec<Problem>>,
    /// When the host was last looked at: from then on what goes down drains.
    looked: Mutex<Instant>,
}

impl Real {
    pub(crate) fn new(service: Service, progress: SharedSink, cancel: Arc<AtomicBool>) -> Self {
        let (nets, problems) = (Mutex::new(None), Mutex::new(Vec::new()));
        let looked = Mutex::new(Instant::now());
        Self { service, progress, cancel, nets, problems, looked }
    }

    /// Lets what people have open in an instance's guest end before a plan takes it down: for as
    /// long as its pool says, counted from the plan, so that many drain in the time of one.
    /// Somebody came to what was to be parked as idle: then it is not.
    async fn drain(&self, instance: &InstancePath, parked: Parked) -> Result<()> {
        let record = self.service.instance(instance)?;
        let policy = self.service.pool(&record.pool_path())?.runtime_policy;
        let deadline =
            *self.looked.lock().await + Duration::from_secs(policy.drain_timeout_seconds);
        while self.service.is_visited(&record) {
            if parked == Parked::Idle {
                let text = format!("somebody has something open in {instance} now");
                return Err(Error::new(Kind::Busy, instance, text)
                    .hint("it is parked when it is idle again"));
            }
            if Instant::now() >= deadline || self.cancel.load(Ordering::SeqCst) {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn nets(&self) -> Result<Nets> {
        let mut known = self.nets.lock().await;
        match &*known {
            Some(nets) => Ok(nets.clone()),
            None => Ok(known.insert(self.service.look_at_nets().await?).clone()),
        }
    }

    /// Makes a tenant's bridge and rules, and the taps of its instances that have a VM.
    async fn repair(&self, tenant: &TenantName) -> Result<()> {
        let service = &self.service;
        let record = service.living_tenant(tenant)?;
        let net = service.net().await?;
        let doing = "repair its network";
        net.ensure_tenant(&net_of(&record)).await.about(tenant, doing)?;
        for instance in service.records.tenant_instances(tenant).records {
            if service.state_now(&instance).vm().is_some() {
                let port = port_of(&instance, record.network.ipv4_subnet);
                net.ensure_port(&port).await.about(instance.path(), doing)?;
            }
        }
        service.refresh_dns().await
    }
}

impl Facilities for Real {
    fn now(&self) -> Millis {
        now()
    }

    async fn observe(&self) -> Result<Observed> {
        // The kernel lists the rules while the records are read.
        *self.looked.lock().await = Instant::now();
        let (nets, sight) = tokio::join!(self.nets(), async { self.service.look(now()) });
        let sight = sight.with(&nets?);
        *self.problems.lock().await = sight.problems;
        Ok(sight.observed)
    }

    async fn await_free(&self, instances: &[InstancePath], goes_on: &(dyn Fn() -> bool + Sync)) {
        // Looked at, since a wait for the lock itself could not be given up.
        let is_busy = |one: &InstancePath| {
            self.service.instance(one).is_ok_and(|it| self.service.is_busy(&it))
        };
        let mut told = None;
        while goes_on()
            && let Some(busy) = instances.iter().find(|one| is_busy(one))
        {
            if told.replace(busy) != Some(busy) {
                let what = format!("wait for who is at {busy}");
                (self.progress)(Progress { what, done: 0, total: None });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn settle(&self, instance: &InstancePath) -> Result<()> {
        match self.service.settle_instance(instance, &self.cancel).await {
            // It was on its way out, and now it is.
            Err(error) if error.kind == Kind::NotFound => Ok(()),
            other => other,
        }
    }

    async fn change(&self, instance: &InstancePath, verb: Verb, parked: Parked) -> Result<()> {
        if verb == Verb::Destroy {
            return self.service.remove_instance(instance).await;
        }
        if matches!(verb, Verb::Stop | Verb::Sleep | Verb::Warm) {
            self.drain(instance, parked).await?;
        }
        let asker = Asker::Plan(parked);
        match self.service.change_for(asker, instance, verb, &self.cancel).await {
            // Somebody was quicker: what is gone is off.
            Err(error) if error.kind == Kind::NotFound && verb == Verb::Stop => Ok(()),
            other => other.map(drop),
        }
    }

    async fn create(
        &self,
        pool: &PoolPath,
        spec: Option<&PoolSpec>,
        name: Option<&InstanceName>,
        offset: Offset,
    ) -> Result<()> {
        let asked = spec.into_iter().flat_map(PoolSpec::named);
        let named = name.map(|name| {
            let known = asked.clone().find(|asked| asked.name == *name).cloned();
            let known = known.unwrap_or_else(|| InstanceSpec::new(name.clone()));
            InstanceSpec { offset: Some(offset), ..known }
        });
        let draft = named.as_ref().map_or(Draft::Unnamed(Some(offset)), Draft::Named);
        let result = self.service.create_drafted(pool, draft).await;
        self.service.audit_created(pool, &result).await;
        result.map(drop)
    }

    async fn orphan_tenant(&self, tenant: &TenantName) -> Result<()> {
        let result = self.service.orphan_tenant(tenant).await;
        self.service.audit(tenant, tenant, "tenant.orphan", &result).await;
        result
    }

    async fn orphan_pool(&self, pool: &PoolPath) -> Result<()> {
        let result = self.service.orphan_pool(pool).await;
        self.service.audit(&pool.tenant, pool, "pool.orphan", &result).await;
        result
    }

    async fn destroy_tenant(&self, tenant: &TenantName) -> Result<()> {
        self.nets.lock().await.take();
        self.service.remove_tenant(tenant).await
    }

    async fn destroy_pool(&self, pool: &PoolPath) -> Result<()> {
        self.service.remove_pool(pool).await
    }

    async fn ensure_tenant(&self, spec: &TenantSpec, what: Ensure) -> Result<()> {
        self.nets.lock().await.take();
        let name = &spec.tenant_id;
        match what {
            // The desired state is made of the records: one is missing or differs only while
            // somebody changes it, and the next look sees what they made of it.
            Ensure::New => Err(gone(Object::Tenant(name.clone()))),
            Ensure::Changed => Ok(()),
            Ensure::Network => {
                let result = self.repair(name).await;
                self.service.audit(name, name, "tenant.repair", &result).await;
                result
            }
        }
    }

    async fn ensure_pool(&self, pool: &PoolPath, _: &PoolSpec, what: Ensure) -> Result<()> {
        match what {
            Ensure::New => Err(gone(Object::Pool(pool.clone()))),
            Ensure::Changed | Ensure::Network => Ok(()),
        }
    }

    async fn build(&self, pool: &PoolPath) -> Result<()> {
        let (progress, cancel) = (self.progress.clone(), self.cancel.clone());
        let built = self.service.build_pool(pool, progress, cancel).await;
        built.map(drop).inspect_err(|error| {
            let record = self.service.records.pool(pool).ok().flatten();
            if let Some(record) = record.filter(|_| error.kind != Kind::Interrupted) {
                self.service.note_build(&record, error, now());
            }
        })
    }
}

fn gone(object: Object) -> Error {
    Error::new(Kind::NotFound, object.path(), format!("{object} was destroyed meanwhile"))
}
