//! The idle policy: when a running instance becomes warm, when a parked one goes to sleep, and
//! why not.
//!
//! ```text
//!            idle ≥ warm_after                  idle ≥ sleep_after
//!  running ────────────────────► warm, parked ────────────────────► sleeping, parked
//!     │        (ran ≥ min_running)             (warm ≥ min_warm)          ▲
//!     └───────────────── idle ≥ sleep_after, no warm_after ───────────────┘
//! ```
//!
//! A parked instance still counts as running (see [`Parked`]): only a request, a person or
//! `keep_running` brings it back. Minimum times bind here and nowhere else.

use std::fmt;

use mvm_model::observed::{Motion, ObservedInstance, Parked};
use mvm_model::policy::{IdlePolicy, Protection, RuntimePolicy};
use mvm_model::record::Millis;
use mvm_model::state::Status;

use crate::terms::Terms;

/// What the policy decides for one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Pause it.
    Warm {
        /// Idle for so many seconds.
        idle: u64,
    },
    /// Put it to sleep.
    Sleep {
        /// Idle for so many seconds.
        idle: u64,
    },
    /// Leave it as it is.
    Stay(Stay),
}

/// Why the idle policy leaves an instance as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// The pool has no idle policy.
    NoPolicy,
    /// It is no running and no parked warm instance.
    NothingToPark,
    /// Something is on its way with it.
    Moving,
    /// A person changed it by hand.
    Manual {
        /// Left alone until then.
        until: Millis,
    },
    /// Protected.
    Protected(Protection),
    /// Its guest works, or nobody knows.
    Working,
    /// Not idle long enough.
    NotYet {
        /// Idle for so many seconds.
        idle: u64,
        /// Parked after so many.
        after: u64,
    },
    /// Not in its status long enough.
    TooYoung {
        /// For so many seconds.
        been: u64,
        /// At least so many.
        least: u64,
    },
    /// So many have to stay.
    Kept {
        /// `keep_running` or `keep_warm`.
        least: u32,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Warm { idle } => write!(f, "becomes warm: idle for {idle} s"),
            Self::Sleep { idle } => write!(f, "goes to sleep: idle for {idle} s"),
            Self::Stay(stay) => stay.fmt(f),
        }
    }
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => f.write_str("never parked: the pool has no idle policy"),
            Self::NothingToPark => f.write_str("nothing to park"),
            Self::Moving => f.write_str("stays: a transition is on its way"),
            Self::Manual { .. } => f.write_str("stays: a person changed it by hand"),
            Self::Protected(protection) => write!(f, "stays: it is {protection}"),
            Self::Working => f.write_str("stays: it is not idle"),
            Self::NotYet { idle, after } => {
                write!(f, "stays: idle for {idle} s, parked after {after} s")
            }
            Self::TooYoung { been, least } => {
                write!(f, "stays: there for {been} s, at least {least} s")
            }
            Self::Kept { least } => write!(f, "stays: {least} have to"),
        }
    }
}

/// The policies of the pool an instance is in.
#[derive(Debug, Clone, Copy)]
pub struct Policies {
    /// When idle instances are parked.
    pub idle: IdlePolicy,
    /// How long they stay at least.
    pub runtime: RuntimePolicy,
    /// What may not be taken from them.
    pub protection: Protection,
}

/// Decides for one instance that counts as running. How many have to stay is not looked at: see
/// [`Keep`].
pub fn decide(
    instance: &ObservedInstance,
    policies: &Policies,
    terms: &Terms,
    now: Millis,
) -> Verdict {
    match ripe(instance, policies, terms, now) {
        Ok(verdict) => verdict,
        Err(stay) => Verdict::Stay(stay),
    }
}

