//! What a record remembers of who asked for a transition and of how often it failed: the plan
//! leaves alone for a while what a person did, and waits longer after each failure.

use mvm_model::desired::Wanted;
use mvm_model::observed::{Failure, Parked};
use mvm_model::record::{InstanceRecord, ManagedBy, Millis};
use mvm_model::state::Verb;

use super::{Asker, Driver};
use crate::error::{Error, Kind, Result};
use crate::service::now;

/// A failure so long ago says nothing about the next one, milliseconds.
const FORGIVEN: Millis = 600_000;

impl Driver<'_> {
    /// Remembers in the record who asked; written with the transition.
    pub(super) fn remember(&mut self, verb: Verb) {
        let record = &mut self.record;
        let parks = matches!(verb, Verb::Warm | Verb::Sleep);
        match self.asker {
            Asker::Plan(parked) => record.parked = if parks { parked } else { Parked::No },
            Asker::Person => {
                (record.manual, record.parked) = (Some(now()), Parked::No);
                let theirs = record.name.is_some() && record.managed_by == ManagedBy::Local;
                if theirs && let Some(wanted) = wanted(verb) {
                    record.desired = Some(wanted);
                }
            }
        }
    }

    /// Whoever called it off no longer asks for it.
    pub(super) fn unsay(&mut self, before: InstanceRecord) {
        let record = &mut self.record;
        let said = |record: &InstanceRecord| (record.manual, record.parked, record.desired);
        // One that is still on its way is settled by the next command.
        if record.transition.is_some() || said(record) == said(&before) {
            return;
        }
        (record.manual, record.parked, record.desired) = said(&before);
        if let Err(error) = self.service.records.put_instance(&self.record) {
            tracing::warn!(instance = %self.record.path(), error = error.chain(), "what was called off is still asked for");
        }
    }

    /// A person asked for what is so already: that is worth remembering too.
    pub(super) fn affirm(&mut self, verb: Verb) -> Result<()> {
        if self.asker != Asker::Person {
            return Ok(());
        }
        self.remember(verb);
        self.service.records.put_instance(&self.record)
    }

    /// Counts a transition that failed, so that a plan waits before it tries again. What a
    /// person asked for and did not get is not kept so.
    pub(super) fn note_failure(&mut self, verb: Verb, error: &Error) {
        let is_ours = !matches!(error.kind, Kind::Interrupted | Kind::Busy | Kind::NotFound);
        if verb == Verb::Destroy || !is_ours {
            return;
        }
        self.record.failure = self.next_failure();
        if self.asker == Asker::Person {
            self.record.manual = None;
        }
        if let Err(error) = self.service.records.put_instance(&self.record) {
            tracing::warn!(instance = %self.record.path(), error = error.chain(), "a failure is not noted");
        }
    }

    /// One more failure. One that comes long after the last is the first again.
    pub(super) fn next_failure(&self) -> Option<Failure> {
        let at = now();
        let last = self.record.failure.filter(|last| at.saturating_sub(last.at) <= FORGIVEN);
        let count = last.map_or(1, |last| last.count.saturating_add(1));
        Some(Failure { count, at })
    }
}

/// The status a verb asks a named instance to keep.
fn wanted(verb: Verb) -> Option<Wanted> {
    Some(match verb {
        Verb::Start | Verb::Wake => Wanted::Running,
        Verb::Warm => Wanted::Warm,
        Verb::Sleep => Wanted::Sleeping,
        Verb::Stop => Wanted::Stopped,
        Verb::Destroy => return None,
    })
}

/// Whether a transition ended because somebody wanted that, and not because it could not be.
pub(super) fn is_called_off(error: &Error) -> bool {
    matches!(error.kind, Kind::Interrupted | Kind::Conflict)
}
