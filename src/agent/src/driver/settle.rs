//! Settling what an interrupted command or a VM that ended by itself left behind.
//!
//! Runs under the instance's lock before every transition, so each starts from a record that is
//! true. The decision is [`mvm_model::state::settle`]; this file reads reality and acts.

use mvm_host::snapshot::Snapshots;
use mvm_model::state::{Reality, Settlement, State, Transition, VmRef, settle};

use super::Driver;
use crate::error::{About, Error, Kind, Result};
use crate::machine::Machine;

impl Driver<'_> {
    pub(super) async fn settle(&mut self) -> Result<()> {
        match self.record.transition.clone() {
            Some(transition) => self.settle_interrupted(&transition).await,
            None => self.settle_exit().await,
        }
    }

    /// Writes down that the VM ended by itself. A VM that no state owns is ended.
    async fn settle_exit(&mut self) -> Result<()> {
        if self.record.state.vm().is_none() {
            return self.machine().kill().await;
        }
        let observed = self.service.observe(&self.record).state;
        if observed == self.record.state {
            return Ok(());
        }
        self.machine().kill().await?;
        self.forget_secrets();
        self.finish(observed)
    }

    async fn settle_interrupted(&mut self, transition: &Transition) -> Result<()> {
        let machine = self.machine();
        let snapshots = Snapshots::of(&self.service.instance_dir(&self.record));
        let vm = machine.living_vm();
        let real = self.reality(transition, &snapshots, vm.is_some());
        tracing::info!(instance = %self.record.path(), ?transition, ?real, "settling an interrupted transition");
        match (settle(transition, &self.record.state, real), vm) {
            (Settlement::AdoptRunning, Some(vm)) => {
                self.adopt(transition, &machine, &snapshots, vm).await
            }
            (Settlement::AdoptWarm, Some(vm)) => {
                machine.pause().await?;
                self.finish(State::Warm { vm })
            }
            (Settlement::Restore, _) => {
                machine.kill().await?;
                self.take_back()
            }
            (Settlement::Asleep, _) => self.settle_asleep(&machine, transition).await,
            (Settlement::Forward, _) => self.carry_through(transition).await,
            (Settlement::Failed | Settlement::AdoptRunning | Settlement::AdoptWarm, _) => {
                machine.kill().await?;
                self.forget_secrets();
                snapshots.remove_except(None).ok();
                let reason = "a command was interrupted and its VM is gone".to_owned();
                self.finish(State::Failed { reason, kept: "the data drive".into() })
            }
        }
    }

    /// Ends what was on its way to its end.
    async fn carry_through(&mut self, transition: &Transition) -> Result<()> {
        if *transition != Transition::Destroying {
            return self.stop().await;
        }
        let path = self.record.path();
        self.destroy().await?;
        Err(Error::new(
            Kind::NotFound,
            &path,
            format!("{path} was being destroyed; that is finished now"),
        ))
    }

    fn reality(&self, transition: &Transition, snapshots: &Snapshots, vm_alive: bool) -> Reality {
        let generation = match transition {
            Transition::Sleeping { generation } | Transition::Waking { generation } => {
                Some(*generation)
            }
            _ => None,
        };
        Reality {
            vm_alive,
            snapshot_complete: generation
                .is_some_and(|generation| snapshots.is_complete(generation)),
            consumed: generation.is_some_and(|generation| snapshots.is_consumed(generation)),
        }
    }

    /// Keeps the VM. One that was booting or waking must answer, else it is ended: nothing is
    /// known of it. One that ran before goes on also with a guest agent that is slow to answer.
    async fn adopt(
        &mut self,
        transition: &Transition,
        machine: &Machine,
        snapshots: &Snapshots,
        vm: VmRef,
    ) -> Result<()> {
        // Worthless before the VM executes: what was written of it, or what it came from.
        snapshots.remove_except(None).about(self.record.path(), "discard its snapshot")?;
        machine.resume().await?;
        let answers = match transition {
            Transition::Starting => machine.await_guest(self.cancel).await.map(|()| None),
            _ => machine.wake_guest().await,
        };
        let is_new = matches!(transition, Transition::Starting | Transition::Waking { .. });
        match answers {
            Err(error) if is_new => {
                machine.kill().await?;
                self.fail(&error)
            }
            Err(error) => {
                self.record.note = Some(format!(
                    "an interrupted command left its guest silent: {}",
                    error.chain()
                ));
                self.finish(State::Running { vm })
            }
            Ok(problems) => {
                self.record.note = problems;
                self.finish(State::Running { vm })
            }
        }
    }

    async fn settle_asleep(&mut self, machine: &Machine, transition: &Transition) -> Result<()> {
        let (Transition::Sleeping { generation } | Transition::Waking { generation }) = *transition
        else {
            return self.take_back();
        };
        machine.kill().await?;
        self.record.next_generation = self.record.next_generation.max(generation + 1);
        self.finish(State::Sleeping { generation })
    }
}
