//! Unnamed instances: put into the slots of the counts with the least disturbance.
//!
//! 1. Who has the status of a slot takes one (lowest offset first); parked ones take running
//!    slots beyond `keep_running`.
//! 2. Who is on the way somewhere, or was put somewhere by a person, takes a slot of that status,
//!    else the first open one: nobody is started in the place of what a person stopped.
//! 3. Open running slots: wake who sleeps, resume who is warm (those without a slot first, then
//!    those with one: that is what they are kept for), boot who is off.
//! 4. Open warm and sleeping slots: who runs or is warm without a slot, else boot who is off.
//! 5. Slots still open are created. Who has no slot is surplus: turned off, and removed unless
//!    it holds data.

use std::collections::VecDeque;

use mvm_model::desired::{PoolSpec, Wanted};
use mvm_model::observed::{Motion, ObservedInstance};
use mvm_model::record::DesiredCounts;
use mvm_model::state::Status;

use super::named::{act_of, is_parked};
use super::{Act, Entry, Filled, Scene, Slot, toward};
use crate::idle::{self, Keep};
use crate::step::Why;
use crate::terms::backoff_until;

type Row<'a> = VecDeque<&'a ObservedInstance>;

/// Slots nobody has taken yet.
struct Open {
    running: u32,
    warm: u32,
    sleeping: u32,
}

impl Open {
    fn of(counts: DesiredCounts) -> Self {
        Self { running: counts.running, warm: counts.warm, sleeping: counts.sleeping }
    }

    fn slot(&mut self, wanted: Wanted) -> &mut u32 {
        match wanted {
            Wanted::Running => &mut self.running,
            Wanted::Warm => &mut self.warm,
            Wanted::Sleeping | Wanted::Stopped => &mut self.sleeping,
        }
    }

    fn take(&mut self, wanted: Wanted) -> bool {
        let slot = self.slot(wanted);
        let open = *slot > 0;
        *slot -= u32::from(open);
        open
    }

    /// A slot of a status, else the first open one.
    fn take_near(&mut self, status: Option<Status>) -> Option<Wanted> {
        let own = match status? {
            Status::Running => Some(Wanted::Running),
            Status::Warm => Some(Wanted::Warm),
            Status::Sleeping => Some(Wanted::Sleeping),
            _ => None,
        };
        let any = [Wanted::Running, Wanted::Warm, Wanted::Sleeping];
        own.into_iter().chain(any).find(|wanted| self.take(*wanted))
    }
}

/// The instances nobody holds, by what they are.
#[derive(Default)]
struct Rows<'a> {
    running: Row<'a>,
    parked: Row<'a>,
    warm: Row<'a>,
    sleeping: Row<'a>,
    off: Row<'a>,
    /// On their way, or put there by a person.
    held: Row<'a>,
}

impl<'a> Rows<'a> {
    fn of(instances: &'a [ObservedInstance], scene: &Scene<'_>) -> Self {
        let mut rows = Self::default();
        for instance in instances.iter().filter(|instance| instance.name.is_none()) {
            let held = instance.motion != Motion::Still
                || scene.terms.held_until(instance, scene.now).is_some();
            let row = match instance.status {
                _ if held => &mut rows.held,
                _ if is_parked(instance, scene) => &mut rows.parked,
                Status::Running => &mut rows.running,
                Status::Warm => &mut rows.warm,
                Status::Sleeping => &mut rows.sleeping,
                Status::Created | Status::Stopped | Status::Failed => &mut rows.off,
            };
            row.push_back(instance);
        }
        rows.sort(scene);
        rows
    }

    /// Who backs off comes last, so that others take its place; then by offset.
    fn sort(&mut self, scene: &Scene<'_>) {
        let key = |instance: &&ObservedInstance| {
            (backoff_until(instance, scene.now).is_some(), instance.offset)
        };
        for row in [&mut self.warm, &mut self.sleeping, &mut self.off] {
            row.make_contiguous().sort_by_key(key);
        }
        self.running.make_contiguous().sort_by_key(|instance| instance.offset);
        // Who sleeps stays parked, who is warm is the quickest to run again.
        let parked =
            |instance: &&ObservedInstance| (instance.status != Status::Sleeping, instance.offset);
        self.parked.make_contiguous().sort_by_key(parked);
    }
}

struct Filling<'a, 's> {
    scene: &'s Scene<'s>,
    open: Open,
    entries: Vec<Entry<'a>>,
}

pub(super) fn fill<'a>(
    spec: &PoolSpec,
    instances: &'a [ObservedInstance],
    scene: &Scene<'_>,
    filled: &mut Filled<'a>,
) {
    let mut rows = Rows::of(instances, scene);
    let entries = std::mem::take(&mut filled.entries);
    let mut filling = Filling { scene, open: Open::of(spec.desired_counts), entries };

    let running = filling.hold(&mut rows.running, Wanted::Running);
    let parked = filling.hold_parked(&mut rows, spec);
    let mut warm = filling.hold(&mut rows.warm, Wanted::Warm);
    let mut sleeping = filling.hold(&mut rows.sleeping, Wanted::Sleeping);
    filling.hold_others(&mut rows.held);

    filling.bring(Wanted::Running, [&mut rows.sleeping, &mut rows.warm]);
    filling.promote(&mut sleeping, Wanted::Sleeping);
    filling.promote(&mut warm, Wanted::Warm);
    filling.bring(Wanted::Running, [&mut rows.off]);
    filling.bring(Wanted::Warm, [&mut rows.running, &mut rows.sleeping, &mut rows.off]);
    filling.bring(Wanted::Sleeping, [&mut rows.warm, &mut rows.running, &mut rows.off]);

    filling.idle(running, parked);
    filling.settled(warm, Wanted::Warm);
    filling.settled(sleeping, Wanted::Sleeping);
    let left = [rows.off, rows.sleeping, rows.warm, rows.running];
    filled.kept = filling.surplus(left.into_iter().flatten());
    let open = filling.open;
    filled.missing = open.running + open.warm + open.sleeping;
    filled.entries = filling.entries;
}

