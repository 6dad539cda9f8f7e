//! A record made from the version before it: what is true decides its state, never the version.
//!
//! The version is at most one step behind, so it says what may have been begun since. That is
//! written into it as the transition that was interrupted, and settling it
//! ([`mvm_model::state::settle`]) does the rest, as after a crash:
//!
//! | the version before | what is true | it becomes |
//! |---|---|---|
//! | waking | its snapshot is gone, which is so once it is awake | starting: its VM is taken if it answers |
//! | falling asleep | its snapshot was used: it woke since | waking |
//! | another transition | | as it is: settling decides |
//! | running, warm | its next snapshot is complete and unused | falling asleep: it sleeps |
//! | running, warm, between them | a VM lives | warm if it was paused on purpose, else running |
//! | running, warm | none lives | stopped, data kept |
//! | sleeping | the snapshot is complete | waking: unused it sleeps, used its VM runs or it failed |
//! | sleeping | the snapshot is gone, a VM lives | starting: that VM is taken if it answers |
//! | sleeping | the snapshot is gone | stopped, data kept |
//! | another | a VM lives | starting: that VM is taken if it answers |
//! | another | none lives | as it was |

use mvm_host::file::FileError;
use mvm_host::snapshot::Held;
use mvm_model::record::InstanceRecord;
use mvm_model::state::{State, Transition, VmRef};

/// What is true of the instance.
pub(crate) struct Truth<'a> {
    /// The VM that lives, by its supervisor's record.
    pub(crate) vm: Option<VmRef>,
    /// Whether its vCPUs execute; `None` when it does not say.
    pub(crate) executing: Option<bool>,
    /// What there is of a generation.
    pub(crate) held: &'a dyn Fn(u64) -> Result<Held, FileError>,
}

/// The record as it should be, with what is still to be settled.
///
/// # Errors
/// When a snapshot it may sleep in cannot be looked at: nothing is concluded from that.
pub(crate) fn revive(
    before: InstanceRecord,
    truth: &Truth<'_>,
) -> Result<InstanceRecord, FileError> {
    let mut record = before;
    let held = truth.held;
    let is_there = |generation| held(generation).map(|held| held != Held::Nothing);
    // A number never means two snapshots: the one on its way may have been written already.
    let next = record.next_generation;
    if is_there(next)? {
        record.next_generation = next + 1;
    }
    if let Some(Transition::Sleeping { generation }) = record.transition
        && held(generation)? == Held::Used
    {
        // It woke from it since.
        record.transition = Some(Transition::Waking { generation });
        record.state = State::Sleeping { generation };
    }
    let sleeps = matches!(
        record.transition,
        None | Some(Transition::Waking { .. } | Transition::Sleeping { .. })
    );
    if let State::Sleeping { generation } = record.state
        && !sleeps
        && held(generation)? != Held::Whole
    {
        record.state = State::Stopped;
    }
    let was_pausing = matches!(record.state, State::Warm { .. })
        || record.transition == Some(Transition::Warming);
    match record.transition {
        // An awake instance's snapshot is removed, and its mark with it.
        Some(Transition::Waking { generation }) if !is_there(generation)? => {
            record.state = State::Stopped;
            record.transition = truth.vm.is_some().then_some(Transition::Starting);
            return Ok(record);
        }
        // The VM says better than the version before how that ended.
        Some(Transition::Warming | Transition::Resuming) if truth.vm.is_some() => {}
        Some(_) => return Ok(record),
        None => {}
    }
    let (state, transition) = match (record.state, &truth.vm) {
        (state @ (State::Running { .. } | State::Warm { .. }), _) if held(next)? == Held::Whole => {
            (state, Some(Transition::Sleeping { generation: next }))
        }
        // Settling gives back the status before these.
        (State::Running { .. } | State::Warm { .. }, Some(vm)) => {
            match was_pausing && truth.executing != Some(true) {
                true => (State::Warm { vm: vm.clone() }, Some(Transition::Resuming)),
                false => (State::Running { vm: vm.clone() }, Some(Transition::Warming)),
            }
        }
        (State::Running { .. } | State::Warm { .. }, None) => (State::Stopped, None),
        (state @ State::Sleeping { generation }, _) if is_there(generation)? => {
            (state, Some(Transition::Waking { generation }))
        }
        (State::Sleeping { .. }, Some(_)) => (State::Stopped, Some(Transition::Starting)),
        (State::Sleeping { .. }, None) => (State::Stopped, None),
        (state, Some(_)) => (state, Some(Transition::Starting)),
        (state, None) => (state, None),
    };
    (record.state, record.transition) = (state, transition);
    Ok(record)
}

#[cfg(test)]
mod tests;
