//! The instance driver: takes one instance through one transition.
//!
//! ```text
//! change(path, verb)
//!   │ lock the instance (others wait, then are told who holds it)
//!   │ settle what an interrupted command left      settle.rs
//!   │ decide(state, verb)                          mvm_model::state, pure
//!   └ one of                                       boot.rs, sleep.rs, wake.rs, stop.rs
//!        begin: the transition is on disk before its first effect
//!        …effects…
//!        finish: the new state is on disk after the last one
//! ```
//!
//! Only the holder of the instance's lock writes its record. A step that fails leaves the
//! instance in a state that is true: where nothing was lost the one before, else `failed` with
//! what was kept.

mod asked;
mod boot;
mod claim;
mod prepare;
mod renew;
mod secrets;
mod settle;
mod sleep;
mod stand_by;
mod stop;
mod wake;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mvm_host::lock::{self, Lock};
use mvm_model::InstancePath;
use mvm_model::intent::Object;
use mvm_model::observed::Parked;
use mvm_model::record::InstanceRecord;
use mvm_model::resources::OverQuota;
use mvm_model::state::{Decision, State, Transition, Verb, decide};

use crate::admission::Place;
use crate::error::{About, Error, Kind, Result};
use crate::machine::Machine;
use crate::pool::out_of_quota;
use crate::service::{Service, now};

/// How long a command waits for another one's transition of the same instance.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// From here on waiting for others that come up is a reason to be slow.
const LONG_WAIT: Duration = Duration::from_millis(100);

/// What a transition did.
#[derive(Debug)]
pub struct Outcome {
    /// The instance as it is now.
    pub record: InstanceRecord,
    /// Set when nothing had to be done, saying why.
    pub already: Option<&'static str>,
    /// How long each phase took, in order.
    pub phases: Vec<Phase>,
    /// Why it took longer than it should; empty mostly.
    pub slow: Vec<String>,
}

/// A measured part of a transition.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Phase {
    /// Its name: `load`, `resume`, `guest`, …
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// Who asks for a transition, and so what the record remembers of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A person: the loop leaves the instance as they put it, for a while. A named instance of
    /// theirs is asked to stay so.
    Person,
    /// A plan; what it pauses or puts to sleep is parked for this reason.
    Plan(Parked),
}

/// One instance in the hands of one command.
pub(crate) struct Driver<'a> {
    service: &'a Service,
    asker: Asker,
    record: InstanceRecord,
    cancel: &'a AtomicBool,
    phases: Vec<Phase>,
    slow: Vec<String>,
    last: Instant,
    /// Its place among those that come up now.
    place: Option<Place>,
    /// Who was at it last, as they said.
    former: Option<String>,
    _lock: Lock,
}

impl Service {
    /// Takes an instance through the transition a person asks for.
    ///
    /// # Errors
    /// When it makes no sense in its state, a quota is used up, somebody else is at it, or a
    /// step fails; the record then says what is true.
    pub async fn change(
        &self,
        path: &InstancePath,
        verb: Verb,
        cancel: &AtomicBool,
    ) -> Result<Outcome> {
        self.change_for(Asker::Person, path, verb, cancel).await
    }

    /// Takes an instance through the transition somebody asks for.
    ///
    /// # Errors
    /// Those of [`Self::change`].
    pub async fn change_for(
        &self,
        asker: Asker,
        path: &InstancePath,
        verb: Verb,
        cancel: &AtomicBool,
    ) -> Result<Outcome> {
        let mut driver = Driver::claim(self, path, cancel, asker, verb).await?;
        driver.asker = asker;
        match driver.settle().boxed().await {
            Err(error) if driver.ends_anyway(verb, &error) => {
                tracing::warn!(instance = %path, error = error.chain(), "it ends as it is");
            }
            settled => settled?,
        }
        driver.apply(verb).boxed().await
    }

    /// Settles what an interrupted command left of an instance.
    ///
    /// # Errors
    /// When somebody else is at it or something of it stays.
    pub async fn settle_instance(&self, path: &InstancePath, cancel: &AtomicBool) -> Result<()> {
        Driver::open(self, path, cancel, PATIENCE).await?.settle().await
    }

    /// Changes an instance's record where no transition is asked for.
    ///
    /// # Errors
    /// When somebody else is at it for longer than `patience`, or it cannot be written.
    pub(crate) async fn edit_instance(
        &self,
        path: &InstancePath,
        patience: Duration,
        edit: impl FnOnce(&mut InstanceRecord),
    ) -> Result<InstanceRecord> {
        let never = AtomicBool::new(false);
        let mut driver = Driver::open(self, path, &never, patience).await?;
        edit(&mut driver.record);
        self.records.put_instance(&driver.record)?;
        Ok(driver.record)
    }

