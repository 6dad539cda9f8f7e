//! A file the loop watches, and when what it asks for is tried again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use mvm_api::agent::{DocumentForm, Report};

use crate::error::{Error, Result};
use crate::intent::{Document, read_file};

/// The first wait before something is tried again.
const FIRST: Duration = Duration::from_secs(10);
/// The longest one.
const LONGEST: Duration = Duration::from_secs(300);

/// What a file was when it was read: another stamp means that somebody wrote it.
type Stamp = (SystemTime, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

/// A watched file.
pub(super) struct Watched {
    path: PathBuf,
    form: DocumentForm,
    /// Of what was read last; `None` when there was no file.
    read: Option<Option<Stamp>>,
    /// Why it is not applied, or not all of it.
    pub(super) problem: Option<String>,
    backoff: Backoff,
}

impl Watched {
    pub(super) fn new(path: PathBuf, form: DocumentForm) -> Self {
        Self { path, form, read: None, problem: None, backoff: Backoff::default() }
    }

    /// Whether somebody wrote it since it was read.
    pub(super) fn is_changed(&self) -> bool {
        self.read != Some(stamp(&self.path))
    }

    /// When it is tried again although nobody wrote it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.backoff.due
    }

    /// What is to be applied now: it changed, or it is tried again. A file that says nothing
    /// usable changes nothing.
    pub(super) fn take(&mut self) -> Option<Document> {
        let changed = self.is_changed();
        if changed {
            self.backoff = Backoff::default();
        }
        if !changed && !self.backoff.is_due(Instant::now()) {
            return None;
        }
        // Taken before the file is read: what is written meanwhile is another stamp.
        self.read = Some(stamp(&self.path));
        let read = read_file(&self.path, self.form);
        self.problem = read.as_ref().err().map(Error::chain);
        read.ok()
    }

    /// What came of applying it.
    pub(super) fn applied(&mut self, outcome: &Result<Report>) {
        let done = outcome.as_ref().is_ok_and(|report| report.pending.is_empty());
        self.backoff.note(done, Instant::now());
        self.problem = match outcome {
            Err(error) => Some(error.chain()),
            Ok(report) => refusals(report),
        };
    }
}

fn refusals(report: &Report) -> Option<String> {
    let told = |(object, problem): (&String, &String)| format!("{object}: {problem}");
    let refused = report.refused.iter().map(|one| (&one.object, &one.problem)).map(told);
    let all: Vec<String> = refused.collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// When something that did not come about is tried again: sooner at first, then less and less
/// often, until it comes about.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
    due: Option<Instant>,
}

impl Backoff {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Notes whether it came about. Looks in between do not make the wait longer.
    pub(super) fn note(&mut self, came_about: bool, now: Instant) {
        if came_about {
            *self = Self::default();
        } else if self.due.is_none_or(|due| due <= now) {
            let wait = FIRST.saturating_mul(1 << self.tries.min(8)).min(LONGEST);
            (self.tries, self.due) = (self.tries.saturating_add(1), Some(now + wait));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes_and_begin_anew() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..7 {
            backoff.note(false, now);
            let due = backoff.due().unwrap();
            waits.push((due - now).as_secs());
            // A round in between that somebody nudged changes nothing.
            backoff.note(false, now + Duration::from_secs(1));
            assert_eq!(backoff.due(), Some(due));
            assert!(!backoff.is_due(now) && backoff.is_due(due));
            now = due;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        backoff.note(true, now);
        assert_eq!(backoff.due(), None);
    }

    #[test]
    fn a_file_is_taken_when_it_changes_or_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.json");
        let mut watched = Watched::new(path.clone(), DocumentForm::DesiredState);
        assert!(watched.is_changed() && watched.take().is_none());
        assert!(watched.problem.is_some() && !watched.is_changed());
        std::fs::write(&path, r#"{"schema_version": 1, "tenants": []}"#).unwrap();
        assert!(watched.is_changed() && watched.take().is_some());
        assert!(watched.problem.is_none() && watched.take().is_none());
        let refused = vec![mvm_api::agent::Refused {
            object: "acme".into(),
            problem: "somebody is at it".into(),
            hint: None,
            kind: mvm_api::Kind::Busy,
        }];
        let pending = vec!["acme".into()];
        watched.applied(&Ok(Report { refused, pending, ..Report::default() }));
        assert_eq!(watched.problem.as_deref(), Some("acme: somebody is at it"));
        assert!(watched.due().is_some() && watched.take().is_none(), "not before it is due");
        watched.backoff.due = Some(Instant::now());
        assert!(watched.take().is_some());
        watched.applied(&Ok(Report::default()));
        assert!(watched.due().is_none() && watched.problem.is_none());
    }
}
