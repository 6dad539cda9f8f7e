//! Up: what wakes, resumes, boots and is created, the entry of a tenant first.

use std::collections::HashSet;

use mvm_model::desired::InstanceSpec;
use mvm_model::id::PoolPath;
use mvm_model::observed::ImageState;

use super::{Planner, RANKS};
use crate::account::{Addresses, Held};
use crate::note::{About, Reason};
use crate::slots::{Act, Then};
use crate::step::{Step, Why};
use crate::terms::Order;

/// How long a failed build is not tried again, milliseconds.
const BUILD_BACKOFF: u64 = 300_000;

impl Planner<'_> {
    /// Builds the images boots wait for. The boots follow in the next plan.
    pub(super) fn build(&mut self) {
        for place in self.in_order() {
            let waits = !self.some(place, |act| matches!(act, Act::Start(_))).is_empty();
            let case = &self.pools[place];
            let Some(observed) = case.observed.filter(|_| waits) else { continue };
            let pool = case.path.clone();
            match &observed.image {
                ImageState::Ready(_) => {}
                ImageState::Failed { at, reason }
                    if *at <= self.now && self.now - at < BUILD_BACKOFF =>
                {
                    let (reason, until) = (reason.clone(), at + BUILD_BACKOFF);
                    self.note(About::Pool(pool), Reason::BuildFailed { reason, until });
                }
                ImageState::Missing | ImageState::Failed { .. } => {
                    self.step(Step::BuildImage { pool: pool.clone() });
                    self.note(About::Pool(pool), Reason::NotBuilt);
                }
            }
        }
    }

    /// Per role: wake, resume, start, create. What is built or created of an earlier role boots
    /// in the next plan; the later roles of that tenant wait for it.
    pub(super) fn up(&mut self) {
        let mut waits = vec![false; self.tenants.len()];
        for rank in 0..RANKS {
            let (all, before) = (self.ranked(rank), self.plan.steps.len());
            let is_next = |pool: &usize| !waits[self.pools[*pool].tenant];
            let pools: Vec<usize> = all.iter().copied().filter(is_next).collect();
            for pool in &pools {
                self.wake(*pool);
            }
            for pool in &pools {
                self.resume(*pool);
            }
            self.start(&pools);
            for pool in &all {
                self.create(*pool);
            }
            if self.order == Order::Strict {
                self.wait_for_new(&all, before, &mut waits);
            }
        }
    }

    /// Marks the tenants in which something of these pools is built or created by this plan.
    fn wait_for_new(&self, pools: &[usize], since: usize, waits: &mut [bool]) {
        let created = self.plan.steps[since..].iter();
        let created = created.filter(|step| matches!(step, Step::Create { .. }));
        let built = self.plan.steps[..since].iter();
        let built = built.filter(|step| matches!(step, Step::BuildImage { .. }));
        let new: HashSet<&PoolPath> = created.chain(built).filter_map(Step::pool).collect();
        for pool in pools.iter().map(|place| &self.pools[*place]) {
            waits[pool.tenant] |= new.contains(&pool.path);
        }
    }

    fn wake(&mut self, pool: usize) {
        for place in self.some(pool, |act| matches!(act, Act::Wake(_))) {
            let Some(Act::Wake(then)) = self.act(place) else { continue };
            self.boot(place, Held::Asleep, then);
        }
    }

    fn resume(&mut self, pool: usize) {
        for place in self.some(pool, |act| *act == Act::Resume) {
            if self.shift(place, Held::Warm, Held::Running) {
                let instance = self.at(place);
                self.step(Step::Resume { instance });
            }
        }
    }

    /// Boots, tenant by tenant. Where the ones that are to run would leave no room to boot one
    /// that is to be parked, those to be parked go first: they give the room back.
    fn start(&mut self, pools: &[usize]) {
        let tenant_of = |pool: &usize| self.pools[*pool].tenant;
        let same = |a: &usize, b: &usize| tenant_of(a) == tenant_of(b);
        let by_tenant: Vec<&[usize]> = pools.chunk_by(same).collect();
        for of_tenant in by_tenant {
            let (mut runs, mut parks) = (Vec::new(), Vec::new());
            for pool in of_tenant.iter().filter(|pool| self.is_built(**pool)) {
                runs.extend(self.some(*pool, |act| *act == Act::Start(Then::Run)));
                parks.extend(
                    self.some(*pool, |act| matches!(act, Act::Start(Then::Warm | Then::Sleep))),
                );
            }
            let order = if self.leaves_room(&runs, &parks) { [runs, parks] } else { [parks, runs] };
            for place in order.into_iter().flatten() {
                if let Some(Act::Start(then)) = self.act(place) {
                    self.boot(place, Held::Off, then);
                }
            }
        }
    }

    fn is_built(&self, pool: usize) -> bool {
        let observed = self.pools[pool].observed;
        observed.is_some_and(|pool| matches!(pool.image, ImageState::Ready(_)))
    }

    fn leaves_room(&self, runs: &[(usize, usize)], parks: &[(usize, usize)]) -> bool {
        let Some(first) = parks.first() else { return true };
        let mut account = self.tenants[self.pools[first.0].tenant].account.clone();
        let mut memory = self.memory.clone();
        for place in runs {
            let given = self.instance(*place).resources;
            if account.admit(&memory, given, Held::Off, Held::Running).is_ok() {
                account.shift(&mut memory, given, Held::Off, Held::Running);
            }
        }
        let fits = |place: &(usize, usize)| {
            let given = self.instance(*place).resources;
            account.admit(&memory, given, Held::Off, Held::Running).is_ok()
        };
        parks.iter().all(fits)
    }

    /// Brings an instance up and, when it is only to be parked, parks it at once.
    fn boot(&mut self, place: (usize, usize), from: Held, then: Then) {
        if then != Then::Run && !self.may_park(place, from, then) {
            return;
        }
        if !self.shift(place, from, Held::Running) {
            return;
        }
        let instance = self.at(place);
        self.step(match from {
            Held::Asleep => Step::Wake { instance },
            _ => Step::Start { instance },
        });
        match then {
            Then::Run => {}
            Then::Warm => self.park(place, Held::Running, Held::Warm, Why::Parking),
            Then::Sleep => self.park(place, Held::Running, Held::Asleep, Why::Parking),
        }
    }

    /// Whether there will be room to park it: else it is not booted.
    fn may_park(&mut self, place: (usize, usize), from: Held, then: Then) -> bool {
        let given = self.instance(place).resources;
        let to = if then == Then::Warm { Held::Warm } else { Held::Asleep };
        let account = &self.tenants[self.pools[place.0].tenant].account;
        match account.admit(&self.memory, given, from, to) {
            Ok(()) => true,
            Err(reason) => {
                let about = About::Instance(self.at(place));
                self.note(about, reason);
                false
            }
        }
    }

    fn create(&mut self, pool: usize) {
        let case = &mut self.pools[pool];
        let named = std::mem::take(&mut case.filled.missing_named);
        let missing = case.filled.missing;
        let mut present = case.observed.map_or(0, |pool| pool.instances.len() as u64);
        for spec in named {
            present += u64::from(self.create_one(pool, present, Some(spec)));
        }
        for _ in 0..missing {
            // What hinders one hinders all: they are alike.
            if !self.create_one(pool, present, None) {
                break;
            }
            present += 1;
        }
    }

    fn create_one(&mut self, place: usize, present: u64, named: Option<&InstanceSpec>) -> bool {
        let case = &self.pools[place];
        let (pool, tenant) = (case.path.clone(), &mut self.tenants[case.tenant]);
        let (Some(spec), Some(of)) = (case.spec, tenant.spec) else { return false };
        let own_disk = named.and_then(|named| named.data_disk_mib);
        let disk = own_disk.unwrap_or(spec.instance_resources.data_disk_mib);
        let addresses = tenant.addresses.get_or_insert_with(|| Addresses::of(of, tenant.observed));
        let offset = tenant.account.add_instance(present, disk).and_then(|()| {
            match named.and_then(|named| named.offset) {
                Some(offset) => addresses.lease_exact(offset),
                None => addresses.lease(&spec.role),
            }
        });
        let name = named.map(|named| named.name.clone());
        match offset {
            Ok(offset) => self.step(Step::Create { pool, name, offset }),
            Err(reason) => {
                self.note(About::Pool(pool), reason);
                return false;
            }
        }
        true
    }
}
