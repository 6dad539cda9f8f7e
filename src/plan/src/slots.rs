//! Slots: which instance of a pool serves which of its counts, and what each has to do for it.
//!
//! Unnamed instances are alike: the counts are slots (running, warm, sleeping) they are put into
//! with the least disturbance. Named ones have a slot of their own each; neither kind ever takes
//! the other's (see [`named`] and [`unnamed`]).
//!
//! Nothing here looks at quotas: a slot says what should happen, `host` says whether it may now.

mod named;
mod unnamed;

use mvm_model::desired::{InstanceSpec, PoolSpec, Wanted};
use mvm_model::observed::{Motion, ObservedInstance};
use mvm_model::policy::Protection;
use mvm_model::record::Millis;
use mvm_model::state::Status;

use crate::idle::{Policies, Verdict};
use crate::note::Reason;
use crate::step::Why;
use crate::terms::{Removal, Terms, backoff_until};

/// What an instance is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// One of the pool's counts.
    Count(Wanted),
    /// Counts as running; the idle policy parked it.
    Parked,
    /// None of the counts; a person keeps it as it is.
    Extra,
    /// None of the counts.
    Surplus,
    /// A named instance's own.
    Named(Wanted),
    /// A named instance the desired state does not speak about.
    Untouched,
    /// Removed from its declaration, or pruned.
    Removed,
}

/// Where a boot ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It runs.
    Run,
    /// It is paused again.
    Warm,
    /// It is put to sleep again.
    Sleep,
}

/// What an instance has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Settle what broke off.
    Settle,
    /// Turn off.
    Stop(Why),
    /// Turn off and remove.
    Remove(Why),
    /// Remove; it is off.
    Destroy(Why),
    /// Go to sleep.
    Sleep(Why),
    /// Be paused.
    Warm(Why),
    /// Resume from disk.
    Wake(Then),
    /// Resume from memory.
    Resume,
    /// Boot.
    Start(Then),
}

/// An instance with its slot.
#[derive(Debug, Clone)]
pub(crate) struct Entry<'a> {
    pub(crate) instance: &'a ObservedInstance,
    pub(crate) slot: Slot,
    /// What it has to do, or why it waits with that.
    pub(crate) act: Option<Result<Act, Reason>>,
    /// What the idle policy says, where it was asked.
    pub(crate) idle: Option<Verdict>,
}

/// A pool with its slots filled.
#[derive(Debug, Default)]
pub(crate) struct Filled<'a> {
    pub(crate) entries: Vec<Entry<'a>>,
    /// Unnamed instances to create.
    pub(crate) missing: u32,
    /// Named instances to create.
    pub(crate) missing_named: Vec<&'a InstanceSpec>,
    /// Surplus instances that are off and kept for their data.
    pub(crate) kept: u32,
}

/// What slots are filled under.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) policies: Policies,
    pub(crate) terms: &'a Terms,
    pub(crate) now: Millis,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(spec: &PoolSpec, tenant_pinned: bool, terms: &'a Terms, now: Millis) -> Self {
        let (idle, runtime) = (spec.idle, spec.runtime_policy);
        let protection = spec.protection(tenant_pinned);
        Self { policies: Policies { idle, runtime, protection }, terms, now }
    }

    /// An entry whose act is held against protection, manual changes and earlier failures.
    pub(crate) fn entry<'i>(
        &self,
        instance: &'i ObservedInstance,
        slot: Slot,
        act: Option<Act>,
    ) -> Entry<'i> {
        let act = act.map(|act| self.permit(instance, act));
        Entry { instance, slot, act, idle: None }
    }

    /// The act for an instance on which something is on its way.
    fn moving(&self, instance: &ObservedInstance) -> Option<Result<Act, Reason>> {
        match &instance.motion {
            Motion::Still => None,
            Motion::Moving(transition) => Some(Err(Reason::Busy(transition.clone()))),
            Motion::Interrupted(_) => Some(Ok(Act::Settle)),
        }
    }

    fn permit(&self, instance: &ObservedInstance, act: Act) -> Result<Act, Reason> {
        if let Some(moving) = self.moving(instance) {
            return moving;
        }
        if let Some(until) = self.terms.held_until(instance, self.now) {
            return Err(Reason::Manual { until });
        }
        let protection = self.policies.protection;
        if !allows(protection, act) {
            return Err(Reason::Protected(protection));
        }
        let ends = matches!(act, Act::Stop(_) | Act::Remove(_) | Act::Destroy(_));
        match backoff_until(instance, self.now) {
            Some(until) if !ends => Err(Reason::Backoff { until }),
            _ => Ok(act),
        }
    }

    /// Whether a removed instance goes with its data.
    pub(crate) fn deletes_data(&self) -> bool {
        self.terms.removal == Removal::DeleteData
    }
}

