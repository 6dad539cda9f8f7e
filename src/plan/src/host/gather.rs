//! Desired × observed: one case per tenant and pool the plan is about.
//!
//! What the desired state does not name has no case and is not touched, unless it prunes; then
//! only what its writer owns, never what is critical or part of mvm, and nothing at all when the
//! document (or the tenant) names nothing.

use std::collections::HashMap;

use mvm_model::TenantName;
use mvm_model::desired::{DesiredState, PoolSpec, TenantSpec};
use mvm_model::id::PoolPath;
use mvm_model::intent;
use mvm_model::name::PoolName;
use mvm_model::observed::{Life, NetState, Observed, ObservedPool, ObservedTenant};
use mvm_model::policy::Protection;
use mvm_model::record::Millis;

use super::{Ending, Planner, PoolCase, TenantCase};
use crate::account::{Account, HostMemory};
use crate::note::{About, Reason};
use crate::slots::{self, Filled, Scene};
use crate::step::{Ensure, Plan, Why};
use crate::terms::{Removal, Terms};

pub(super) fn gather<'a>(
    desired: &'a DesiredState,
    observed: &'a Observed,
    terms: &'a Terms,
    now: Millis,
) -> Planner<'a> {
    let memory = HostMemory::new(observed.guest_mem_mib, &observed.tenants);
    let (tenants, pools, plan) = (Vec::new(), Vec::new(), Plan::default());
    let planner = Planner { plan, memory, tenants, pools, order: terms.order, now };
    let mut gathering = Gathering { planner, desired, terms, now };
    let mut present: HashMap<&TenantName, &ObservedTenant> =
        observed.tenants.iter().map(|tenant| (&tenant.spec.tenant_id, tenant)).collect();
    for spec in &desired.tenants {
        let observed = present.remove(&spec.tenant_id);
        gathering.tenant(spec, observed);
    }
    // In the order they were observed, so that a plan is the same each time.
    for tenant in &observed.tenants {
        if present.contains_key(&tenant.spec.tenant_id) {
            gathering.unknown_tenant(tenant);
        }
    }
    gathering.refuse_empty(!present.is_empty());
    gathering.planner
}

struct Gathering<'a> {
    planner: Planner<'a>,
    desired: &'a DesiredState,
    terms: &'a Terms,
    now: Millis,
}

impl<'a> Gathering<'a> {
    fn refuse_empty(&mut self, unknown: bool) {
        let prunes = self.desired.prune_unknown_tenants && self.desired.tenants.is_empty();
        if prunes && unknown {
            self.planner.note(About::Node, Reason::PrunesNothing);
        }
    }

    fn tenant(&mut self, spec: &'a TenantSpec, observed: Option<&'a ObservedTenant>) {
        let ensure = match observed {
            None if spec.orphaned => return,
            None => Some(Ensure::New),
            Some(observed) => {
                if let Some(reason) = hindrance(spec, observed) {
                    return self.planner.note(About::Tenant(spec.tenant_id.clone()), reason);
                }
                if spec.secrets_hash.is_some() && spec.secrets_hash != observed.spec.secrets_hash {
                    let about = About::Tenant(spec.tenant_id.clone());
                    self.planner.note(about, Reason::OtherSecrets);
                }
                let changed = !observed.spec.same_settings(spec);
                let broken = observed.net == NetState::Broken;
                let what = if changed { Ensure::Changed } else { Ensure::Network };
                (changed || broken).then_some(what)
            }
        };
        let account = observed.map_or_else(|| Account::new(spec.quotas), Account::of);
        let place = self.case(Some(spec), observed, ensure, Ending::Stays, account);
        let mut present: HashMap<&PoolName, &'a ObservedPool> = observed
            .iter()
            .flat_map(|tenant| &tenant.pools)
            .map(|pool| (&pool.spec.pool_id, pool))
            .collect();
        for pool in &spec.pools {
            self.pool(place, spec, pool, present.remove(&pool.pool_id));
        }
        let observed = observed.iter().flat_map(|tenant| &tenant.pools);
        for pool in observed.filter(|pool| present.contains_key(&pool.spec.pool_id)) {
            self.unknown_pool(place, spec, pool);
        }
    }

    fn case(
        &mut self,
        spec: Option<&'a TenantSpec>,
        observed: Option<&'a ObservedTenant>,
        ensure: Option<Ensure>,
        ending: Ending,
        account: Account,
    ) -> usize {
        let case = TenantCase { spec, observed, ensure, ending, account, addresses: None };
        self.planner.tenants.push(case);
        self.planner.tenants.len() - 1
    }

