//! What an instance really is: its record held against the processes that exist.
//!
//! Nothing here writes. A record that says `running` while its VM is gone is shown as what it
//! became (stopped when the guest turned itself off or the host was, else failed with the reason);
//! the next command that takes the instance's lock writes that down.

use mvm_host::lock;
use mvm_model::record::InstanceRecord;
use mvm_model::state::{State, Status, Transition};
use mvm_vmm::process;
use mvm_vmm::{ExitKind, ExitRecord, GuestEnd, RunningRecord};

use crate::machine::Machine;
use crate::service::Service;

/// An instance as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Its state now.
    pub state: State,
    /// The transition its record carries.
    pub transition: Option<Transition>,
}

impl Observed {
    /// Which quota it counts against: its status, or the one it is on its way to.
    pub fn claims(&self) -> Option<Status> {
        match (&self.transition, &self.state) {
            (Some(Transition::Starting | Transition::Waking { .. } | Transition::Resuming), _) => {
                Some(Status::Running)
            }
            (_, State::Running { .. }) => Some(Status::Running),
            (_, State::Warm { .. }) => Some(Status::Warm),
            _ => None,
        }
    }
}

/// What became of an instance whose VM is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aftermath {
    /// Its state.
    pub(crate) state: State,
    /// How that came about, for people.
    pub(crate) reason: String,
    /// Whether it counts as a failure of the instance, which is not brought up again at once.
    pub(crate) is_its_own: bool,
}

/// What became of a state whose VM ended by itself, by what its supervisor saw of that.
fn after_exit(exit: Option<&ExitRecord>, was_running: bool) -> Aftermath {
    let shut_down = |exit: &ExitRecord| exit.guest == Some(GuestEnd::Shutdown);
    let guest =
        exit.filter(|exit| was_running && (exit.how == ExitKind::Code(0) || shut_down(exit)));
    let off =
        |reason: &str| Aftermath { state: State::Stopped, reason: reason.into(), is_its_own: true };
    let failed = |reason: String| Aftermath {
        state: State::Failed { reason: reason.clone(), kept: "the data drive".into() },
        reason,
        is_its_own: true,
    };
    match (guest.map(|exit| exit.guest.as_ref()), exit) {
        (_, Some(ExitRecord { how: ExitKind::Told, .. })) => Aftermath {
            state: State::Stopped,
            reason: "its unit or its host was stopped".into(),
            is_its_own: false,
        },
        // A kernel that panics resets the machine, which ends the VMM like a power-off does.
        (Some(Some(end @ (GuestEnd::Panicked(_) | GuestEnd::Shutdown))), _) => {
            failed(end.to_string())
        }
        (Some(Some(end)), _) => off(&end.to_string()),
        (Some(None), _) => off("its guest ended its VM and did not say why"),
        (None, Some(exit)) => failed(format!("the VM ended by itself ({})", exit.how)),
        (None, None) => {
            failed("the VM is gone (somebody killed it, and nobody saw how it ended)".into())
        }
    }
}

/// Whether a record's VM was started before the host booted.
fn is_of_former_boot(record: &InstanceRecord) -> bool {
    let then = record.state.vm().map(|vm| vm.process.boot_id.as_str());
    process::boot_id().is_ok_and(|now| then.is_some_and(|then| then != now))
}

impl Service {
    /// What an instance really is.
    pub fn observe(&self, record: &InstanceRecord) -> Observed {
        let transition = record.transition.clone().filter(|_| !self.is_abandoned(record));
        Observed { state: self.state_now(record), transition }
    }

    /// The state of an instance, its VM held against the processes that exist.
    pub(crate) fn state_now(&self, record: &InstanceRecord) -> State {
        self.aftermath(record).map_or_else(|| record.state.clone(), |after| after.state)
    }