fn allows(protection: Protection, act: Act) -> bool {
    let warms = matches!(act, Act::Warm(_) | Act::Wake(Then::Warm) | Act::Start(Then::Warm));
    let brings_up = matches!(act, Act::Wake(Then::Run) | Act::Start(Then::Run) | Act::Resume);
    match protection {
        Protection::None => true,
        Protection::Pinned => brings_up || warms,
        Protection::Critical => brings_up,
    }
}

/// What takes an instance to a status; `None` when it is there.
pub(crate) fn toward(status: Status, wanted: Wanted, why: Why) -> Option<Act> {
    Some(match (wanted, status) {
        (Wanted::Running, Status::Running)
        | (Wanted::Warm, Status::Warm)
        | (Wanted::Sleeping, Status::Sleeping)
        | (Wanted::Stopped, Status::Created | Status::Stopped | Status::Failed) => return None,
        (Wanted::Running, Status::Warm) => Act::Resume,
        (Wanted::Running, Status::Sleeping) => Act::Wake(Then::Run),
        (Wanted::Running, _) => Act::Start(Then::Run),
        (Wanted::Warm, Status::Running) => Act::Warm(why),
        (Wanted::Warm, Status::Sleeping) => Act::Wake(Then::Warm),
        (Wanted::Warm, _) => Act::Start(Then::Warm),
        (Wanted::Sleeping, Status::Running | Status::Warm) => Act::Sleep(why),
        (Wanted::Sleeping, _) => Act::Start(Then::Sleep),
        (Wanted::Stopped, _) => Act::Stop(why),
    })
}

/// Fills the slots of a pool.
pub(crate) fn fill<'a>(
    spec: &'a PoolSpec,
    instances: &'a [ObservedInstance],
    scene: &Scene<'_>,
) -> Filled<'a> {
    let mut filled = Filled::default();
    named::fill(spec, instances, scene, &mut filled);
    unnamed::fill(spec, instances, scene, &mut filled);
    filled
}

/// What becomes of every instance of a pool that was removed from its declaration: they stop;
/// what sleeps stays asleep. With `--delete-data` a pruned one goes altogether.
pub(crate) fn clear<'a>(
    instances: &'a [ObservedInstance],
    why: Why,
    scene: &Scene<'_>,
) -> Filled<'a> {
    let delete = why == Why::Pruned && scene.deletes_data();
    let act = |instance: &ObservedInstance| match (delete, instance.status) {
        (false, Status::Running | Status::Warm) => Some(Act::Stop(why)),
        (false, _) => None,
        (true, Status::Running | Status::Warm | Status::Sleeping) => Some(Act::Remove(why)),
        (true, _) => Some(Act::Destroy(why)),
    };
    let entries = instances.iter().map(|instance| {
        let mut entry = scene.entry(instance, Slot::Removed, act(instance));
        entry.act = scene.moving(instance).or(entry.act);
        entry
    });
    Filled { entries: entries.collect(), ..Filled::default() }
}
