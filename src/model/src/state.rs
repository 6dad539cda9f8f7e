//! The instance state machine.
//!
//! ```text
//!             start                    warm
//!  created ──────────────► running ◄─────────► warm
//!     │                     ▲ │ ▲      resume    │
//!     │                wake │ │ │                │
//!     │                     │ ▼ │ start          │ sleep
//!     │                  sleeping ◄───────────────┘
//!     │                       │ │
//!     │        stop (from running, warm, sleeping, failed)
//!     │                       ▼ │
//!     │                    stopped ──start──► running
//!     ▼                       ▼
//!  destroyed ◄──destroy── any status
//!
//!  failed: a transition broke off or a VM ended by itself; says why and what was kept.
//!          start and wake leave it by a cold boot, stop makes it stopped.
//! ```
//!
//! Every transition is a [`Transition`] written into the record *before* its first effect and
//! removed together with the new state after its last. A record that carries a transition while
//! nobody holds the instance's lock was interrupted; [`settle`] says, from what is true on the
//! host, which state that leaves:
//!
//! | transition | on the way | interrupted |
//! |---|---|---|
//! | start | files, tap, VMM, guest ready | VM alive → running, else as before (cold boot loses nothing) |
//! | warm, resume | VM paused, resumed | VM alive → back to the status before |
//! | sleep | guest prepared, paused, snapshot written, **renamed into place**, VMM ended | snapshot complete → sleeping (VM ended); else VM alive → running (resumed); else failed, data kept |
//! | wake | VM loaded, **consumed mark**, resumed, guest told, snapshot removed | snapshot there and mark absent → sleeping (VM ended); else VM alive → running; else failed, cold boot next |
//! | stop | guest powered off or VMM ended, snapshot deleted | forward → stopped |
//! | destroy | stop, tap, drives, record removed | forward |

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::vm::{ProcessId, Vmm};

/// A VM that exists: its process and what it was started as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRef {
    /// The VMM's process.
    pub process: ProcessId,
    /// VMM and accelerator.
    pub vmm: Vmm,
    /// Snapshot generation it was resumed from; `None` after a cold boot.
    pub resumed_from: Option<u64>,
}

/// What an instance is, with what that state owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum State {
    /// Has a record, an address and (when asked for) a data drive; never started.
    Created,
    /// Its vCPUs execute.
    Running {
        /// The VM.
        vm: VmRef,
    },
    /// Its vCPUs are paused, its memory is kept.
    Warm {
        /// The VM.
        vm: VmRef,
    },
    /// Its memory is a snapshot on disk; there is no VM.
    Sleeping {
        /// Which snapshot.
        generation: u64,
    },
    /// Off; its snapshot is deleted, its data drive kept.
    Stopped,
    /// Something went wrong; there is no VM.
    Failed {
        /// What, for people.
        reason: String,
        /// What was kept, for people.
        kept: String,
    },
}

/// The word for a state, as JSON and tables show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never started.
    Created,
    /// vCPUs execute.
    Running,
    /// vCPUs paused, memory kept.
    Warm,
    /// Snapshot on disk, no VM.
    Sleeping,
    /// Off.
    Stopped,
    /// Failed, with a reason.
    Failed,
}

impl Status {
    /// As tables show it.
    pub fn capitalised(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Running => "Running",
            Self::Warm => "Warm",
            Self::Sleeping => "Sleeping",
            Self::Stopped => "Stopped",
            Self::Failed => "Failed",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.capitalised().to_ascii_lowercase())
    }
}

impl State {
    /// The word for it.
    pub fn status(&self) -> Status {
        match self {
            Self::Created => Status::Created,
            Self::Running { .. } => Status::Running,
            Self::Warm { .. } => Status::Warm,
            Self::Sleeping { .. } => Status::Sleeping,
            Self::Stopped => Status::Stopped,
            Self::Failed { .. } => Status::Failed,
        }
    }

    /// The VM this state owns.
    pub fn vm(&self) -> Option<&VmRef> {
        match self {
            Self::Running { vm } | Self::Warm { vm } => Some(vm),
            _ => None,
        }
    }
}

/// What can be asked of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Boot it.
    Start,
    /// Pause it, keeping its memory.
    Warm,
    /// Put it to sleep on disk.
    Sleep,
    /// Make it run again, from warm or sleeping.
    Wake,
    /// Turn it off.
    Stop,
    /// Remove it with its data.
    Destroy,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Start => "start",
            Self::Warm => "warm",
            Self::Sleep => "sleep",
            Self::Wake => "wake",
            Self::Stop => "stop",
            Self::Destroy => "destroy",
        })
    }
}

/// A transition on its way, as the record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Transition {
    /// Cold boot.
    Starting,
    /// Pausing into warm.
    Warming,
    /// Resuming from warm.
    Resuming,
    /// Writing snapshot `generation`.
    Sleeping {
        /// The generation being written.
        generation: u64,
    },
    /// Resuming snapshot `generation`.
    Waking {
        /// The generation being resumed.
        generation: u64,
    },
    /// Turning off.
    Stopping,
    /// Removing.
    Destroying,
}

