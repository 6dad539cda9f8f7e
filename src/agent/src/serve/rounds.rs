//! The loop: applies the desired state file when it changed, then makes the host what its
//! records ask for. Every round looks at everything again; it takes no input but what is there.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use mvm_api::agent::Report;
use mvm_model::desired::DesiredState;
use mvm_model::record::Millis;

use super::Daemon;
use crate::build::SharedSink;
use crate::error::{Error, Result};
use crate::intent::read_file;
use crate::reconcile::Options;
use crate::service::now;

/// How often the desired state file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the loop last did.
#[derive(Default)]
pub struct Rounds {
    last: Mutex<Round>,
}

/// A round.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// When it ended.
    pub at: Option<Millis>,
    /// What it came to.
    pub report: Option<Report>,
    /// Why the desired state file is not applied, or the round failed.
    pub problem: Option<String>,
}

impl Rounds {
    /// The last one.
    pub fn last(&self) -> Round {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ended(&self, outcome: Result<Report>, unusable: Option<String>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.at = Some(now());
        match outcome {
            Ok(report) => (last.report, last.problem) = (Some(report), unusable),
            Err(error) => last.problem = Some(error.chain()),
        }
    }
}

/// What a file was when it was read: another stamp means that somebody wrote it.
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

/// Rounds until the agent stops.
pub async fn run(daemon: Arc<Daemon>) {
    let mut applied: Stamp = None;
    let mut unusable: Option<String> = None;
    while !daemon.stopping.load(Ordering::SeqCst) {
        let file = daemon.options.desired.as_deref();
        let found = file.and_then(stamp);
        let changed = file.is_some() && (found != applied || found.is_none());
        let desired = file.filter(|_| changed).map(read_file);
        if let Some(read) = &desired {
            unusable = read.as_ref().err().map(Error::chain);
        }
        // A file that says nothing usable changes nothing; the records are made true all the same.
        let outcome = round(&daemon, desired.and_then(Result::ok)).await;
        if let Some(problem) =
            outcome.as_ref().err().map(Error::chain).as_ref().or(unusable.as_ref())
        {
            tracing::warn!(problem, "round");
        }
        applied = found;
        let due = outcome.as_ref().ok().and_then(|report| report.next_due);
        daemon.rounds.ended(outcome, unusable.clone());
        wait(&daemon, applied, due).await;
    }
}

async fn round(daemon: &Daemon, desired: Option<DesiredState>) -> Result<Report> {
    let silent: SharedSink = Arc::new(|_| ());
    let (options, stopping) = (Options::default(), &daemon.stopping);
    daemon.service.ensure_supervisors().await;
    let report = daemon.service.reconcile(desired, options, &silent, stopping).await?;
    tell(&report);
    Ok(report)
}

fn tell(report: &Report) {
    for step in &report.done {
        tracing::info!(step, "done");
    }
    for failed in &report.failed {
        tracing::warn!(step = failed.step, why = failed.message, "failed");
    }
    for refused in &report.refused {
        tracing::warn!(object = refused.object, why = refused.problem, "refused");
    }
}

/// Until the interval is over, something waits no longer, somebody changed something, or the
/// file is another.
async fn wait(daemon: &Daemon, applied: Stamp, due: Option<Millis>) {
    let due = due.map(|due| Duration::from_millis(due.saturating_sub(now())));
    let longest = due.map_or(daemon.options.interval, |due| due.min(daemon.options.interval));
    let written = async {
        let Some(file) = &daemon.options.desired else { return std::future::pending().await };
        while stamp(file) == applied {
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
