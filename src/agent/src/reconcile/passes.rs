//! The passes of one reconcile: look, plan, execute, until nothing is left to do or nothing moves.

use std::collections::BTreeSet;

use mvm_api::agent::{FailedStep, NoteView, Report};
use mvm_model::desired::DesiredState;
use mvm_model::{PoolPath, TenantName};
use mvm_plan::{About, Note, Order, Plan, Reason, Step, Terms};

use super::MOST_PASSES;
use crate::error::{Error, Kind, Result};
use crate::execute::{Execution, Facilities, Pass};

/// The passes of one reconcile.
pub(crate) struct Converging<'a, F> {
    pub(crate) facilities: &'a F,
    pub(crate) desired: &'a DesiredState,
    pub(crate) terms: Terms,
    pub(crate) lanes: usize,
    /// Whether it waits for whoever is at an instance, instead of saying so and leaving it.
    pub(crate) waits: bool,
    pub(crate) goes_on: &'a (dyn Fn() -> bool + Sync),
    /// Asked before each step: whether its tenant is left to somebody else.
    pub(crate) is_left: &'a (dyn Fn(&TenantName) -> bool + Sync),
    pub(crate) tell: &'a (dyn Fn(&Step) + Sync),
}

impl<F: Facilities> Converging<'_, F> {
    /// Passes until nothing is left to do or nothing moves.
    pub(crate) async fn run(&self) -> Result<Report> {
        let (mut report, mut overtaken) = (Report::default(), Overtaken::default());
        let (mut before, mut terms) = (None::<Vec<Step>>, self.terms);
        loop {
            let observed = self.facilities.observe().await?;
            let now = self.facilities.now();
            let plan = mvm_plan::host(self.desired, &observed, &terms, now);
            report.passes += 1;
            // A plan that comes again although all of it was done leads nowhere.
            let stands = before.as_ref() == Some(&plan.steps);
            if plan.is_empty() && report.passes < MOST_PASSES && self.has_waited(&plan).await {
                before = None;
                continue;
            }
            if plan.is_empty() || stands || report.passes > MOST_PASSES || !(self.goes_on)() {
                return Ok(concluded(report, overtaken, &plan));
            }
            let execution = Execution {
                facilities: self.facilities,
                desired: self.desired,
                observed: &observed,
                lanes: self.lanes,
                may_begin: &|step| (self.goes_on)() && !(self.is_left)(step.tenant()),
                tell: self.tell,
            };
            let mut pass = execution.run(&plan).await;
            let is_overtaken = overtaken.take_from(&mut pass);
            // What cannot be created or built is not waited for.
            let hopeless = terms.order == Order::Strict && pass.failed.iter().any(is_of_new);
            if hopeless {
                terms.order = Order::Loose;
            }
            let moved = hopeless || is_overtaken || !pass.done.is_empty();
            report.done.extend(pass.done.iter().map(Step::to_string));
            report.failed.extend(pass.failed.into_iter().map(failed_step));
            if !moved {
                return Ok(concluded(report, overtaken, &self.look_again(plan).await?));
            }
            before = Some(plan.steps).filter(|_| !hopeless && !is_overtaken);
        }
    }

    /// Waits for whoever is at what is left; whether there was anybody to wait for.
    async fn has_waited(&self, plan: &Plan) -> bool {
        let busy: Vec<_> = plan.busy().cloned().collect();
        if !self.waits || busy.is_empty() || !(self.goes_on)() {
            return false;
        }
        self.facilities.await_free(&busy, self.goes_on).await;
        true
    }

    /// The plan after steps that all failed: their failures are notes now.
    async fn look_again(&self, plan: Plan) -> Result<Plan> {
        let observed = self.facilities.observe().await?;
        let again = mvm_plan::host(self.desired, &observed, &self.terms, self.facilities.now());
        Ok(if again.is_empty() { again } else { Plan { notes: again.notes, ..plan } })
    }
}

/// Whether something new could not be made.
fn is_of_new((step, _): &(Step, Error)) -> bool {
    matches!(step, Step::Create { .. } | Step::BuildImage { .. })
}

