//! What an instance really is: its record held against the processes that exist.
//!
//! Nothing here writes. A record that says `running` while its VM is gone is shown as what it
//! became (stopped when the guest turned itself off, else failed with the reason); the next
//! command that takes the instance's lock writes that down.

use mvm_host::lock;
use mvm_model::record::InstanceRecord;
use mvm_model::state::{State, Status, Transition};
use mvm_vmm::process;
use mvm_vmm::{ExitKind, ExitRecord, RunningRecord};

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

/// What a state became when its VM is gone.
pub fn after_exit(state: &State, exit: Option<&ExitRecord>) -> State {
    // A guest's kernel that panics resets the machine, which ends the VMM like a power-off does.
    let panic =
        exit.and_then(|exit| exit.last_console.iter().find(|line| line.contains("Kernel panic")));
    if let (State::Running { .. }, Some(panic)) = (state, panic) {
        return State::Failed {
            reason: format!("the guest's kernel gave up: {panic}"),
            kept: "the data drive".into(),
        };
    }
    let kept = "the data drive".to_owned();
    match (state, exit) {
        (State::Running { .. }, Some(exit)) if exit.how == ExitKind::Code(0) => State::Stopped,
        (State::Running { .. } | State::Warm { .. }, Some(exit)) => {
            State::Failed { reason: format!("the VM ended by itself ({})", exit.how), kept }
        }
        (State::Running { .. } | State::Warm { .. }, None) => State::Failed {
            reason: "the VM is gone (the host was restarted, or somebody killed it)".into(),
            kept,
        },
        (other, _) => other.clone(),
    }
}

impl Service {
    /// What an instance really is.
    pub fn observe(&self, record: &InstanceRecord) -> Observed {
        let transition = record.transition.clone().filter(|_| !self.is_abandoned(record));
        Observed { state: self.state_now(record), transition }
    }

    /// The state of an instance, its VM held against the processes that exist.
    pub(crate) fn state_now(&self, record: &InstanceRecord) -> State {
        match record.state.vm() {
            Some(vm) if !process::is_alive(&vm.process) => self.without_vm(record),
            _ => record.state.clone(),
        }
    }

    /// Whether a transition was interrupted before it had a VM: nobody works on it, nothing runs.
    fn is_abandoned(&self, record: &InstanceRecord) -> bool {
        let lock = lock::path_in(&self.instance_dir(record));
        !lock::is_held(&lock) && Machine::of(self, record).living_vm().is_none()
    }

    /// What a record whose VM is gone became. While its supervisor still writes down how it
    /// ended, that is not known yet and the record stands.
    fn without_vm(&self, record: &InstanceRecord) -> State {
        let exit = self.exit_of(record);
        let running = RunningRecord::load(&self.dirs.vm(record.instance_id)).ok().flatten();
        let supervised = running.is_some_and(|running| process::is_alive(&running.supervisor));
        match (&exit, supervised) {
            (None, true) => record.state.clone(),
            _ => after_exit(&record.state, exit.as_ref()),
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