    fn pool(
        &mut self,
        tenant: usize,
        of: &'a TenantSpec,
        spec: &'a PoolSpec,
        observed: Option<&'a ObservedPool>,
    ) {
        let path = PoolPath { tenant: of.tenant_id.clone(), pool: spec.pool_id.clone() };
        let removed = of.orphaned || spec.orphaned;
        let ensure = match observed {
            None if removed => return,
            None => Some(Ensure::New),
            Some(observed) if observed.spec.role != spec.role => {
                let (field, present) = ("role", observed.spec.role.to_string());
                let why = intent::Why::ForLife { field, present, asked: spec.role.to_string() };
                return self.planner.note(About::Pool(path), Reason::ForLife(why));
            }
            Some(observed) => (!observed.spec.same_settings(spec)).then_some(Ensure::Changed),
        };
        let scene = Scene::new(spec, of.pinned, self.terms, self.now);
        let instances = observed.map(|pool| &pool.instances[..]).unwrap_or_default();
        let filled = match removed {
            true => slots::clear(instances, Why::Orphaned, &scene),
            false => slots::fill(spec, instances, &scene),
        };
        let (role, ending) = (&spec.role, Ending::Stays);
        let spec = Some(spec);
        let case = PoolCase { tenant, path, role, spec, observed, ensure, ending, filled };
        self.planner.pools.push(case);
    }

    fn unknown_pool(&mut self, place: usize, of: &'a TenantSpec, pool: &'a ObservedPool) {
        let tenant = &of.tenant_id;
        if of.orphaned {
            return self.removed_pool(place, tenant, of.pinned, pool, Why::Orphaned);
        }
        // A tenant that names no pool says nothing about them.
        if !self.desired.prune_unknown_pools || of.pools.is_empty() {
            return;
        }
        let about = || PoolPath { tenant: tenant.clone(), pool: pool.spec.pool_id.clone() };
        if pool.spec.managed_by != self.terms.writer {
            let reason = Reason::Owned(pool.spec.managed_by);
            return self.planner.note(About::Pool(about()), reason);
        }
        self.removed_pool(place, tenant, of.pinned, pool, Why::Pruned);
    }

    fn unknown_tenant(&mut self, tenant: &'a ObservedTenant) {
        let prunes = self.desired.prune_unknown_tenants && !self.desired.tenants.is_empty();
        if !prunes || tenant.life == Life::Builtin {
            return;
        }
        let (spec, about) = (&tenant.spec, About::Tenant(tenant.spec.tenant_id.clone()));
        if tenant.life == Life::Destroying {
            return self.planner.note(about, Reason::Destroying);
        }
        if spec.managed_by != self.terms.writer {
            return self.planner.note(about, Reason::Owned(spec.managed_by));
        }
        let critical = tenant.pools.iter().any(|pool| pool.spec.critical);
        let ending = if critical { Ending::Stays } else { self.ending(spec.orphaned) };
        let place = self.case(None, Some(tenant), None, ending, Account::of(tenant));
        for pool in &tenant.pools {
            self.removed_pool(place, &spec.tenant_id, spec.pinned, pool, Why::Pruned);
        }
    }

    /// A pool that is taken down. A critical one is left alone altogether.
    fn removed_pool(
        &mut self,
        tenant: usize,
        of: &TenantName,
        tenant_pinned: bool,
        pool: &'a ObservedPool,
        why: Why,
    ) {
        let path = PoolPath { tenant: of.clone(), pool: pool.spec.pool_id.clone() };
        if pool.spec.critical {
            let reason = Reason::Protected(Protection::Critical);
            return self.planner.note(About::Pool(path), reason);
        }
        let scene = Scene::new(&pool.spec, tenant_pinned, self.terms, self.now);
        let filled: Filled<'a> = slots::clear(&pool.instances, why, &scene);
        let ending = match why {
            Why::Pruned => self.ending(pool.spec.orphaned),
            // Its tenant says it already.
            _ => Ending::Stays,
        };
        let (role, observed) = (&pool.spec.role, Some(pool));
        let case =
            PoolCase { tenant, path, role, spec: None, observed, ensure: None, ending, filled };
        self.planner.pools.push(case);
    }

    fn ending(&self, orphaned: bool) -> Ending {
        match self.terms.removal {
            Removal::DeleteData => Ending::Destroyed,
            Removal::KeepData if orphaned => Ending::Stays,
            Removal::KeepData => Ending::Orphaned,
        }
    }
}

/// Why nothing can be done for a tenant.
fn hindrance(spec: &TenantSpec, observed: &ObservedTenant) -> Option<Reason> {
    if observed.life != Life::Living {
        return Some(Reason::Destroying);
    }
    let (present, asked) = (observed.spec.network, spec.network);
    let differs = |field, present: String, asked: String| {
        let why = intent::Why::ForLife { field, present, asked };
        Some(Reason::ForLife(why))
    };
    if present.tenant_net_id != asked.tenant_net_id {
        let (present, asked) = (present.tenant_net_id.to_string(), asked.tenant_net_id.to_string());
        return differs("net id", present, asked);
    }
    if present.ipv4_subnet != asked.ipv4_subnet {
        let (present, asked) = (present.ipv4_subnet.to_string(), asked.ipv4_subnet.to_string());
        return differs("subnet", present, asked);
    }
    None
}
