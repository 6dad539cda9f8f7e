//! Cold boot, and warm: starting a VM, pausing it, resuming it.

use mvm_model::state::{State, Transition, VmRef};
use mvm_vmm::StartMode;

use super::Driver;
use super::asked::is_called_off;
use super::prepare::Prepared;
use crate::error::{Error, Result};

impl Driver<'_> {
    /// created, stopped, failed → running.
    pub(super) async fn start(&mut self) -> Result<()> {
        self.take_place().await?;
        self.begin(Transition::Starting).await?;
        self.boot(None).await
    }

    /// Boots from the drives. `note` tells why this is not the resume somebody asked for.
    pub(super) async fn boot(&mut self, note: Option<String>) -> Result<()> {
        let prepared = match self.prepare(None).await {
            Ok(prepared) => prepared,
            // Nothing runs yet: what was true before still is.
            Err(error) => {
                self.forget_secrets();
                return self.take_back().and(Err(error));
            }
        };
        match self.boot_prepared(&prepared).await {
            Ok(vm) => {
                self.record.note = and(note, self.catch_up_secrets().await);
                self.finish(State::Running { vm })
            }
            Err(error) => {
                // A VM that does not end keeps its transition: the next command settles it.
                self.machine().kill().await?;
                self.forget_secrets();
                match is_called_off(&error) {
                    true => self.called_back(&error)?,
                    false => self.fail(&error)?,
                }
                Err(error)
            }
        }
    }

    /// Nothing went wrong, and a boot loses nothing: what was true before still is.
    fn called_back(&mut self, error: &Error) -> Result<()> {
        self.record.note = Some(format!("its start was called off: {}", error.chain()));
        self.take_back()
    }

    async fn boot_prepared(&mut self, prepared: &Prepared) -> Result<VmRef> {
        self.check_cancel()?;
        let machine = self.machine();
        let vm = machine.launch(&prepared.blueprint, StartMode::Boot).await?;
        self.phase("spawn");
        tokio::select! {
            answered = machine.await_guest(self.cancel) => answered?,
            off = self.wanted_off() => return Err(off),
        }
        self.phase("guest");
        Ok(vm)
    }

    /// running → warm.
    pub(super) async fn warm(&mut self) -> Result<()> {
        let vm = self.vm()?;
        self.begin(Transition::Warming).await?;
        let machine = self.machine();
        match machine.pause().await {
            Ok(()) => {
                self.phase("pause");
                self.finish(State::Warm { vm })
            }
            Err(error) => match machine.is_executing().await {
                // It may have paused and only not said so.
                Some(false) => {
                    tracing::warn!(instance = %self.record.path(), error = error.chain(), "paused late");
                    self.finish(State::Warm { vm })
                }
                Some(true) => self.take_back().and(Err(error)),
                // Nobody knows: whoever comes next lets it go on.
                None => Err(error),
            },
        }
    }

    /// warm → running.
    pub(super) async fn resume(&mut self) -> Result<()> {
        let vm = self.vm()?;
        self.begin(Transition::Resuming).await?;
        let machine = self.machine();
        let resumed = self.resume_vm().await;
        self.phase("resume");
        if let Err(error) = resumed {
            return self.take_back().and(Err(error));
        }
        // The guest's clock stood still; a guest that cannot be told is running all the same.
        self.record.note = match machine.wake_guest().await {
            Ok(problems) => problems,
            Err(error) => {
                Some(format!("the guest was not told that it was paused: {}", error.chain()))
            }
        };
        self.phase("guest");
        // What was set while it was paused was not written under it.
        self.record.note = and(self.record.note.take(), self.catch_up_secrets().await);
        self.phase("secrets");
        self.finish(State::Running { vm })
    }

    /// Lets the vCPUs execute; fine when they do and it was only not said so.
    pub(super) async fn resume_vm(&self) -> Result<()> {
        let machine = self.machine();
        match machine.resume().await {
            Err(error) if machine.is_executing().await != Some(true) => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn vm(&self) -> Result<VmRef> {
        use crate::error::Kind;
        let gone = || Error::new(Kind::Failed, self.record.path(), "the record names no VM");
        self.record.state.vm().cloned().ok_or_else(gone)
    }
}

/// Two notes, of which there may be none.
pub(super) fn and(one: Option<String>, other: Option<String>) -> Option<String> {
    let both: Vec<_> = one.into_iter().chain(other).collect();
    (!both.is_empty()).then(|| both.join("; "))
}
