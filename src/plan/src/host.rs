//! The plan of one node.
//!
//! ```text
//!  gather   desired × observed → one case per tenant and pool, its slots filled
//!  settle   what broke off
//!  down     capability → worker → builder → gateway: stop, destroy, sleep, warm
//!  ensure   tenants and their networks, pools, images
//!  up       gateway → builder → worker → capability: wake, resume, start, create
//! ```
//!
//! Removing comes before adding. Every step that takes something (a quota, memory, disk, an
//! address) is admitted against an account that carries what the steps before it left; what is
//! not admitted becomes a note. The time is linear in tenants, pools and instances.

mod down;
mod gather;
mod up;

use mvm_model::desired::{DesiredState, PoolSpec, TenantSpec};
use mvm_model::id::{InstancePath, InstanceRef, PoolPath};
use mvm_model::image::Role;
use mvm_model::observed::{Observed, ObservedInstance, ObservedPool, ObservedTenant};
use mvm_model::record::Millis;
use mvm_model::state::Status;

use crate::account::{Account, Addresses, Held, HostMemory};
use crate::note::{About, Note, Reason};
use crate::slots::{Act, Filled};
use crate::step::{Ensure, Plan, Step};
use crate::terms::{Order, Terms};

/// How many role ranks there are.
const RANKS: usize = 4;

/// Roles in the order they come up.
pub fn rank(role: &Role) -> usize {
    match role {
        Role::Gateway => 0,
        Role::Builder => 1,
        Role::Worker => 2,
        Role::Capability(_) => 3,
    }
}

/// A tenant the plan is about.
struct TenantCase<'a> {
    /// What it should be; `None` when it is pruned.
    spec: Option<&'a TenantSpec>,
    observed: Option<&'a ObservedTenant>,
    ensure: Option<Ensure>,
    ending: Ending,
    account: Account,
    addresses: Option<Addresses>,
}

/// A pool the plan is about.
struct PoolCase<'a> {
    /// Its tenant's place among the cases.
    tenant: usize,
    path: PoolPath,
    role: &'a Role,
    /// What it should be; `None` when it is pruned.
    spec: Option<&'a PoolSpec>,
    observed: Option<&'a ObservedPool>,
    ensure: Option<Ensure>,
    ending: Ending,
    filled: Filled<'a>,
}

/// How a tenant or pool ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It does not.
    Stays,
    /// It is marked; its data stays.
    Orphaned,
    /// It goes with its data.
    Destroyed,
}

/// A plan while it grows.
struct Planner<'a> {
    plan: Plan,
    memory: HostMemory,
    tenants: Vec<TenantCase<'a>>,
    pools: Vec<PoolCase<'a>>,
    order: Order,
    now: Millis,
}

/// What a node has to do, and what waits.
pub fn host(desired: &DesiredState, observed: &Observed, terms: &Terms, now: Millis) -> Plan {
    let mut planner = gather::gather(desired, observed, terms, now);
    planner.mark();
    planner.waits();
    planner.down();
    planner.destroy_emptied();
    planner.ensure();
    planner.build();
    planner.up();
    planner.plan
}

