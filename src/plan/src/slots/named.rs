//! Named instances: each is what it was asked to be, whatever the counts say.

use std::collections::HashMap;

use mvm_model::InstanceName;
use mvm_model::desired::{InstanceSpec, PoolSpec, Wanted};
use mvm_model::observed::{ObservedInstance, Parked};
use mvm_model::state::Status;

use super::{Act, Filled, Scene, Slot, toward};
use crate::idle::{self, Verdict};
use crate::step::Why;

pub(super) fn fill<'a>(
    spec: &'a PoolSpec,
    instances: &'a [ObservedInstance],
    scene: &Scene<'_>,
    filled: &mut Filled<'a>,
) {
    let mut wanted: HashMap<&InstanceName, &InstanceSpec> =
        spec.named().iter().map(|named| (&named.name, named)).collect();
    for instance in instances {
        let Some(name) = &instance.name else { continue };
        let entry = match wanted.remove(name) {
            Some(named) => one(named, instance, scene),
            None => scene.entry(instance, Slot::Untouched, None),
        };
        filled.entries.push(entry);
    }
    // In the order of the document, which is the order a person expects.
    let missing = spec.named().iter().filter(|named| wanted.contains_key(&named.name));
    filled.missing_named.extend(missing.filter(|named| !named.orphaned));
}

fn one<'a>(
    named: &InstanceSpec,
    instance: &'a ObservedInstance,
    scene: &Scene<'_>,
) -> super::Entry<'a> {
    if named.orphaned {
        let up = instance.is_up().then_some(Act::Stop(Why::Orphaned));
        return scene.entry(instance, Slot::Removed, up);
    }
    let slot = Slot::Named(named.desired);
    let mut verdict = None;
    let counts_as_running = named.desired == Wanted::Running
        && (instance.status == Status::Running || is_parked(instance, scene));
    let act = if counts_as_running {
        let decided = idle::decide(instance, &scene.policies, scene.terms, scene.now);
        verdict = Some(decided);
        act_of(decided)
    } else {
        toward(instance.status, named.desired, Why::Named)
    };
    let mut entry = scene.entry(instance, slot, act);
    entry.act = scene.moving(instance).or(entry.act);
    entry.idle = verdict;
    entry
}

/// Whether the idle policy parked it and still stands.
pub(super) fn is_parked(instance: &ObservedInstance, scene: &Scene<'_>) -> bool {
    instance.parked == Parked::Idle
        && matches!(instance.status, Status::Warm | Status::Sleeping)
        && scene.policies.idle.is_active()
}

/// What a verdict of the idle policy has an instance do.
pub(super) fn act_of(verdict: Verdict) -> Option<Act> {
    match verdict {
        Verdict::Warm { idle } => Some(Act::Warm(Why::Idle { seconds: idle })),
        Verdict::Sleep { idle } => Some(Act::Sleep(Why::Idle { seconds: idle })),
        Verdict::Stay(_) => None,
    }
}
