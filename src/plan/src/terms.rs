//! The terms a plan is made under: who asks, and how far they may go.

use mvm_model::observed::{Failure, ObservedInstance};
use mvm_model::policy::MANUAL_OVERRIDE_SECONDS;
use mvm_model::record::{ManagedBy, Millis};
use mvm_model::state::Status;

/// What becomes of the data of what is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Removal {
    /// Drives and snapshots stay.
    #[default]
    KeepData,
    /// A person said `--delete-data`.
    DeleteData,
}

/// Whether what a person did by hand holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overrides {
    /// It does: the loop asks.
    #[default]
    Respect,
    /// Only what was done from then on: a person asked for the desired state at that moment.
    Since(Millis),
}

/// Whether the entry of a tenant comes up before the rest of it, also when it does not exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// What is still to be created or built of an earlier role is waited for.
    #[default]
    Strict,
    /// It is not: creating or building failed.
    Loose,
}

/// The terms of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Whose objects pruning may take.
    pub writer: ManagedBy,
    /// What becomes of data.
    pub removal: Removal,
    /// Whether manual changes hold.
    pub overrides: Overrides,
    /// For how long they do, seconds.
    pub override_seconds: u64,
    /// Whether later roles wait for earlier ones that are not there yet.
    pub order: Order,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            writer: ManagedBy::Local,
            removal: Removal::KeepData,
            overrides: Overrides::Respect,
            override_seconds: MANUAL_OVERRIDE_SECONDS,
            order: Order::Strict,
        }
    }
}

/// The first wait after a failure, seconds; it doubles with each further one.
const FIRST_BACKOFF: u64 = 10;

/// The longest wait after a failure, seconds.
const LONGEST_BACKOFF: u64 = 300;

impl Terms {
    /// Until when a person's change of an instance holds. One from the future was made before
    /// the clock was set back: it no longer holds.
    pub(crate) fn held_until(&self, instance: &ObservedInstance, now: Millis) -> Option<Millis> {
        let at = instance.manual.filter(|at| *at <= now)?;
        let until = at.saturating_add(self.override_seconds.saturating_mul(1000));
        let holds = match self.overrides {
            Overrides::Respect => true,
            Overrides::Since(asked) => at >= asked,
        };
        (holds && until > now).then_some(until)
    }
}

/// Until when an instance whose last step failed is left alone.
pub(crate) fn backoff_until(instance: &ObservedInstance, now: Millis) -> Option<Millis> {
    let unnoted = Failure { count: 1, at: instance.since };
    let failure =
        instance.failure.or_else(|| (instance.status == Status::Failed).then_some(unnoted))?;
    let doubled = FIRST_BACKOFF << failure.count.saturating_sub(1).min(6);
    let until = failure.at.saturating_add(doubled.min(LONGEST_BACKOFF) * 1000);
    (failure.at <= now && until > now).then_some(until)
}
