//! The ledger: which documents this host accepted last, so that an older one is refused.
//!
//! `<state>/ledger.json` holds, per writer, the epoch, generation and content digest of its last
//! document. It is written after the records a document changes: a command that is killed in
//! between leaves the older entry, and applying the same document again completes it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use mvm_host::file;
use mvm_model::Digest;
use mvm_model::desired::DesiredState;
use mvm_model::record::SCHEMA_VERSION;
use serde::{Deserialize, Serialize};

use crate::error::{About, Kind, Result};
use crate::records;
use crate::service::Service;

/// The last document of one writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who may write.
    pub epoch: u64,
    /// Its number.
    pub generation: u64,
    /// Digest of what it says.
    pub content: Digest,
    /// The objects of it that could not be made yet.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pending: BTreeSet<String>,
}

impl Entry {
    fn new(epoch: u64, generation: u64, content: Digest) -> Self {
        Self { epoch, generation, content, pending: BTreeSet::new() }
    }
}

/// The ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    schema_version: u32,
    writers: BTreeMap<String, Entry>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { schema_version: SCHEMA_VERSION, writers: BTreeMap::new() }
    }
}

/// What a document is beside the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the last one.
    Same(Entry),
    /// It comes after it; this is its entry.
    New(Entry),
}

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stale {
    #[error("its epoch {asked} is older than {known}")]
    Epoch { asked: u64, known: u64 },
    #[error("its generation {asked} is older than {known}, which was applied")]
    Generation { asked: u64, known: u64 },
    #[error("generation {generation} was applied with other content")]
    Conflict { generation: u64 },
}

impl Ledger {
    /// Holds a document against the last one of its writer. One without a number gets the next
    /// when its content differs.
    pub(crate) fn judge(&self, writer: &str, state: &DesiredState) -> Result<Verdict, Stale> {
        let content = content(state);
        let last = self.writers.get(writer);
        let known = last.map_or(0, |last| last.epoch);
        let epoch = state.epoch.unwrap_or(known);
        if epoch < known {
            return Err(Stale::Epoch { asked: epoch, known });
        }
        // A new epoch's writer starts counting anew.
        let Some(last) = last.filter(|last| last.epoch == epoch) else {
            let generation = state.generation.unwrap_or(1);
            return Ok(Verdict::New(Entry::new(epoch, generation, content)));
        };
        let same = last.content == content;
        match state.generation {
            None if same => Ok(Verdict::Same(last.clone())),
            None => {
                let generation = last.generation.saturating_add(1);
                Ok(Verdict::New(Entry::new(epoch, generation, content)))
            }
            Some(asked) if asked < last.generation => {
                Err(Stale::Generation { asked, known: last.generation })
            }
            Some(generation) if generation == last.generation && !same => {
                Err(Stale::Conflict { generation })
            }
            Some(generation) if generation == last.generation => Ok(Verdict::Same(last.clone())),
            Some(generation) => Ok(Verdict::New(Entry::new(epoch, generation, content))),
        }
    }
}

impl Stale {
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Epoch { .. } => {
                "its writer was replaced; take epoch away from a file of your own"
            }
            Self::Generation { .. } | Self::Conflict { .. } => {
                "give it a higher generation, or none: then mvm counts"
            }
        }
    }
}

/// The digest of what a document says, its numbers aside.
fn content(state: &DesiredState) -> Digest {
    let said = DesiredState { node_id: None, generation: None, epoch: None, ..state.clone() };
    Digest::of(said.to_json().as_bytes())
}

impl Service {
    fn ledger_file(&self) -> PathBuf {
        self.dirs.state.join("ledger.json")
    }

    /// The ledger; an empty one before the first document.
    ///
    /// # Errors
    /// When it cannot be read: then nothing is applied.
    pub(crate) fn ledger(&self) -> Result<Ledger> {
        let read = records::load("ledger", &self.ledger_file()).map(Option::unwrap_or_default);
        read.map_err(|error| match error.kind {
            Kind::Corrupt => {
                error.hint("remove the file: the next document is then applied as the first one")
            }
            _ => error,
        })
    }

    /// Writes down which document was applied.
    ///
    /// # Errors
    /// When it is not certain to be on disk.
    pub(crate) fn enter(&self, mut ledger: Ledger, writer: &str, entry: Entry) -> Result<()> {
        ledger.writers.insert(writer.to_owned(), entry);
        let path = self.ledger_file();
        let json = serde_json::to_vec_pretty(&ledger).unwrap_or_default();
        file::write_durably(&path, &json).about("", "write the ledger")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(epoch: u64, generation: u64, state: &DesiredState) -> Ledger {
        let mut ledger = Ledger::default();
        let entry = Entry::new(epoch, generation, content(state));
        ledger.writers.insert("local".into(), entry);
        ledger
    }

    fn numbered(epoch: Option<u64>, generation: Option<u64>, prune: bool) -> DesiredState {
        DesiredState { epoch, generation, prune_unknown_pools: prune, ..DesiredState::default() }
    }

    #[test]
    fn documents_are_fenced_by_epoch_and_generation() {
        let ledger = entered(2, 5, &numbered(None, None, false));
        let judge = |epoch, generation, other| match ledger
            .judge("local", &numbered(epoch, generation, other))
        {
            Ok(Verdict::Same(entry)) => Ok((false, entry.generation)),
            Ok(Verdict::New(entry)) => Ok((true, entry.generation)),
            Err(stale) => Err(stale),
        };
        assert_eq!(judge(None, None, false), Ok((false, 5)));
        assert_eq!(judge(None, None, true), Ok((true, 6)));
        assert_eq!(judge(None, Some(9), true), Ok((true, 9)));
        assert_eq!(judge(None, Some(5), false), Ok((false, 5)));
        assert_eq!(judge(Some(3), Some(1), true), Ok((true, 1)));
        assert_eq!(judge(None, Some(5), true), Err(Stale::Conflict { generation: 5 }));
        assert_eq!(judge(None, Some(4), false), Err(Stale::Generation { asked: 4, known: 5 }));
        assert_eq!(judge(Some(1), Some(9), true), Err(Stale::Epoch { asked: 1, known: 2 }));
    }

    #[test]
    fn writers_do_not_fence_each_other() {
        let ledger = entered(7, 9, &numbered(None, None, false));
        let first = ledger.judge("coordinator", &numbered(Some(1), Some(1), true));
        assert!(matches!(first, Ok(Verdict::New(Entry { epoch: 1, generation: 1, .. }))));
    }
}