impl<'a> Filling<'a, '_> {
    /// Takes slots for those that have their status; the rest stays in the row.
    fn hold(&mut self, row: &mut Row<'a>, wanted: Wanted) -> Row<'a> {
        let open = self.open.slot(wanted);
        let holders = row.len().min(*open as usize);
        *open -= holders as u32;
        row.drain(..holders).collect()
    }

    /// Parked ones take running slots that may be parked; the others are warm or sleeping ones
    /// like any.
    fn hold_parked(&mut self, rows: &mut Rows<'a>, spec: &PoolSpec) -> Row<'a> {
        let (wanted, keep) = (spec.desired_counts.running, spec.idle.keep_running);
        let most = self.open.running.min(wanted.saturating_sub(keep)) as usize;
        let holders: Row<'a> = rows.parked.drain(..rows.parked.len().min(most)).collect();
        self.open.running -= holders.len() as u32;
        for instance in rows.parked.drain(..) {
            match instance.status {
                Status::Warm => rows.warm.push_back(instance),
                _ => rows.sleeping.push_back(instance),
            }
        }
        holders
    }

    fn hold_others(&mut self, held: &mut Row<'a>) {
        for instance in held.drain(..) {
            let slot = match self.open.take_near(instance.heading()) {
                Some(wanted) => Slot::Count(wanted),
                None => Slot::Extra,
            };
            // Only where it is not what the slot asks for there is something to say.
            let act = match slot {
                Slot::Count(wanted) => toward(instance.status, wanted, Why::Counts),
                _ => None,
            };
            let mut entry = self.scene.entry(instance, slot, act);
            entry.act = self.scene.moving(instance).or(entry.act);
            self.entries.push(entry);
        }
    }

    /// Fills open slots from the first row that has somebody.
    fn bring<const N: usize>(&mut self, wanted: Wanted, rows: [&mut Row<'a>; N]) {
        for row in rows {
            for instance in self.hold(row, wanted) {
                let act = toward(instance.status, wanted, Why::Counts);
                self.entries.push(self.scene.entry(instance, Slot::Count(wanted), act));
            }
        }
    }

    /// Fills open running slots from those that have a slot of `from`, which opens that.
    fn promote(&mut self, row: &mut Row<'a>, from: Wanted) {
        let before = row.len();
        self.bring(Wanted::Running, [&mut *row]);
        *self.open.slot(from) += (before - row.len()) as u32;
    }

    /// Asks the idle policy about those that count as running, the longest idle first.
    fn idle(&mut self, running: Row<'a>, parked: Row<'a>) {
        let Scene { policies, terms, now } = *self.scene;
        let warm = parked.iter().filter(|instance| instance.status == Status::Warm).count();
        let mut keep = Keep::new(policies.idle, running.len() as u32, warm as u32);
        let mut all: Vec<_> = running.into_iter().chain(parked).collect();
        if policies.idle.is_active() {
            all.sort_by_key(|instance| (instance.idle_since.unwrap_or(u64::MAX), instance.offset));
        }
        for instance in all {
            let verdict = idle::decide(instance, &policies, terms, now);
            let verdict = keep.limit(instance.status, verdict);
            let slot = match instance.status {
                Status::Running => Slot::Count(Wanted::Running),
                _ => Slot::Parked,
            };
            let mut entry = self.scene.entry(instance, slot, act_of(verdict));
            entry.idle = Some(verdict);
            self.entries.push(entry);
        }
    }

    fn settled(&mut self, row: Row<'a>, wanted: Wanted) {
        let entries = row.into_iter();
        self.entries
            .extend(entries.map(|instance| self.scene.entry(instance, Slot::Count(wanted), None)));
    }

    /// Turns off and removes who is left; says how many were kept for their data.
    fn surplus(&mut self, left: impl Iterator<Item = &'a ObservedInstance>) -> u32 {
        let mut kept = 0;
        for instance in left {
            let data = instance.resources.data_disk_mib > 0 && !self.scene.deletes_data();
            let act = match instance.status {
                Status::Running | Status::Warm | Status::Sleeping if data => {
                    Some(Act::Stop(Why::Surplus))
                }
                Status::Running | Status::Warm | Status::Sleeping => {
                    Some(Act::Remove(Why::Surplus))
                }
                _ if instance.holds_data() && data => None,
                _ => Some(Act::Destroy(Why::Surplus)),
            };
            kept += u32::from(act.is_none());
            self.entries.push(self.scene.entry(instance, Slot::Surplus, act));
        }
        kept
    }
}
