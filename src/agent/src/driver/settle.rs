//! Settling what an interrupted command or a VM that ended by itself left behind.
//!
//! Runs under the instance's lock before every transition, so each starts from a record that is
//! true. The decision is [`mvm_model::state::settle`]; this file reads reality and acts.

use mvm_host::drive;
use mvm_host::snapshot::{Held, Snapshots};
use mvm_model::state::{Reality, Settlement, State, Transition, VmRef, settle};
use mvm_vmm::RunState;

use super::Driver;
use crate::error::{About, Error, Kind, Result};
use crate::machine::Machine;
use crate::observe::Aftermath;

impl Driver<'_> {
    pub(crate) async fn settle(&mut self) -> Result<()> {
        match self.record.transition.clone() {
            Some(transition) => {
                let settled = self.settle_interrupted(&transition).await;
                self.conclude(&transition, settled).await?;
            }
            None => self.settle_exit().await?,
        }
        self.sweep();
        Ok(())
    }

    /// Tells what became of an interrupted transition, which nobody else can tell any more. What is
    /// not settled yet is told by whoever settles it.
    async fn conclude(&mut self, transition: &Transition, settled: Result<()>) -> Result<()> {
        let is_gone = *transition == Transition::Destroying
            && settled.as_ref().is_err_and(|error| error.kind == Kind::NotFound);
        if settled.is_err() && !is_gone {
            return settled;
        }
        let path = self.record.path();
        let event = format!("instance.{}", transition.verb());
        let who = self.former.as_deref().unwrap_or("a command");
        let status = self.record.state.status();
        if is_gone || Some(status) == transition.target() {
            let text = format!("{who} was interrupted; this was completed");
            self.service.audit_with(&path.pool.tenant, &path, &event, &Ok(()), &text).await;
            return settled;
        }
        // What a person asked for is not so: it does not hold the loop from making it so.
        if self.record.manual.take().is_some() {
            self.service.records.put_instance(&self.record)?;
        }
        let text = format!("{who} was interrupted; the instance is {status}");
        let told: Result<()> = Err(Error::new(Kind::Interrupted, &path, text));
        self.service.audit(&path.pool.tenant, &path, &event, &told).await;
        settled
    }

    /// A snapshot that was used is removed once its VM is written down, and a small drive's parts
    /// with the drive; who should have done that may have been killed. What stays takes space, and
    /// is never used.
    fn sweep(&self) {
        let dir = self.service.instance_dir(&self.record);
        let named = match self.record.state {
            State::Sleeping { generation } => Some(generation),
            _ => None,
        };
        let instance = self.record.instance_id;
        let secrets = self.service.secrets_if_any();
        let swept = Snapshots::of(&dir)
            .sweep(named)
            .and_then(|()| drive::sweep_small(&dir.join("config.img")))
            .and_then(|()| secrets.map_or(Ok(()), |secrets| secrets.sweep(instance)));
        if let Err(error) = swept {
            tracing::warn!(instance = %self.record.path(), %error, "something useless stays");
        }
    }

    /// Writes down that the VM ended by itself. A VM that no state owns is ended; one that waits
    /// for the wake of a sleeping instance is left to it.
    pub(super) async fn settle_exit(&mut self) -> Result<()> {
        if self.record.state.vm().is_none() {
            return match self.service.waiting_vmm(&self.record) {
                Some(_) => Ok(()),
                None => self.machine().kill().await,
            };
        }
        let Some(after) = self.service.aftermath(&self.record) else { return Ok(()) };
        self.machine().kill().await?;
        self.forget_secrets();
        // Told first: whoever is interrupted here comes back and tells it twice, never not at all.
        self.tell_exit(&after).await;
        let failure = if after.is_its_own { self.next_failure() } else { self.record.failure };
        // It is no longer as a person put it.
        self.record.manual = None;
        self.record.note = Some(after.reason);
        self.enter(after.state);
        self.record.failure = failure;
        self.service.records.put_instance(&self.record)
    }

    async fn tell_exit(&self, after: &Aftermath) {
        let path = self.record.path();
        let tell = async |result: &Result<()>, more| {
            let tenant = &self.record.tenant_id;
            self.service.audit_with(tenant, &path, "instance.exit", result, more).await;
        };
        match &after.state {
            State::Failed { .. } => {
                let error = Error::new(Kind::Failed, &path, after.reason.clone());
                tell(&Err(error), "").await;
            }
            _ => tell(&Ok(()), &after.reason).await,
        }
    }

    async fn settle_interrupted(&mut self, transition: &Transition) -> Result<()> {
        let machine = self.machine();
        let snapshots = Snapshots::of(&self.service.instance_dir(&self.record));
        let vm = self.vm_to_keep(transition, &machine).await;
        let real = self.reality(transition, &snapshots, vm.is_some())?;
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
                self.forget_secrets();
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

    /// The VM that lives. One that still waits to be booted or for memory holds no guest.
    async fn vm_to_keep(&self, transition: &Transition, machine: &Machine) -> Option<VmRef> {
        let vm = machine.living_vm()?;
        let may_wait = matches!(transition, Transition::Starting | Transition::Waking { .. });
        match may_wait && machine.run_state().await == Some(RunState::Waiting) {
            true => None,
            false => Some(vm),
        }
    }

    fn reality(
        &self,
        transition: &Transition,
        snapshots: &Snapshots,
        vm_alive: bool,
    ) -> Result<Reality> {
        let held = match transition {
            Transition::Sleeping { generation } | Transition::Waking { generation } => {
                let held = snapshots.held(*generation);
                held.about(self.record.path(), "look at its snapshot")?
            }
            _ => Held::Nothing,
        };
        Ok(Reality {
            vm_alive,
            snapshot_complete: held != Held::Nothing,
            consumed: held == Held::Used,
        })
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
        self.resume_vm().await?;
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