/// Steps that found the host other than it was seen: somebody was quicker. They are planned anew
/// once, and failures only where something is missing in the end.
#[derive(Default)]
struct Overtaken {
    open: Vec<(Step, Error)>,
    /// Every one there was, also those that were done since.
    known: Vec<Step>,
}

impl Overtaken {
    /// Takes what was overtaken for the first time out of a pass; whether there was any.
    fn take_from(&mut self, pass: &mut Pass) -> bool {
        let is_overtaken = |(step, error): &mut (Step, Error)| {
            met_another_host(error.kind) && !self.known.contains(step)
        };
        let taken: Vec<_> = pass.failed.extract_if(.., is_overtaken).collect();
        self.open.retain(|(step, _)| {
            !pass.done.contains(step) && pass.failed.iter().all(|(failed, _)| failed != step)
        });
        self.known.extend(taken.iter().map(|(step, _)| step.clone()));
        let any = !taken.is_empty();
        self.open.extend(taken);
        any
    }

    /// Those that are failures by this last plan: where it still misses something.
    fn failures(self, last: &Plan) -> impl Iterator<Item = (Step, Error)> {
        self.open.into_iter().filter(|(step, _)| {
            let mut unmet = last.notes.iter().filter(|note| is_unmet(note));
            last.steps.iter().any(|other| is_beside(step, other.tenant(), other.pool()))
                || unmet.any(|note| match &note.about {
                    About::Node => true,
                    About::Tenant(tenant) => is_beside(step, tenant, None),
                    About::Pool(pool) => is_beside(step, &pool.tenant, Some(pool)),
                    About::Instance(one) => is_beside(step, &one.pool.tenant, Some(&one.pool)),
                })
        })
    }
}

/// Whether a step is about what is in this pool, or in this tenant where no pool is named.
fn is_beside(step: &Step, tenant: &TenantName, pool: Option<&PoolPath>) -> bool {
    step.tenant() == tenant && (pool.is_none() || step.pool().is_none() || step.pool() == pool)
}

/// Whether such a failure says that the host is not as it was seen.
fn met_another_host(kind: Kind) -> bool {
    matches!(kind, Kind::Busy | Kind::Conflict | Kind::NotFound | Kind::WrongState)
}

fn failed_step((step, error): (Step, Error)) -> FailedStep {
    FailedStep {
        step: step.to_string(),
        object: error.object.clone(),
        kind: error.kind,
        message: error.chain(),
        hint: error.hint,
    }
}

fn concluded(mut report: Report, overtaken: Overtaken, plan: &Plan) -> Report {
    report.failed.extend(overtaken.failures(plan).map(failed_step));
    let is_whole = plan.is_empty() && !plan.notes.iter().any(is_unmet);
    let mut told = BTreeSet::new();
    let mut notes: Vec<_> =
        plan.notes.iter().filter(|note| told.insert(note.to_string())).collect();
    // What cannot be comes before what only waits or is kept.
    notes.sort_by_key(|note| !is_unmet(note));
    Report {
        converged: is_whole && report.failed.is_empty(),
        notes: notes.into_iter().map(note_view).collect(),
        next_due: plan.next_due(),
        ..report
    }
}

/// Whether a note is about something that is asked for and cannot be.
fn is_unmet(note: &Note) -> bool {
    match note.reason {
        Reason::Quota(_)
        | Reason::HostMemory { .. }
        | Reason::NoAddress
        | Reason::AddressTaken
        | Reason::Backoff { .. }
        | Reason::Busy(_)
        | Reason::Settling
        | Reason::NotBuilt
        | Reason::BuildFailed { .. }
        | Reason::Owned(_)
        | Reason::Destroying
        | Reason::ForLife(_)
        | Reason::PrunesNothing => true,
        Reason::Manual { .. }
        | Reason::Protected(_)
        | Reason::KeptData { .. }
        | Reason::OtherSecrets => false,
    }
}

/// A note as people and tools see it.
pub(crate) fn note_view(note: &Note) -> NoteView {
    NoteView {
        object: note.about.to_string(),
        reason: note.reason.to_string(),
        hint: note.reason.hint().map(str::to_owned),
        until: note.reason.until(),
    }
}