impl<'a> Planner<'a> {
    fn step(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    fn note(&mut self, about: About, reason: Reason) {
        self.plan.notes.push(Note { about, reason });
    }

    /// Settles what broke off, and marks what was removed before anything of it is touched.
    fn mark(&mut self) {
        for place in self.all(|act| *act == Act::Settle) {
            let instance = self.at(place);
            self.step(Step::Settle { instance });
        }
        for tenant in self.tenants.iter().filter(|case| case.ending == Ending::Orphaned) {
            if let Some(observed) = tenant.observed {
                let tenant = observed.spec.tenant_id.clone();
                self.plan.steps.push(Step::OrphanTenant { tenant });
            }
        }
        for pool in self.pools.iter().filter(|case| case.ending == Ending::Orphaned) {
            self.plan.steps.push(Step::OrphanPool { pool: pool.path.clone() });
        }
    }

    /// Notes what the slots already found to wait.
    fn waits(&mut self) {
        for case in &self.pools {
            for entry in &case.filled.entries {
                let reason = match &entry.act {
                    Some(Err(reason)) => reason.clone(),
                    Some(Ok(Act::Settle)) => Reason::Settling,
                    _ => continue,
                };
                let about = About::Instance(path_of(case, entry.instance));
                self.plan.notes.push(Note { about, reason });
            }
            if case.filled.kept > 0 {
                let reason = Reason::KeptData { instances: case.filled.kept };
                let about = About::Pool(case.path.clone());
                self.plan.notes.push(Note { about, reason });
            }
        }
    }

    /// Tenants with their networks and pools, with the quotas that are asked for from here on.
    fn ensure(&mut self) {
        for case in &mut self.tenants {
            let Some(spec) = case.spec else { continue };
            case.account.quotas = spec.quotas;
            if let Some(what) = case.ensure {
                let tenant = spec.tenant_id.clone();
                self.plan.steps.push(Step::EnsureTenant { tenant, what });
            }
        }
        for place in self.in_order() {
            self.ensure_pool(place);
        }
    }

    fn ensure_pool(&mut self, place: usize) {
        let case = &mut self.pools[place];
        let Some(what) = case.ensure else { return };
        let pool = case.path.clone();
        if what == Ensure::New
            && let Err(reason) = self.tenants[case.tenant].account.add_pool()
        {
            // Without the pool nothing can be created in it.
            (case.filled.missing, case.filled.missing_named) = (0, Vec::new());
            return self.note(About::Pool(pool), reason);
        }
        self.step(Step::EnsurePool { pool, what });
    }

    /// The places of the pools, roles in the order they come up.
    fn in_order(&self) -> Vec<usize> {
        (0..RANKS).flat_map(|rank| self.ranked(rank)).collect()
    }

    /// The places of the pools of one rank.
    fn ranked(&self, wanted: usize) -> Vec<usize> {
        let pools = self.pools.iter().enumerate();
        pools.filter(|(_, case)| rank(case.role) == wanted).map(|(place, _)| place).collect()
    }

    /// The places of entries with such an act.
    fn all(&self, which: impl Fn(&Act) -> bool) -> Vec<(usize, usize)> {
        (0..self.pools.len()).flat_map(|pool| self.some(pool, &which)).collect()
    }

    /// The places of entries of one pool with such an act.
    fn some(&self, pool: usize, which: impl Fn(&Act) -> bool) -> Vec<(usize, usize)> {
        let entries = self.pools[pool].filled.entries.iter().enumerate();
        entries
            .filter(|(_, entry)| matches!(&entry.act, Some(Ok(act)) if which(act)))
            .map(|(entry, _)| (pool, entry))
            .collect()
    }

    fn instance(&self, (pool, entry): (usize, usize)) -> &'a ObservedInstance {
        self.pools[pool].filled.entries[entry].instance
    }

    fn act(&self, (pool, entry): (usize, usize)) -> Option<Act> {
        match self.pools[pool].filled.entries[entry].act {
            Some(Ok(act)) => Some(act),
            _ => None,
        }
    }

    fn at(&self, place: (usize, usize)) -> InstancePath {
        path_of(&self.pools[place.0], self.instance(place))
    }

    /// Moves an instance in the accounts if that is admitted, else notes why not.
    fn shift(&mut self, place: (usize, usize), from: Held, to: Held) -> bool {
        let given = self.instance(place).resources;
        let account = &mut self.tenants[self.pools[place.0].tenant].account;
        match account.admit(&self.memory, given, from, to) {
            Ok(()) => {
                account.shift(&mut self.memory, given, from, to);
                true
            }
            Err(reason) => {
                let about = About::Instance(self.at(place));
                self.note(about, reason);
                false
            }
        }
    }
}

fn path_of(case: &PoolCase<'_>, instance: &ObservedInstance) -> InstancePath {
    InstancePath { pool: case.path.clone(), instance: InstanceRef::Id(instance.instance_id) }
}

fn held(status: Status) -> Held {
    match status {
        Status::Running => Held::Running,
        Status::Warm => Held::Warm,
        Status::Sleeping => Held::Asleep,
        Status::Created | Status::Stopped | Status::Failed => Held::Off,
    }
}

#[cfg(test)]
mod tests;
