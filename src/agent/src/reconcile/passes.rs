//! The passes of one reconcile: look, plan, execute, until nothing is left to do or nothing moves.

use std::collections::BTreeSet;

use mvm_api::agent::{FailedStep, NoteView, Report};
use mvm_model::desired::DesiredState;
use mvm_plan::{Note, Order, Plan, Reason, Step, Terms};

use super::MOST_PASSES;
use crate::error::{Error, Result};
use crate::execute::{Execution, Facilities, Pass};

/// The passes of one reconcile.
pub(crate) struct Converging<'a, F> {
    pub(crate) facilities: &'a F,
    pub(crate) desired: &'a DesiredState,
    pub(crate) terms: Terms,
    pub(crate) lanes: usize,
    pub(crate) goes_on: &'a (dyn Fn() -> bool + Sync),
    pub(crate) tell: &'a (dyn Fn(&Step) + Sync),
}

impl<F: Facilities> Converging<'_, F> {
    /// Passes until nothing is left to do or nothing moves.
    pub(crate) async fn run(&self) -> Result<Report> {
        let mut report = Report::default();
        let (mut before, mut terms) = (None::<Vec<Step>>, self.terms);
        loop {
            let observed = self.facilities.observe().await?;
            let now = self.facilities.now();
            let plan = mvm_plan::host(self.desired, &observed, &terms, now);
            report.passes += 1;
            // A plan that comes again although all of it was done leads nowhere.
            let stands = before.as_ref() == Some(&plan.steps);
            if plan.is_empty() || stands || report.passes > MOST_PASSES || !(self.goes_on)() {
                return Ok(concluded(report, &plan));
            }
            let execution = Execution {
                facilities: self.facilities,
                desired: self.desired,
                observed: &observed,
                lanes: self.lanes,
                goes_on: self.goes_on,
                tell: self.tell,
            };
            let pass = execution.run(&plan).await;
            // What cannot be created or built is not waited for.
            let hopeless = terms.order == Order::Strict && pass.failed.iter().any(is_of_new);
            if hopeless {
                terms.order = Order::Loose;
            }
            let moved = hopeless || !pass.done.is_empty();
            add(&mut report, pass);
            if !moved {
                return Ok(concluded(report, &self.look_again(plan).await?));
            }
            before = Some(plan.steps).filter(|_| !hopeless);
        }
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

fn add(report: &mut Report, pass: Pass) {
    report.done.extend(pass.done.iter().map(Step::to_string));
    report.failed.extend(pass.failed.into_iter().map(|(step, error)| FailedStep {
        step: step.to_string(),
        object: error.object.clone(),
        kind: error.kind,
        message: error.chain(),
        hint: error.hint,
    }));
}

fn concluded(report: Report, plan: &Plan) -> Report {
    let mut told = BTreeSet::new();
    let mut notes: Vec<_> =
        plan.notes.iter().filter(|note| told.insert(note.to_string())).collect();
    // What cannot be comes before what only waits or is kept.
    notes.sort_by_key(|note| !is_unmet(note));
    Report {
        converged: plan.is_empty() && report.failed.is_empty() && !plan.notes.iter().any(is_unmet),
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
