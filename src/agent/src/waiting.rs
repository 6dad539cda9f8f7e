//! VMMs that wait for the wake of an instance that sleeps: started ahead, nothing loaded.
//!
//! ```text
//!  sleep ──▶ sleeping ──▶ stand by: jail, VMM, supervisor, as the wake would start them
//!  round ──▶ keep_waiting: the ones that slept last, within the budget; the others' are ended
//!  wake  ──▶ still what a wake would start? ── yes ─▶ load ▶ mark ▶ resume
//!                                            └ no ──▶ ended, another is started: slow
//! ```
//!
//! They are no state of an instance: it sleeps, with one or without. One is known by its record
//! in the instance's run directory (`vmm.json`: alive, supervised, begun with
//! [`StartMode::Restore`]) and by the instance's state, and ended with everything else there is
//! of an instance. Which ones are worth their memory is decided by [`choose`], which is pure.

use std::cmp::Reverse;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mvm_host::facts::Facts;
use mvm_host::snapshot::Snapshots;
use mvm_model::record::{InstanceRecord, Millis};
use mvm_model::state::State;
use mvm_model::vm::VmmKind;
use mvm_vmm::{RunningRecord, StartMode, process};

use crate::driver::Driver;
use crate::service::Service;
use crate::settings::Prespawn;

/// What a waiting Firecracker and its supervisor take, bytes. Measured: 2 MiB resident of the one,
/// most of it shared with others, and 2 MiB of the other that are its own.
const FIRECRACKER: u64 = 6 << 20;
/// What a waiting QEMU and its supervisor take, bytes. Measured: 53 MiB resident of the one.
const QEMU: u64 = 64 << 20;

/// A sleeping instance, as the budget sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sleeper<T> {
    /// Which.
    pub(crate) id: T,
    /// Since when it sleeps.
    pub(crate) since: Millis,
    /// On which VMM.
    pub(crate) vmm: VmmKind,
    /// Whether a VMM waits for it now.
    pub(crate) has_one: bool,
}

/// What to do for those that sleep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice<T> {
    /// Their VMMs are not worth their memory.
    pub(crate) end: Vec<T>,
    /// They get one.
    pub(crate) start: Vec<T>,
    /// They have one.
    pub(crate) keep: Vec<T>,
}

/// What VMMs that wait may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    prespawn: Prespawn,
    bytes: u64,
}

impl Budget {
    pub(crate) fn of(prespawn: Prespawn, host_mib: u64) -> Self {
        let percent = u64::from(prespawn.mem_percent.min(100));
        Self { prespawn, bytes: (host_mib << 20) / 100 * percent }
    }

    fn cost(&self, vmm: VmmKind) -> Option<u64> {
        self.prespawn.admits(vmm).then_some(match vmm {
            VmmKind::Firecracker => FIRECRACKER,
            VmmKind::Qemu => QEMU,
        })
    }
}

/// Who has or gets a VMM that waits: whoever slept last, because what slept long will sleep on.
/// A QEMU that does not fit leaves its room to a Firecracker that does.
pub(crate) fn choose<T>(mut sleepers: Vec<Sleeper<T>>, budget: &Budget) -> Choice<T> {
    sleepers.sort_by_key(|sleeper| Reverse(sleeper.since));
    let (mut count, mut bytes) = (0, 0);
    let mut choice = Choice { end: Vec::new(), start: Vec::new(), keep: Vec::new() };
    for sleeper in sleepers {
        let cost = budget.cost(sleeper.vmm);
        let cost = cost.filter(|cost| count < budget.prespawn.most && bytes + cost <= budget.bytes);
        if let Some(cost) = cost {
            (count, bytes) = (count + 1, bytes + cost);
        }
        match (cost.is_some(), sleeper.has_one) {
            (true, false) => choice.start.push(sleeper.id),
            (false, true) => choice.end.push(sleeper.id),
            (true, true) => choice.keep.push(sleeper.id),
            (false, false) => {}
        }
    }
    choice
}

impl Service {
    /// The VMM that waits for the wake of this sleeping instance, if one does: a process and a
    /// supervisor of ours although the instance has no VM. Anything else that runs for an
    /// instance without a VM is owned by nobody.
    pub fn waiting_vmm(&self, record: &InstanceRecord) -> Option<RunningRecord> {
        let State::Sleeping { .. } = record.state else { return None };
        let running = RunningRecord::load(&self.dirs.vm(record.instance_id)).ok().flatten()?;
        let waits = running.mode == StartMode::Restore
            && running.fingerprint.is_some()
            && running.instance == record.instance_id
            && process::is_alive(&running.process)
            && process::is_alive(&running.supervisor);
        waits.then_some(running)
    }

