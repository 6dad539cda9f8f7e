//! A VMM that waits for the wake of an instance that sleeps: started ahead, kept while it is what
//! the wake would start, taken by the wake.
//!
//! It changes no record. A `kill -9` while it is started leaves a VMM that waits, or a supervisor
//! that ends by itself; one that is not right any more is ended by whoever finds that.

use std::time::Duration;

use mvm_model::state::{State, VmRef};
use mvm_vmm::{RunState, RunningRecord, StartMode};

use super::Driver;
use super::prepare::Prepared;
use crate::error::{Error, Kind, Result};

/// How long a VMM that waits may take to say so; it has nothing else to do.
const ANSWER: Duration = Duration::from_millis(500);
/// How long one may take that was just started: nobody waits for it yet.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Whether there is a VMM for a wake.
pub(super) enum Ahead {
    /// It waits, and is what the wake would start.
    Ready(VmRef),
    /// There is none for this reason, although there should be.
    Missing(&'static str),
    /// None is wanted here.
    NotWanted,
}

impl Driver<'_> {
    /// Makes sure that a VMM waits for the wake of this sleeping instance, if the host's budget
    /// admits one. A failure costs time at the wake, which says why.
    pub(crate) async fn stand_by(&mut self) {
        let phases = self.phases.len();
        if let Err(error) = self.try_to_stand_by().await {
            tracing::warn!(instance = %self.record.path(), error = error.chain(), "no VMM waits for its wake");
        }
        self.phases.truncate(phases);
    }

    async fn try_to_stand_by(&mut self) -> Result<()> {
        let State::Sleeping { .. } = self.record.state else { return Ok(()) };
        let tenant = self.service.living_tenant(&self.record.tenant_id)?;
        self.prepare_network(&tenant).await?;
        if let Some(waiting) = self.service.waiting_vmm(&self.record) {
            let blueprint = self.blueprint_of_wake().await?;
            let placement = self.service.placement(&blueprint)?;
            let launch = blueprint.launch(StartMode::Restore, placement);
            if waiting.fingerprint == Some(launch.fingerprint()) {
                return Ok(());
            }
            self.machine().kill().await?;
        }
        if !self.service.has_room_to_wait(&self.record) {
            return Ok(());
        }
        let prepared = self.prepare(self.record.revision.clone()).await?;
        let kind = prepared.blueprint.vmm().kind;
        if !self.service.settings()?.prespawn.admits(kind) {
            return Ok(());
        }
        let machine = self.machine();
        let waits = async {
            machine.launch(&prepared.blueprint, StartMode::Restore).await?;
            // It listens; that it answers too is not left for the wake to find out.
            match self.says_it_waits(FIRST_ANSWER).await {
                true => Ok(()),
                false => Err(Error::new(Kind::Failed, self.record.path(), "it does not answer")),
            }
        };
        let waits = waits.await;
        if waits.is_err() {
            machine.kill().await?;
        }
        waits
    }

    /// Ends the VMM that waits for this instance; whatever else runs for it is left alone.
    pub(crate) async fn end_waiting(&self) {
        if self.record.transition.is_some() || self.service.waiting_vmm(&self.record).is_none() {
            return;
        }
        if let Err(error) = self.machine().kill().await {
            tracing::warn!(instance = %self.record.path(), error = error.chain(), "a waiting VMM stays");
        }
    }

    /// The VMM that waits for this wake.
    pub(super) async fn ahead(&self, prepared: &Prepared) -> Ahead {
        let kind = prepared.blueprint.vmm().kind;
        let is_wanted =
            self.service.settings().is_ok_and(|settings| settings.prespawn.admits(kind));
        let Some(waiting) = self.service.waiting_vmm(&self.record) else {
            return match is_wanted {
                true => Ahead::Missing("no VMM waited for it"),
                false => Ahead::NotWanted,
            };
        };
        if !self.is_what_a_wake_starts(&waiting, prepared) {
            return Ahead::Missing("the VMM that waited was started with something else");
        }
        match self.says_it_waits(ANSWER).await {
            true => Ahead::Ready(VmRef {
                process: waiting.process,
                vmm: waiting.vmm,
                resumed_from: None,
            }),
            false => Ahead::Missing("the VMM that waited did not answer"),
        }
    }

    async fn says_it_waits(&self, limit: Duration) -> bool {
        let state = tokio::time::timeout(limit, self.machine().run_state()).await;
        matches!(state, Ok(Some(RunState::Waiting)))
    }

    fn is_what_a_wake_starts(&self, waiting: &RunningRecord, prepared: &Prepared) -> bool {
        let blueprint = &prepared.blueprint;
        let Ok(placement) = self.service.placement(blueprint) else { return false };
        let launch = blueprint.launch(StartMode::Restore, placement);
        waiting.vmm == *blueprint.vmm() && waiting.fingerprint == Some(launch.fingerprint())
    }
}