impl Transition {
    /// What was asked for, as people ask for it.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Starting => Verb::Start,
            Self::Warming => Verb::Warm,
            Self::Resuming | Self::Waking { .. } => Verb::Wake,
            Self::Sleeping { .. } => Verb::Sleep,
            Self::Stopping => Verb::Stop,
            Self::Destroying => Verb::Destroy,
        }
    }

    /// The status it leads to; `None` when nothing is left then.
    pub fn target(&self) -> Option<Status> {
        match self {
            Self::Starting | Self::Resuming | Self::Waking { .. } => Some(Status::Running),
            Self::Warming => Some(Status::Warm),
            Self::Sleeping { .. } => Some(Status::Sleeping),
            Self::Stopping => Some(Status::Stopped),
            Self::Destroying => None,
        }
    }
}

/// What a verb means in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is so already; the text says it to people.
    Already(&'static str),
    /// Do this.
    Go(Transition),
}

/// A verb that makes no sense in a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} an instance that is {status}")]
pub struct Refusal {
    /// What was asked.
    pub verb: Verb,
    /// What it is.
    pub status: Status,
    /// What to do instead.
    pub hint: &'static str,
}

/// Decides what `verb` means for an instance in `state`. `next_generation` numbers the snapshot
/// that a sleep would write.
///
/// # Errors
/// [`Refusal`] when the verb makes no sense.
pub fn decide(state: &State, verb: Verb, next_generation: u64) -> Result<Decision, Refusal> {
    use Decision::{Already, Go};
    let refuse = |hint| Err(Refusal { verb, status: state.status(), hint });
    match (verb, state) {
        (Verb::Start, State::Created | State::Stopped | State::Failed { .. }) => {
            Ok(Go(Transition::Starting))
        }
        (Verb::Start | Verb::Wake, State::Running { .. }) => Ok(Already("running already")),
        (Verb::Start | Verb::Wake, State::Warm { .. }) => Ok(Go(Transition::Resuming)),
        (Verb::Start | Verb::Wake, State::Sleeping { generation }) => {
            Ok(Go(Transition::Waking { generation: *generation }))
        }
        (Verb::Wake, State::Failed { .. }) => Ok(Go(Transition::Starting)),
        (Verb::Wake, State::Created | State::Stopped) => refuse("start it instead"),
        (Verb::Warm, State::Running { .. }) => Ok(Go(Transition::Warming)),
        (Verb::Warm, State::Warm { .. }) => Ok(Already("warm already")),
        (Verb::Warm, _) => refuse("only a running instance can be warm; start or wake it first"),
        (Verb::Sleep, State::Running { .. } | State::Warm { .. }) => {
            Ok(Go(Transition::Sleeping { generation: next_generation }))
        }
        (Verb::Sleep, State::Sleeping { .. }) => Ok(Already("sleeping already")),
        (Verb::Sleep, _) => refuse("only a running or warm instance can sleep; start it first"),
        (Verb::Stop, State::Stopped) => Ok(Already("stopped already")),
        (Verb::Stop, State::Created) => Ok(Already("not started yet")),
        (Verb::Stop, _) => Ok(Go(Transition::Stopping)),
        (Verb::Destroy, _) => Ok(Go(Transition::Destroying)),
    }
}

/// What is true on the host about an instance whose transition was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reality {
    /// The VM of the record's state (or the one being started) is alive.
    pub vm_alive: bool,
    /// The transition's snapshot generation is complete: renamed into place with its manifest.
    pub snapshot_complete: bool,
    /// The transition's snapshot generation carries the consumed mark.
    pub consumed: bool,
}

/// What to do about an interrupted transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Keep the VM: make sure it executes and the guest is told, then running.
    AdoptRunning,
    /// Keep the VM as it is, paused: warm.
    AdoptWarm,
    /// End the VM if there is one; the state before the transition holds.
    Restore,
    /// End the VM if there is one; the snapshot holds.
    Asleep,
    /// End the VM if there is one; failed, next start is a cold boot with the data drive.
    Failed,
    /// Carry the transition through.
    Forward,
}

/// Settles an interrupted transition from what is true. See the table in the module's header.
pub fn settle(transition: &Transition, before: &State, real: Reality) -> Settlement {
    let holds = real.snapshot_complete && !real.consumed;
    match transition {
        Transition::Starting if real.vm_alive => Settlement::AdoptRunning,
        Transition::Starting => Settlement::Restore,
        Transition::Warming | Transition::Resuming if real.vm_alive => match before {
            State::Running { .. } => Settlement::AdoptRunning,
            _ => Settlement::AdoptWarm,
        },
        Transition::Warming | Transition::Resuming => Settlement::Failed,
        Transition::Sleeping { .. } if holds => Settlement::Asleep,
        Transition::Sleeping { .. } if real.vm_alive => Settlement::AdoptRunning,
        Transition::Sleeping { .. } => Settlement::Failed,
        // One that is gone was used: nobody removes one that is not.
        Transition::Waking { .. } if holds => Settlement::Asleep,
        Transition::Waking { .. } if real.vm_alive => Settlement::AdoptRunning,
        Transition::Waking { .. } => Settlement::Failed,
        Transition::Stopping | Transition::Destroying => Settlement::Forward,
    }
}

#[cfg(test)]
mod tests;
