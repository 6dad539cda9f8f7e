//! A host that does what steps say, checking each against what it may be asked in that state.

use mvm_model::desired::{DesiredState, Wanted};
use mvm_model::id::{InstancePath, InstanceRef};
use mvm_model::observed::{
    ImageState, Motion, NetState, Observed, ObservedInstance, ObservedPool, ObservedTenant, Parked,
};
use mvm_model::record::Millis;
use mvm_model::state::Status;
use mvm_model::{Digest, InstanceId, TenantName};

use crate::{Plan, Step, Terms, Why, host};

pub(crate) struct Sim {
    pub(crate) host: Observed,
    next_id: u32,
}

impl Sim {
    pub(crate) fn new(host: Observed) -> Self {
        Self { host, next_id: 1 << 20 }
    }

    pub(crate) fn tenant(&mut self, name: &TenantName) -> &mut ObservedTenant {
        let mut tenants = self.host.tenants.iter_mut();
        tenants.find(|tenant| tenant.spec.tenant_id == *name).expect("the tenant exists")
    }

    fn pool(&mut self, path: &mvm_model::PoolPath) -> &mut ObservedPool {
        let mut pools = self.tenant(&path.tenant).pools.iter_mut();
        pools.find(|pool| pool.spec.pool_id == path.pool).expect("the pool exists")
    }

    pub(crate) fn instance(&mut self, path: &InstancePath) -> &mut ObservedInstance {
        let InstanceRef::Id(id) = path.instance else { panic!("steps name ids") };
        let mut instances = self.pool(&path.pool).instances.iter_mut();
        instances.find(|instance| instance.instance_id == id).expect("the instance exists")
    }

    fn turn(&mut self, path: &InstancePath, from: &[Status], to: Status, parked: Parked) {
        let instance = self.instance(path);
        assert!(
            from.contains(&instance.status),
            "{path} is {} on its way to {to}",
            instance.status
        );
        assert_eq!(instance.motion, Motion::Still);
        (instance.status, instance.parked) = (to, parked);
    }

    /// Does one step.
    pub(crate) fn execute(&mut self, desired: &DesiredState, step: &Step) {
        use Status::{Created, Failed, Running, Sleeping, Stopped, Warm};
        let parked = |why: &Why| match why {
            Why::Idle { .. } => Parked::Idle,
            _ => Parked::No,
        };
        match step {
            Step::Settle { instance } => {
                let instance = self.instance(instance);
                instance.status = instance.heading().unwrap_or(Stopped);
                instance.motion = Motion::Still;
            }
            Step::OrphanTenant { tenant } => self.tenant(tenant).spec.orphaned = true,
            Step::OrphanPool { pool } => self.pool(pool).spec.orphaned = true,
            Step::Stop { instance, .. } => {
                self.turn(instance, &[Running, Warm, Sleeping], Stopped, Parked::No);
            }
            Step::Destroy { instance, .. } => {
                let InstanceRef::Id(id) = instance.instance else { panic!("steps name ids") };
                let status = self.instance(instance).status;
                assert!(matches!(status, Created | Stopped | Failed), "{instance} is {status}");
                self.pool(&instance.pool).instances.retain(|other| other.instance_id != id);
            }
            Step::Sleep { instance, why } => {
                self.turn(instance, &[Running, Warm], Sleeping, parked(why));
            }
            Step::Warm { instance, why } => self.turn(instance, &[Running], Warm, parked(why)),
            Step::Wake { instance } => self.turn(instance, &[Sleeping], Running, Parked::No),
            Step::Resume { instance } => self.turn(instance, &[Warm], Running, Parked::No),
            Step::Start { instance } => {
                self.turn(instance, &[Created, Stopped, Failed], Running, Parked::No);
                assert!(matches!(self.pool(&instance.pool).image, ImageState::Ready(_)));
            }
            _ => self.execute_for_objects(desired, step),
        }
    }

    fn execute_for_objects(&mut self, desired: &DesiredState, step: &Step) {
        match step {
            Step::DestroyPool { pool } => {
                assert!(self.pool(pool).instances.is_empty());
                let tenant = self.tenant(&pool.tenant);
                tenant.pools.retain(|other| other.spec.pool_id != pool.pool);
            }
            Step::DestroyTenant { tenant } => {
                assert!(self.tenant(tenant).pools.is_empty());
                self.host.tenants.retain(|other| other.spec.tenant_id != *tenant);
            }
            Step::EnsureTenant { tenant, .. } => {
                let spec = desired.tenant(tenant).expect("it is desired").without_pools();
                match self.host.tenants.iter_mut().find(|t| t.spec.tenant_id == *tenant) {
                    Some(known) => (known.spec, known.net) = (spec, NetState::Ready),
                    None => self.host.tenants.push(ObservedTenant::new(spec)),
                }
            }
            Step::EnsurePool { pool, .. } => {
                let spec = desired.tenant(&pool.tenant).and_then(|t| t.pool(&pool.pool));
                let spec = spec.expect("it is desired").clone();
                let pools = &mut self.tenant(&pool.tenant).pools;
                match pools.iter_mut().find(|known| known.spec.pool_id == pool.pool) {
                    Some(known) => known.spec = spec,
                    None => pools.push(ObservedPool::new(spec)),
                }
            }
            Step::BuildImage { pool } => {
                self.pool(pool).image = ImageState::Ready(Digest::of(b"built"));
            }
            Step::Create { pool, name, offset } => {
                let leased = self.tenant(&pool.tenant).instances().any(|i| i.offset == *offset);
                assert!(!leased, "offset {offset} is leased twice");
                self.next_id += 1;
                let id = InstanceId::from_bits(self.next_id);
                let pool = self.pool(pool);
                pool.instances.push(ObservedInstance {
                    instance_id: id,
                    name: name.clone(),
                    role: pool.spec.role.clone(),
                    offset: *offset,
                    resources: pool.spec.instance_resources,
                    ..super::instance(0, Status::Created)
                });
            }
            _ => unreachable!("{step} is about an instance"),
        }
    }

    /// Plans and executes until there is nothing to do; the number of passes that took.
    pub(crate) fn reconcile(&mut self, desired: &DesiredState, terms: &Terms, now: Millis) -> Plan {
        for _ in 0..12 {
            let plan = host(desired, &self.host, terms, now);
            if plan.is_empty() {
                return plan;
            }
            for step in &plan.steps {
                self.execute(desired, step);
            }
        }
        panic!("no end of steps: {:?}", host(desired, &self.host, terms, now).steps);
    }

    /// How many of a pool's unnamed instances have each status that was asked for.
    pub(crate) fn counts(&self, tenant: usize, pool: usize) -> [u32; 3] {
        let pool = &self.host.tenants[tenant].pools[pool];
        [Wanted::Running, Wanted::Warm, Wanted::Sleeping].map(|wanted| {
            let unnamed = pool.instances.iter().filter(|instance| instance.name.is_none());
            unnamed.filter(|instance| instance.status == wanted.status()).count() as u32
        })
    }
}
