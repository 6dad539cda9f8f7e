//! Carrying out a plan: one match over the closed [`Step`], no choices left.
//!
//! ```text
//!  Plan.steps ─► may it start? (nothing before it that it depends on is unfinished)
//!                   │ a few at a time
//!                   ▼
//!               Facilities ── real: the service and its drivers · fake: a host of values (tests)
//!                   │
//!               Pass { done, failed, skipped }
//! ```
//!
//! After a failed step the later ones of that object (instance, pool or tenant) are skipped;
//! everybody else goes on. Steps of one tenant keep the plan's order, but instances of one role
//! come up, or go down, side by side.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mvm_model::desired::{DesiredState, PoolSpec, TenantSpec};
use mvm_model::id::{InstancePath, PoolPath};
use mvm_model::observed::{Observed, Parked};
use mvm_model::record::Millis;
use mvm_model::state::Verb;
use mvm_model::{InstanceName, Offset, TenantName};
use mvm_plan::{Ensure, Plan, Step, Why, rank};

use crate::error::{Error, Kind, Result};

/// What the executor calls. Everything may be called again after a crash anywhere in it.
pub(crate) trait Facilities: Sync {
    /// The time, milliseconds since the epoch.
    fn now(&self) -> Millis;
    /// Looks at the host.
    fn observe(&self) -> impl Future<Output = Result<Observed>> + Send;
    /// Waits until nobody is at any of these instances, or this does not go on.
    fn await_free(
        &self,
        instances: &[InstancePath],
        goes_on: &(dyn Fn() -> bool + Sync),
    ) -> impl Future<Output = ()> + Send;
    /// Settles what an interrupted transition left.
    fn settle(&self, instance: &InstancePath) -> impl Future<Output = Result<()>> + Send;
    /// Takes an instance through a transition; what it parks, it parks for this reason.
    fn change(
        &self,
        instance: &InstancePath,
        verb: Verb,
        parked: Parked,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Creates an instance, as its pool asks for it under this name.
    fn create(
        &self,
        pool: &PoolPath,
        spec: Option<&PoolSpec>,
        name: Option<&InstanceName>,
        offset: Offset,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Marks a tenant as removed from its declaration.
    fn orphan_tenant(&self, tenant: &TenantName) -> impl Future<Output = Result<()>> + Send;
    /// Marks a pool as removed from its declaration.
    fn orphan_pool(&self, pool: &PoolPath) -> impl Future<Output = Result<()>> + Send;
    /// Removes a tenant with its network.
    fn destroy_tenant(&self, tenant: &TenantName) -> impl Future<Output = Result<()>> + Send;
    /// Removes a pool.
    fn destroy_pool(&self, pool: &PoolPath) -> impl Future<Output = Result<()>> + Send;
    /// Makes a tenant's record and network so.
    fn ensure_tenant(
        &self,
        spec: &TenantSpec,
        what: Ensure,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Makes a pool's record so.
    fn ensure_pool(
        &self,
        pool: &PoolPath,
        spec: &PoolSpec,
        what: Ensure,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Builds a pool's image and makes it current.
    fn build(&self, pool: &PoolPath) -> impl Future<Output = Result<()>> + Send;
}

/// What one pass came to.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    pub(crate) done: Vec<Step>,
    pub(crate) failed: Vec<(Step, Error)>,
    /// Not tried, because an earlier step of the same object failed or time was up.
    pub(crate) skipped: usize,
}

/// A plan with what its execution depends on.
pub(crate) struct Execution<'a, F> {
    pub(crate) facilities: &'a F,
    pub(crate) desired: &'a DesiredState,
    pub(crate) observed: &'a Observed,
    /// How many steps are taken at once.
    pub(crate) lanes: usize,
    /// Asked before each step: whether it is still to be started.
    pub(crate) may_begin: &'a (dyn Fn(&Step) -> bool + Sync),
    /// Told each step before it is taken.
    pub(crate) tell: &'a (dyn Fn(&Step) + Sync),
}

/// How far ahead of the first unfinished step others are looked for.
const WINDOW: usize = 64;

impl<F: Facilities> Execution<'_, F> {
    /// Takes the steps.
    pub(crate) async fn run(&self, plan: &Plan) -> Pass {
        let ranks = self.ranks();
        let items: Vec<Item<'_>> = plan.steps.iter().map(|step| Item::of(step, &ranks)).collect();
        let mut open: Vec<usize> = (0..items.len()).collect();
        let (mut pass, mut failed) = (Pass::default(), Failed::default());
        let (mut running, mut started) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            let mut place = 0;
            while place < open.len().min(WINDOW) && running.len() < self.lanes {
                let index = open[place];
                let item = &items[index];
                let waits = started.contains(&index)
                    || open[..place].iter().any(|before| items[*before].precedes(item));
                if waits {
                    place += 1;
                } else if failed.concerns(item.step) || !(self.may_begin)(item.step) {
                    pass.skipped += 1;
                    open.remove(place);
                } else {
                    started.insert(index);
                    (self.tell)(item.step);
                    running.push(async move { (index, self.take(item.step).await) });
                    place += 1;
                }
            }
            let Some((index, result)) = running.next().await else { return pass };
            open.retain(|other| *other != index);
            let step = items[index].step;
            match result {
                Ok(()) => pass.done.push(step.clone()),
                Err(error) => {
                    failed.add(step);
                    pass.failed.push((step.clone(), error));
                }
            }
        }
    }

