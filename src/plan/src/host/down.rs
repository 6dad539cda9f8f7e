//! Down: what stops, goes, sleeps or pauses, the entry of a tenant last.

use super::{Ending, Planner, RANKS, held};
use crate::account::Held;
use crate::slots::Act;
use crate::step::{Step, Why};

impl Planner<'_> {
    /// Per role, in an order that frees before it takes.
    pub(super) fn down(&mut self) {
        for rank in (0..RANKS).rev() {
            let pools = self.ranked(rank);
            for pool in &pools {
                self.stop(*pool);
            }
            for pool in &pools {
                self.destroy(*pool);
            }
            for pool in &pools {
                self.sleep(*pool);
            }
            for pool in &pools {
                self.warm(*pool);
            }
        }
    }

    fn stop(&mut self, pool: usize) {
        for place in self.some(pool, |act| matches!(act, Act::Stop(_) | Act::Remove(_))) {
            let (Some(Act::Stop(why)) | Some(Act::Remove(why))) = self.act(place) else { continue };
            let from = held(self.instance(place).status);
            if self.shift(place, from, Held::Off) {
                let instance = self.at(place);
                self.step(Step::Stop { instance, why });
            }
        }
    }

    fn destroy(&mut self, pool: usize) {
        for place in self.some(pool, |act| matches!(act, Act::Destroy(_) | Act::Remove(_))) {
            let (Some(Act::Destroy(why)) | Some(Act::Remove(why))) = self.act(place) else {
                continue;
            };
            let data = self.instance(place).resources.data_disk_mib;
            self.tenants[self.pools[pool].tenant].account.remove_instance(data);
            let instance = self.at(place);
            self.step(Step::Destroy { instance, why });
        }
    }

    fn sleep(&mut self, pool: usize) {
        for place in self.some(pool, |act| matches!(act, Act::Sleep(_))) {
            let Some(Act::Sleep(why)) = self.act(place) else { continue };
            self.park(place, held(self.instance(place).status), Held::Asleep, why);
        }
    }

    fn warm(&mut self, pool: usize) {
        for place in self.some(pool, |act| matches!(act, Act::Warm(_))) {
            let Some(Act::Warm(why)) = self.act(place) else { continue };
            self.park(place, Held::Running, Held::Warm, why);
        }
    }

    /// Pauses an instance or puts it to sleep, if that is admitted.
    pub(super) fn park(&mut self, place: (usize, usize), from: Held, to: Held, why: Why) {
        if self.shift(place, from, to) {
            let instance = self.at(place);
            self.step(match to {
                Held::Warm => Step::Warm { instance, why },
                _ => Step::Sleep { instance, why },
            });
        }
    }

    /// Pools and tenants of which nothing is left.
    pub(super) fn destroy_emptied(&mut self) {
        let mut whole: Vec<bool> =
            self.tenants.iter().map(|case| case.ending == Ending::Destroyed).collect();
        for rank in (0..RANKS).rev() {
            for place in self.ranked(rank) {
                let case = &self.pools[place];
                let goes = |act: &Option<Result<Act, _>>| {
                    matches!(act, Some(Ok(Act::Destroy(_) | Act::Remove(_))))
                };
                let emptied = case.filled.entries.iter().all(|entry| goes(&entry.act));
                if case.ending == Ending::Destroyed && emptied {
                    let pool = case.path.clone();
                    self.step(Step::DestroyPool { pool });
                } else {
                    whole[case.tenant] = false;
                }
            }
        }
        for (place, _) in whole.iter().enumerate().filter(|(_, whole)| **whole) {
            if let Some(observed) = self.tenants[place].observed {
                let tenant = observed.spec.tenant_id.clone();
                self.plan.steps.push(Step::DestroyTenant { tenant });
            }
        }
    }
}