    /// Whether a transition was interrupted before it had a VM: nobody works on it, nothing runs.
    fn is_abandoned(&self, record: &InstanceRecord) -> bool {
        !self.is_busy(record) && Machine::of(self, record).living_vm().is_none()
    }

    /// Whether somebody is at an instance right now: who is holds its lock.
    pub(crate) fn is_busy(&self, record: &InstanceRecord) -> bool {
        lock::is_held(&lock::path_in(&self.instance_dir(record)))
    }

    /// What became of an instance whose VM is gone; `None` while it has one, and when it has none.
    /// While its supervisor still writes down how it ended, that is not known yet and the record
    /// stands.
    pub(crate) fn aftermath(&self, record: &InstanceRecord) -> Option<Aftermath> {
        let vm = record.state.vm()?;
        if process::is_alive(&vm.process) {
            return None;
        }
        let exit = self.exit_of(record);
        let running = RunningRecord::load(&self.dirs.vm(record.instance_id)).ok().flatten();
        let supervised = running.is_some_and(|running| process::is_alive(&running.supervisor));
        match (&exit, supervised) {
            (None, true) => None,
            // Nothing went wrong with it: its host was turned off.
            (None, false) if is_of_former_boot(record) => Some(Aftermath {
                state: State::Stopped,
                reason: "this host was restarted".into(),
                is_its_own: false,
            }),
            _ => {
                let was_running = matches!(record.state, State::Running { .. });
                Some(after_exit(exit.as_ref(), was_running))
            }
        }
    }

    /// How an instance's VM ended, when its shim saw it.
    pub fn exit_of(&self, record: &InstanceRecord) -> Option<ExitRecord> {
        let exit = ExitRecord::load(&self.dirs.vm(record.instance_id)).ok().flatten()?;
        // An older VM's record says nothing about this one.
        let ours = record.state.vm().is_some_and(|vm| vm.process == exit.process);
        ours.then_some(exit)
    }
}

#[cfg(test)]
mod tests {
    use mvm_model::vm::ProcessId;

    use super::*;

    fn exit(how: ExitKind, guest: Option<GuestEnd>) -> ExitRecord {
        ExitRecord {
            process: ProcessId { pid: 1, start_ticks: 1, boot_id: "b".into() },
            how,
            at: 0,
            console_dropped: 0,
            last_log: vec![],
            last_console: vec![],
            guest,
        }
    }

    #[test]
    fn a_guest_that_turned_itself_off_is_stopped_and_one_that_broke_has_failed() {
        let after = |how, guest, running| after_exit(Some(&exit(how, guest)), running);
        let off = after(ExitKind::Code(0), Some(GuestEnd::TurnedOff), true);
        assert_eq!((off.state, &*off.reason), (State::Stopped, "its guest turned itself off"));
        let silent = after(ExitKind::Code(0), None, true);
        assert_eq!(silent.state, State::Stopped);
        let panic = Some(GuestEnd::Panicked("no init".into()));
        let panicked = after(ExitKind::Code(0), panic.clone(), true);
        assert!(matches!(panicked.state, State::Failed { .. }));
        assert_eq!(panicked.reason, "its guest's kernel panicked: no init");
        for code in [0, 1] {
            let shut_down = after(ExitKind::Code(code), Some(GuestEnd::Shutdown), true);
            assert_eq!(shut_down.reason, "its guest's processor shut down (a triple fault)");
        }
        // Its console is of before: a paused guest ends nothing.
        let killed = after(ExitKind::Signal(9), panic, true);
        assert_eq!(killed.reason, "the VM ended by itself (SIGKILL)");
        let told = after(ExitKind::Told, None, true);
        assert_eq!((told.state, told.is_its_own), (State::Stopped, false));
        let paused = after(ExitKind::Code(0), Some(GuestEnd::TurnedOff), false);
        assert!(matches!(paused.state, State::Failed { .. }));
        assert!(matches!(after_exit(None, true).state, State::Failed { .. }));
    }
}