    /// Whether one more may be started for an instance that just fell asleep: nobody's is ended
    /// for it here, the next round weighs all of them.
    pub(crate) fn has_room_to_wait(&self, record: &InstanceRecord) -> bool {
        let Ok(settings) = self.settings() else { return false };
        if settings.prespawn.most == 0 {
            return false;
        }
        let budget = Budget::of(settings.prespawn, Facts::read().mem_mib);
        let sleepers = self.records.all_instances().records.into_iter();
        let sleepers = sleepers.filter_map(|one| {
            let is_this = one.instance_id == record.instance_id;
            let mut sleeper = self.sleeper(&one)?;
            // Those that wait come first, whoever slept last.
            sleeper.since = if is_this { 0 } else { 1 };
            (is_this || sleeper.has_one).then_some(Sleeper { has_one: !is_this, ..sleeper })
        });
        choose(sleepers.collect(), &budget)
            .start
            .iter()
            .any(|one| one.instance_id == record.instance_id)
    }

    /// Lets VMMs wait for those that slept last, within the host's budget, and ends those that
    /// wait beyond it. Whoever is being changed is left alone until the next round.
    pub(crate) async fn keep_waiting(&self, stop: &AtomicBool) {
        let Ok(settings) = self.settings() else { return };
        let budget = Budget::of(settings.prespawn, Facts::read().mem_mib);
        let records = self.records.all_instances().records;
        let sleepers = records.iter().filter_map(|record| self.sleeper(record)).collect();
        let choice = choose(sleepers, &budget);
        for record in choice.end {
            if let Ok(driver) = Driver::open(self, &record.path(), stop, Duration::ZERO).await {
                driver.end_waiting().await;
            }
        }
        // Those that have one are looked at too: it may wait for what is not so any more.
        for record in choice.start.into_iter().chain(choice.keep) {
            if stop.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            let driver = Driver::open(self, &record.path(), stop, Duration::ZERO).await;
            let Ok(mut driver) = driver else { continue };
            if driver.settle().await.is_ok() {
                driver.stand_by().await;
            }
        }
    }

    fn sleeper(&self, record: &InstanceRecord) -> Option<Sleeper<InstanceRecord>> {
        let State::Sleeping { generation } = record.state else { return None };
        if record.transition.is_some() {
            return None;
        }
        let waiting = self.waiting_vmm(record);
        let vmm = match &waiting {
            Some(running) => running.vmm.kind,
            None => {
                let snapshots = Snapshots::of(&self.instance_dir(record));
                snapshots.manifest(generation).ok()?.platform.vmm.kind
            }
        };
        let since = record.since;
        Some(Sleeper { id: record.clone(), since, vmm, has_one: waiting.is_some() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget(most: u32, mem_percent: u8, qemu: bool) -> Budget {
        // 1 % of this host is 10 MiB.
        Budget::of(Prespawn { most, mem_percent, qemu }, 1000)
    }

    fn sleeper(id: u32, since: Millis, vmm: VmmKind, has_one: bool) -> Sleeper<u32> {
        Sleeper { id, since, vmm, has_one }
    }

    #[test]
    fn who_slept_last_has_one() {
        let all = [(1, 10, true), (2, 30, false), (3, 20, false)];
        let all = all.map(|(id, since, has)| sleeper(id, since, VmmKind::Firecracker, has));
        let choice = choose(all.to_vec(), &budget(2, 5, false));
        assert_eq!(choice, Choice { end: vec![1], start: vec![2, 3], keep: vec![] });
        let off = choose(all.to_vec(), &budget(0, 5, false));
        assert_eq!(off, Choice { end: vec![1], start: vec![], keep: vec![] });
    }

    #[test]
    fn a_qemu_waits_only_where_that_is_asked_for_and_fits() {
        let all = [VmmKind::Qemu, VmmKind::Firecracker];
        let all: Vec<_> = (1..).zip(all).map(|(id, vmm)| sleeper(id, 9, vmm, false)).collect();
        assert_eq!(choose(all.clone(), &budget(9, 50, false)).start, [2]);
        assert_eq!(choose(all.clone(), &budget(9, 50, true)).start, [1, 2]);
        assert_eq!(choose(all, &budget(9, 5, true)).start, [2]);
    }

    proptest! {
        #[test]
        fn the_budget_holds_and_a_second_look_changes_nothing(
            sleepers in prop::collection::vec((any::<u16>(), any::<bool>(), any::<bool>()), 0..40),
            most in 0_u32..20, percent in 0_u8..60, qemu in any::<bool>(),
        ) {
            let budget = budget(most, percent, qemu);
            let mut all: Vec<_> = (0..).zip(sleepers).map(|(id, (since, is_qemu, has_one))| {
                let vmm = if is_qemu { VmmKind::Qemu } else { VmmKind::Firecracker };
                sleeper(id, since.into(), vmm, has_one)
            }).collect();
            let choice = choose(all.clone(), &budget);
            for one in &mut all {
                one.has_one = (one.has_one && !choice.end.contains(&one.id))
                    || choice.start.contains(&one.id);
            }
            let waiting: Vec<_> = all.iter().filter(|one| one.has_one).collect();
            prop_assert!(waiting.len() <= most as usize);
            let bytes: u64 = waiting.iter().filter_map(|one| budget.cost(one.vmm)).sum();
            prop_assert!(bytes <= budget.bytes);
            prop_assert!(waiting.iter().all(|one| budget.prespawn.admits(one.vmm)));
            let again = choose(all, &budget);
            prop_assert!(again.end.is_empty() && again.start.is_empty());
        }
    }
}