fn ripe(
    instance: &ObservedInstance,
    policies: &Policies,
    terms: &Terms,
    now: Millis,
) -> Result<Verdict, Stay> {
    if !policies.idle.is_active() {
        return Err(Stay::NoPolicy);
    }
    if instance.motion != Motion::Still {
        return Err(Stay::Moving);
    }
    if let Some(until) = terms.held_until(instance, now) {
        return Err(Stay::Manual { until });
    }
    match (instance.status, instance.parked) {
        (Status::Running, _) => from_running(instance, policies, now),
        (Status::Warm, Parked::Idle) => from_warm(instance, policies, now),
        _ => Err(Stay::NothingToPark),
    }
}

fn from_running(
    instance: &ObservedInstance,
    policies: &Policies,
    now: Millis,
) -> Result<Verdict, Stay> {
    let protection = policies.protection;
    if protection == Protection::Critical {
        return Err(Stay::Protected(protection));
    }
    let (idle_policy, runtime) = (policies.idle, policies.runtime);
    let warm = idle_policy.warm_after_seconds;
    let (after, verdict): (u64, fn(u64) -> Verdict) = match (warm, idle_policy.sleep_after_seconds)
    {
        (Some(after), _) => (after, |idle| Verdict::Warm { idle }),
        (None, Some(_)) if protection == Protection::Pinned => {
            return Err(Stay::Protected(protection));
        }
        (None, Some(after)) => (after, |idle| Verdict::Sleep { idle }),
        (None, None) => return Err(Stay::NoPolicy),
    };
    let since = instance.idle_since.ok_or(Stay::Working)?;
    let idle = idle_for(since, after, now)?;
    old_enough(instance, runtime.min_running_seconds, now)?;
    Ok(verdict(idle))
}

fn from_warm(
    instance: &ObservedInstance,
    policies: &Policies,
    now: Millis,
) -> Result<Verdict, Stay> {
    let Some(after) = policies.idle.sleep_after_seconds else { return Err(Stay::NothingToPark) };
    if policies.protection != Protection::None {
        return Err(Stay::Protected(policies.protection));
    }
    // A paused guest does nothing: it is idle at least since it was paused.
    let since = instance.idle_since.unwrap_or(instance.since).min(instance.since);
    let idle = idle_for(since, after, now)?;
    old_enough(instance, policies.runtime.min_warm_seconds, now)?;
    Ok(Verdict::Sleep { idle })
}

fn idle_for(since: Millis, after: u64, now: Millis) -> Result<u64, Stay> {
    let idle = now.saturating_sub(since) / 1000;
    if idle >= after { Ok(idle) } else { Err(Stay::NotYet { idle, after }) }
}

fn old_enough(instance: &ObservedInstance, least: u64, now: Millis) -> Result<(), Stay> {
    // A time in the future was taken before the clock was set back: it says nothing.
    let Some(age) = now.checked_sub(instance.since) else { return Ok(()) };
    let been = age / 1000;
    if been >= least { Ok(()) } else { Err(Stay::TooYoung { been, least }) }
}

/// How many of a pool's unnamed instances may still be parked. Ask for the longest idle first.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Running beyond `keep_running`.
    running: u32,
    /// Warm and parked beyond `keep_warm`.
    warm: u32,
    policy: IdlePolicy,
}

impl Keep {
    /// For a pool in which so many run and so many are warm because they were parked.
    pub fn new(policy: IdlePolicy, running: u32, parked_warm: u32) -> Self {
        Self {
            running: running.saturating_sub(policy.keep_running),
            warm: parked_warm.saturating_sub(policy.keep_warm),
            policy,
        }
    }

    /// The verdict when so many have to stay.
    pub fn limit(&mut self, status: Status, verdict: Verdict) -> Verdict {
        let (room, least) = match status {
            Status::Running => (&mut self.running, self.policy.keep_running),
            _ => (&mut self.warm, self.policy.keep_warm),
        };
        match verdict {
            Verdict::Stay(_) => verdict,
            _ if *room == 0 => Verdict::Stay(Stay::Kept { least }),
            _ => {
                *room -= 1;
                verdict
            }
        }
    }
}

#[cfg(test)]
mod tests;
