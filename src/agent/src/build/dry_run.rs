//! Whether Nix can build something, and the answer remembered: finding out may take 20 seconds.
//!
//! An answer counts for one flake, attribute and lock file, and for a while: what Nix lacked (a
//! network, a cache) may be there later. A missing `nix` is never remembered.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mvm_host::file;
use mvm_host::image::{ImageError, Nix, NixError, Target};
use mvm_host::packages::Control;
use mvm_model::Digest;
use mvm_model::record::Millis;
use serde::{Deserialize, Serialize};

use super::{SharedSink, source};
use crate::error::Result;
use crate::service::{Service, now};

/// How long a yes counts.
const YES: Millis = 60 * 60 * 1000;
/// How long a no counts.
const NO: Millis = 10 * 60 * 1000;

/// What Nix said, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    flake: String,
    at: Millis,
    /// Why it cannot; it can when `None`.
    reason: Option<String>,
}

impl Answer {
    /// Whether it still counts. A clock that was set back makes it worthless.
    fn counts(&self, now: Millis) -> bool {
        let lasts = if self.reason.is_none() { YES } else { NO };
        now.checked_sub(self.at).is_some_and(|age| age < lasts)
    }
}

impl Service {
    /// Whether Nix could build `target`; else the reason.
    ///
    /// # Errors
    /// When the caller stopped it.
    pub(super) async fn can_nix(
        &self,
        target: &Target,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<std::result::Result<(), String>> {
        let Ok(nix) = Nix::find() else { return Ok(Err(NixError::NotInstalled.to_string())) };
        let place = self.answer_file(target);
        if let Some(answer) = read(&place).filter(|answer| answer.counts(now())) {
            return Ok(answer.reason.map_or(Ok(()), Err));
        }
        let asked = target.clone();
        let said = self.blocking("ask Nix", move || {
            let sink = |now| progress(now);
            match nix.dry_run(&asked, Control::new(&sink, &cancel)) {
                Err(error) if error.is_cancelled() => Err(ImageError::from(error)),
                said => Ok(said.map(drop).map_err(|error| error.to_string())),
            }
        });
        let said = said.await?;
        let answer =
            Answer { flake: target.flake.to_string(), at: now(), reason: said.clone().err() };
        keep(&place, &answer);
        Ok(said)
    }

    fn answer_file(&self, target: &Target) -> PathBuf {
        let lock = source::lock_digest(&target.flake).map(String::from).unwrap_or_default();
        let key = format!("{}\n{}\n{lock}", target.flake, target.attributes()[0]);
        let name = format!("{}.json", Digest::of(key.as_bytes()).short());
        self.dirs.cache.join("nix-answers").join(name)
    }
}

fn read(place: &std::path::Path) -> Option<Answer> {
    serde_json::from_slice(&fs::read(place).ok()?).ok()
}

/// What cannot be remembered is asked again.
fn keep(place: &std::path::Path, answer: &Answer) {
    let json = serde_json::to_vec(answer).unwrap_or_default();
    let _ = place
        .parent()
        .map_or(Ok(()), file::create_dir)
        .and_then(|()| file::write_durably(place, &json));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_a_while_and_a_no_for_less() {
        let no = Answer { flake: ".".into(), at: 1_000_000, reason: Some("no network".into()) };
        let yes = Answer { reason: None, ..no.clone() };
        for (answer, lasts) in [(&no, NO), (&yes, YES)] {
            assert!(answer.counts(answer.at) && answer.counts(answer.at + lasts - 1));
            assert!(!answer.counts(answer.at + lasts));
            assert!(!answer.counts(answer.at - 1), "a clock was set back");
        }
    }
}