    /// Destroys an instance with its data; a missing one is fine when it vanished meanwhile.
    ///
    /// # Errors
    /// When something of it stays.
    pub async fn destroy_instance(&self, path: &InstancePath) -> Result<()> {
        let record = self.instance(path)?;
        if let Some(name) = &record.name {
            self.permit(Object::Instance(path.pool.clone(), name.clone()), record.managed_by)?;
        }
        self.remove_instance(path).await
    }

    /// Destroys an instance, whoever's it is.
    pub(crate) async fn remove_instance(&self, path: &InstancePath) -> Result<()> {
        let never = AtomicBool::new(false);
        match self.change_for(Asker::Plan(Parked::No), path, Verb::Destroy, &never).await {
            Err(error) if error.kind == Kind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// Writes down what became of an instance whose VM ended by itself; called by its shim.
    /// Somebody who is changing the instance at that moment knows better and goes first.
    pub async fn note_exit(&self, path: &InstancePath) {
        let never = AtomicBool::new(false);
        if let Ok(mut driver) = Driver::open(self, path, &never, Duration::ZERO).await {
            let _ = driver.settle().await;
        }
    }

    /// Writes down what became of every instance whose VM ended and whose supervisor could not
    /// tell. The agent's loop calls it.
    pub(crate) async fn note_exits(&self) {
        for record in self.records.all_instances().records {
            if record.transition.is_none() && self.aftermath(&record).is_some() {
                self.note_exit(&record.path()).await;
            }
        }
    }
}

impl<'a> Driver<'a> {
    pub(crate) async fn open(
        service: &'a Service,
        path: &InstancePath,
        cancel: &'a AtomicBool,
        patience: Duration,
    ) -> Result<Self> {
        Self::open_as(service, &service.who, path, cancel, patience).await
    }

    /// The instance, held by somebody whom others are told of as `who`.
    async fn open_as(
        service: &'a Service,
        who: &str,
        path: &InstancePath,
        cancel: &'a AtomicBool,
        patience: Duration,
    ) -> Result<Self> {
        let id = service.instance(path)?.instance_id;
        let dir = service.dirs.instance(&path.pool, id);
        let gone =
            || Error::new(Kind::NotFound, path, format!("instance {path} was destroyed meanwhile"));
        let (place, mut former) = (lock::path_in(&dir), None);
        let lock = Lock::take_after(&place, who, patience, &mut former).await;
        let lock = match lock {
            Err(_) if !dir.exists() => return Err(gone()),
            other => other.about(path, "change the instance")?,
        };
        // Read again: only now nobody else writes it.
        let record = service.records.instance(&path.pool, id)?.ok_or_else(gone)?;
        let (phases, last) = (Vec::new(), Instant::now());
        let asker = Asker::Plan(record.parked);
        Ok(Self {
            service,
            asker,
            record,
            cancel,
            phases,
            slow: Vec::new(),
            last,
            place: None,
            former,
            _lock: lock,
        })
    }

    async fn apply(mut self, verb: Verb) -> Result<Outcome> {
        let decision =
            decide(&self.record.state, verb, self.record.next_generation).map_err(|refusal| {
                Error::new(Kind::WrongState, self.record.path(), refusal.to_string())
                    .hint(refusal.hint)
            })?;
        let already = match decision {
            Decision::Already(already) => {
                self.affirm(verb)?;
                Some(already)
            }
            Decision::Go(transition) => {
                let (tenant, path) = (self.record.tenant_id.clone(), self.record.path());
                let before = self.record.clone();
                self.remember(verb);
                // Boxed here and elsewhere: the type is too deep for the compiler to look through.
                let result = self.carry_out(transition).boxed().await;
                match &result {
                    Err(error) if asked::is_called_off(error) => self.unsay(before),
                    Err(error) => self.note_failure(verb, error),
                    Ok(()) => {}
                }
                let event = format!("instance.{verb}");
                self.service.audit_with(&tenant, path, &event, &result, &self.slowness()).await;
                result?;
                None
            }
        };
        Ok(Outcome { record: self.record, already, phases: self.phases, slow: self.slow })
    }

    /// Whether what cannot be settled is ended all the same: a VMM that answers nobody must not keep
    /// its instance from being stopped.
    fn ends_anyway(&self, verb: Verb, unsettled: &Error) -> bool {
        let decision = decide(&self.record.state, verb, self.record.next_generation);
        is_its_end(verb)
            && unsettled.kind != Kind::NotFound
            && matches!(decision, Ok(Decision::Go(_)))
    }

    async fn carry_out(&mut self, transition: Transition) -> Result<()> {
        match transition {
            Transition::Starting => {
                self.renew()?;
                self.start().await
            }
            Transition::Warming => self.warm().await,
            Transition::Resuming => self.resume().await,
            Transition::Sleeping { generation } => self.sleep(generation).await,
            Transition::Waking { generation } => self.wake(generation).await,
            Transition::Stopping => self.stop().await,
            Transition::Destroying => self.destroy().await,
        }
    }

    /// Writes the transition down before its first effect, if the tenant's quotas admit it.
    /// Counting and writing are one step under the state lock, so two starts cannot both take
    /// the last place.
    async fn begin(&mut self, transition: Transition) -> Result<()> {
        let path = self.record.path();
        let _state = self.service.lock_state().await?;
        self.admit(&transition)?
            .map_err(|over| out_of_quota(over, &self.record.tenant_id, &path, "let it run"))?;
        if let Transition::Sleeping { generation } = transition {
            // Used up from now on: a number never means two snapshots.
            self.record.next_generation = generation + 1;
        }
        let frees = is_its_end(transition.verb());
        let before = (self.record.transition.replace(transition), self.record.note.take());
        let written = match self.service.records.put_instance(&self.record) {
            // A full disk must not keep anybody from freeing it.
            Err(error) if frees && error.kind == Kind::DiskFull => Ok(()),
            other => other,
        };
        if written.is_err() {
            // Nothing was begun, and nobody may write later that it was.
            (self.record.transition, self.record.note) = before;
        }
        self.phase("begin");
        written
    }

    fn admit(&self, transition: &Transition) -> Result<std::result::Result<(), OverQuota>> {
        let tenant = &self.record.tenant_id;
        let quotas = self.service.tenant(tenant)?.quotas;
        let usage = self.service.usage(tenant);
        let resources = self.record.resources;
        let disk = |wanted: u64| self.service.admit_disk(tenant, &quotas, wanted);
        Ok(match transition {
            Transition::Starting | Transition::Waking { .. } if resources.mem_mib > host_mib() => {
                return Err(Error::new(
                    Kind::Refused,
                    self.record.path(),
                    format!("it needs {} MiB, this host has {} MiB", resources.mem_mib, host_mib()),
                )
                .hint("create its pool with less memory"));
            }
            Transition::Starting | Transition::Waking { .. } => {
                usage.admit_running(&quotas, resources)
            }
            Transition::Resuming => usage.admit_resume(&quotas),
            Transition::Warming => usage.admit_warm(&quotas),
            Transition::Sleeping { .. } => disk(resources.mem_mib),
            Transition::Stopping | Transition::Destroying => Ok(()),
        })
    }

    /// Writes the state the transition led to.
    fn finish(&mut self, state: State) -> Result<()> {
        self.enter(state);
        self.service.records.put_instance(&self.record)
    }

    /// Notes the state without writing it. One that came up is not known to stay up: what failed
    /// before counts on when it ends by itself soon.
    fn enter(&mut self, state: State) {
        let came_up = matches!(
            self.record.transition,
            Some(Transition::Starting | Transition::Waking { .. })
        );
        if !came_up && !matches!(state, State::Failed { .. }) {
            self.record.failure = None;
        }
        self.record.state = state;
        self.record.transition = None;
        self.record.since = now();
    }

    /// Takes the transition back: the state before it holds.
    fn take_back(&mut self) -> Result<()> {
        self.record.transition = None;
        self.service.records.put_instance(&self.record)
    }

    /// Ends the transition in `failed`, keeping the data drive.
    fn fail(&mut self, reason: &Error) -> Result<()> {
        self.finish(State::Failed { reason: reason.chain(), kept: "the data drive".into() })
    }

    /// Waits for its turn to come up. Nothing is begun yet: those who wait do not stand in each
    /// other's way, and nobody counts them.
    async fn take_place(&mut self) -> Result<()> {
        let place = self.service.wait_for_place(&self.record.tenant_id, self.cancel).await?;
        if place.waited > LONG_WAIT {
            let millis = place.waited.as_millis();
            self.slow.push(format!("it waited {millis} ms for its turn among others"));
        }
        self.place = Some(place);
        self.phase("turn");
        Ok(())
    }

    /// The instance's VM, as its record has it now.
    fn machine(&self) -> Machine {
        Machine::of(self.service, &self.record)
    }

    /// Notes that a phase ended.
    fn phase(&mut self, name: &'static str) {
        let now = Instant::now();
        self.phases.push(Phase { name, took: now - self.last });
        self.last = now;
    }

    /// Why it was slow, for the audit log, where such cases are counted.
    fn slowness(&self) -> String {
        let reasons = self.slow.join("; ");
        if reasons.is_empty() { reasons } else { format!("slow: {reasons}") }
    }

    /// Stops here when Ctrl-C was pressed; called where nothing is half-done.
    fn check_cancel(&self) -> Result<()> {
        if self.cancel.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Interrupted, self.record.path(), "interrupted")
                .hint("nothing was lost; run the command again"));
        }
        Ok(())
    }
}

/// Whether a verb ends whatever runs, and frees what it took.
fn is_its_end(verb: Verb) -> bool {
    matches!(verb, Verb::Stop | Verb::Destroy)
}

/// Memory of this host, MiB.
fn host_mib() -> u64 {
    mvm_host::facts::Facts::read().mem_mib
}

#[cfg(test)]
mod tests;