    /// The role's place of every pool the plan can be about.
    fn ranks(&self) -> HashMap<PoolPath, usize> {
        let path = |tenant: &TenantName, pool: &PoolSpec| PoolPath {
            tenant: tenant.clone(),
            pool: pool.pool_id.clone(),
        };
        let there = self.observed.tenants.iter().flat_map(|tenant| {
            let name = &tenant.spec.tenant_id;
            tenant.pools.iter().map(move |pool| (path(name, &pool.spec), rank(&pool.spec.role)))
        });
        let asked = self.desired.tenants.iter().flat_map(|tenant| {
            let pools = tenant.pools.iter();
            pools.map(move |pool| (path(&tenant.tenant_id, pool), rank(&pool.role)))
        });
        asked.chain(there).collect()
    }

    async fn take(&self, step: &Step) -> Result<()> {
        let to = self.facilities;
        match step {
            Step::Settle { instance } => to.settle(instance).await,
            Step::OrphanTenant { tenant } => to.orphan_tenant(tenant).await,
            Step::OrphanPool { pool } => to.orphan_pool(pool).await,
            Step::Stop { instance, .. } => to.change(instance, Verb::Stop, Parked::No).await,
            Step::Destroy { instance, .. } => to.change(instance, Verb::Destroy, Parked::No).await,
            Step::Sleep { instance, why } => to.change(instance, Verb::Sleep, parked(*why)).await,
            Step::Warm { instance, why } => to.change(instance, Verb::Warm, parked(*why)).await,
            Step::Wake { instance } | Step::Resume { instance } => {
                to.change(instance, Verb::Wake, Parked::No).await
            }
            Step::Start { instance } => to.change(instance, Verb::Start, Parked::No).await,
            Step::DestroyPool { pool } => to.destroy_pool(pool).await,
            Step::DestroyTenant { tenant } => to.destroy_tenant(tenant).await,
            Step::EnsureTenant { tenant, what } => {
                to.ensure_tenant(self.tenant(tenant)?, *what).await
            }
            Step::EnsurePool { pool, what } => to.ensure_pool(pool, self.pool(pool)?, *what).await,
            Step::BuildImage { pool } => to.build(pool).await,
            Step::Create { pool, name, offset } => {
                to.create(pool, self.pool(pool).ok(), name.as_ref(), *offset).await
            }
        }
    }

    fn tenant(&self, name: &TenantName) -> Result<&TenantSpec> {
        let missing = || Error::new(Kind::Failed, name, "the plan names a tenant nobody desires");
        self.desired.tenant(name).ok_or_else(missing)
    }

    fn pool(&self, path: &PoolPath) -> Result<&PoolSpec> {
        let missing = || Error::new(Kind::Failed, path, "the plan names a pool nobody desires");
        self.tenant(&path.tenant)?.pool(&path.pool).ok_or_else(missing)
    }
}

fn parked(why: Why) -> Parked {
    match why {
        Why::Idle { .. } => Parked::Idle,
        _ => Parked::No,
    }
}

/// Where a step is in the plan's course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// It frees: what comes up on this host waits for it.
    Down,
    /// It makes what others need.
    Make,
    /// It brings up.
    Up,
    /// It parks what was booted for that, which gives back what the next boot needs.
    Park,
}

/// A step with what decides when it may start.
struct Item<'a> {
    step: &'a Step,
    course: Course,
    rank: Option<usize>,
}

impl<'a> Item<'a> {
    fn of(step: &'a Step, ranks: &HashMap<PoolPath, usize>) -> Self {
        let course = match step {
            Step::Warm { why: Why::Parking, .. } | Step::Sleep { why: Why::Parking, .. } => {
                Course::Park
            }
            Step::Wake { .. } | Step::Resume { .. } | Step::Start { .. } | Step::Create { .. } => {
                Course::Up
            }
            Step::EnsureTenant { .. } | Step::EnsurePool { .. } | Step::BuildImage { .. } => {
                Course::Make
            }
            _ => Course::Down,
        };
        let rank = step.pool().and_then(|pool| ranks.get(pool)).copied();
        Self { step, course, rank }
    }

    /// Whether this earlier step has to be finished before `later` starts.
    fn precedes(&self, later: &Item<'_>) -> bool {
        if self.step.tenant() != later.step.tenant() {
            // Tenants share nothing but the host's memory.
            return self.course == Course::Down && later.course == Course::Up;
        }
        match (self.step.instance(), later.step.instance()) {
            (Some(one), Some(other)) if one != other => {
                let alike = self.course == later.course && self.rank == later.rank;
                !alike || self.course == Course::Park
            }
            _ => true,
        }
    }
}

/// What failed in this pass.
#[derive(Default)]
struct Failed {
    instances: BTreeSet<InstancePath>,
    pools: BTreeSet<PoolPath>,
    tenants: BTreeSet<TenantName>,
}

impl Failed {
    fn add(&mut self, step: &Step) {
        match (step.instance(), step.pool()) {
            (Some(instance), _) => drop(self.instances.insert(instance.clone())),
            (None, Some(pool)) => drop(self.pools.insert(pool.clone())),
            (None, None) => drop(self.tenants.insert(step.tenant().clone())),
        }
    }

    fn concerns(&self, step: &Step) -> bool {
        step.instance().is_some_and(|instance| self.instances.contains(instance))
            || step.pool().is_some_and(|pool| self.pools.contains(pool))
            || self.tenants.contains(step.tenant())
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
