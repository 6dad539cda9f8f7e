//! The loop: applies the files it watches when they changed, then makes the host what its records
//! ask for. Every round looks at everything again; it takes no input but what is there.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mvm_api::agent::{DocumentForm, Report};
use mvm_model::record::Millis;

use super::Daemon;
use super::watched::{Backoff, Watched};
use crate::build::SharedSink;
use crate::error::{Error, Kind, Result};
use crate::intent::Document;
use crate::reconcile::Options;
use crate::service::now;

/// How often the watched files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// No round lasts so long: every wait in it has an end, and each of its builds has four hours.
const STUCK: Duration = Duration::from_secs(24 * 60 * 60);

/// What the loop last did.
#[derive(Default)]
pub struct Rounds {
    last: Mutex<Round>,
    /// When the one that is under way began.
    began: Mutex<Option<Instant>>,
}

/// A round.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// When it ended.
    pub at: Option<Millis>,
    /// What it came to.
    pub report: Option<Report>,
    /// Why a watched file is not applied, or not all of it, or why the round failed.
    pub problem: Option<String>,
}

impl Rounds {
    /// The last one.
    pub fn last(&self) -> Round {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether one is under way that will not end.
    pub fn are_stuck(&self) -> bool {
        let began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        began.is_some_and(|began| began.elapsed() > STUCK)
    }

    fn is_under_way(&self, began: Option<Instant>) {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = began;
    }

    fn ended(&self, outcome: Result<Report>, unapplied: Option<String>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.at = Some(now());
        match outcome {
            Ok(report) => (last.report, last.problem) = (Some(report), unapplied),
            Err(error) => last.problem = Some(error.chain()),
        }
    }
}

/// Rounds until the agent stops.
pub async fn run(daemon: Arc<Daemon>) {
    let mut files = watched(&daemon);
    // What cannot be for now, a full host or somebody at an instance, is tried again before the
    // interval is over.
    let mut unmet = Backoff::default();
    while !daemon.stopping.load(Ordering::SeqCst) {
        daemon.rounds.is_under_way(Some(Instant::now()));
        let mut outcome = Ok(Report::default());
        let mut applied = false;
        for file in &mut files {
            let Some(document) = file.take() else { continue };
            outcome = guarded(&daemon, Some(document)).await;
            file.applied(&outcome);
            applied = true;
        }
        // The records are made true also when no file says anything.
        if !applied {
            outcome = guarded(&daemon, None).await;
        }
        let problems: Vec<_> = files.iter().filter_map(|file| file.problem.clone()).collect();
        let unapplied = (!problems.is_empty()).then(|| problems.join("; "));
        if let Some(problem) =
            outcome.as_ref().err().map(Error::chain).as_ref().or(unapplied.as_ref())
        {
            tracing::warn!(problem, "round");
        }
        let converged = outcome.as_ref().is_ok_and(|report| report.converged);
        unmet.note(converged, Instant::now());
        let due = outcome.as_ref().ok().and_then(|report| report.next_due);
        daemon.rounds.ended(outcome, unapplied);
        daemon.rounds.is_under_way(None);
        wait(&daemon, &files, unmet.due(), due).await;
    }
}

fn watched(daemon: &Daemon) -> Vec<Watched> {
    let options = &daemon.options;
    let of = |path: &Option<_>, form| path.clone().map(|path| Watched::new(path, form));
    let files = [
        of(&options.intent, DocumentForm::Intent),
        of(&options.desired, DocumentForm::DesiredState),
    ];
    files.into_iter().flatten().collect()
}

/// A panic ends this round, not the ones after it.
async fn guarded(daemon: &Arc<Daemon>, document: Option<Document>) -> Result<Report> {
    let round = tokio::spawn({
        let daemon = daemon.clone();
        async move { round(&daemon, document).await }
    });
    round.await.unwrap_or_else(|error| {
        let text = "the round broke off: a fault of mvm's own";
        Err(Error::new(Kind::Failed, "", text).because(error.to_string()))
    })
}

async fn round(daemon: &Daemon, document: Option<Document>) -> Result<Report> {
    let silent: SharedSink = Arc::new(|_| ());
    let (options, stopping) = (Options::default(), &daemon.stopping);
    daemon.service.ensure_supervisors().await;
    daemon.service.note_exits().await;
    let report = daemon.service.reconcile(document, options, &silent, stopping).await?;
    daemon.service.keep_waiting(stopping).await;
    tell(&report);
    Ok(report)
}

fn tell(report: &Report) {
    for step in &report.done {
        tracing::info!(step, "done");
    }
    for failed in &report.failed {
        // Somebody was quicker, and the next look sees what they made of it.
        if failed.kind == mvm_api::Kind::NotFound {
            tracing::debug!(step = failed.step, why = failed.message, "not needed");
            continue;
        }
        tracing::warn!(step = failed.step, why = failed.message, "failed");
    }
    for refused in &report.refused {
        tracing::warn!(object = refused.object, why = refused.problem, "refused");
    }
}

/// Until the interval is over, something is due, somebody changed something, or a file is another.
async fn wait(daemon: &Daemon, files: &[Watched], unmet: Option<Instant>, due: Option<Millis>) {
    let due = due.map(|due| Duration::from_millis(due.saturating_sub(now())));
    let again = files.iter().filter_map(Watched::due).chain(unmet).min();
    let again = again.map(|due| due.saturating_duration_since(Instant::now()));
    let waits = [Some(daemon.options.interval), due, again].into_iter().flatten();
    let longest = waits.min().unwrap_or(daemon.options.interval);
    let written = async {
        if files.is_empty() {
            return std::future::pending().await;
        }
        while !files.iter().any(Watched::is_changed) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        // Never faster than this, whatever is due.
        () = tokio::time::sleep(longest.max(LOOK)) => {}
        () = written => {}
        () = daemon.nudge.notified() => {}
    }
}
