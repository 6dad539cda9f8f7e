//! The revisions a pool has used, so that it can go back.

use serde::{Deserialize, Serialize};

use super::{Builder, BuilderChoice};
use crate::id::Digest;
use crate::record::Millis;

/// How many uses a pool remembers.
const KEPT: usize = 20;

/// How a pool's image was asked for, beside where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// What was typed for a flake whose path is kept absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typed: Option<String>,
    /// Who is to build it.
    pub builder: BuilderChoice,
}

/// A revision a pool uses or used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRevision {
    /// Which.
    pub digest: Digest,
    /// Who built it; `None` when it was built before pools kept a history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<Builder>,
    /// What it was built from, for people.
    #[serde(default)]
    pub source: String,
    /// The digest of the flake's lock file, where it has one on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Digest>,
    /// When it was built, or found to be built already.
    pub built_at: Millis,
    /// When it last became the pool's current one.
    pub current_since: Millis,
}

/// A pool's revisions, the one that became current last at the end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(Vec<PoolRevision>);

impl History {
    /// All of them, oldest use first.
    pub fn all(&self) -> &[PoolRevision] {
        &self.0
    }

    /// The one of that digest.
    pub fn get(&self, digest: &Digest) -> Option<&PoolRevision> {
        self.0.iter().find(|revision| revision.digest == *digest)
    }

    /// The one that was current before `current`.
    pub fn previous(&self, current: Option<&Digest>) -> Option<&PoolRevision> {
        self.0.iter().rev().find(|revision| Some(&revision.digest) != current)
    }

    /// Notes that `next` becomes current after `before`. The oldest are forgotten.
    pub fn switch(&mut self, before: Option<&Digest>, next: PoolRevision) {
        if let Some(before) = before.filter(|before| self.get(before).is_none()) {
            self.0.push(PoolRevision {
                digest: before.clone(),
                builder: None,
                source: String::new(),
                lock: None,
                built_at: 0,
                current_since: 0,
            });
        }
        self.0.retain(|revision| revision.digest != next.digest);
        self.0.push(next);
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(word: &str, current_since: Millis) -> PoolRevision {
        PoolRevision {
            digest: Digest::of(word.as_bytes()),
            builder: Some(Builder::Embedded),
            source: "minimal".into(),
            lock: None,
            built_at: 1,
            current_since,
        }
    }

    fn names(history: &History) -> Vec<u64> {
        history.all().iter().map(|revision| revision.current_since).collect()
    }

    #[test]
    fn going_back_twice_is_where_one_was() {
        let (a, b) = (of("a", 1), of("b", 2));
        let mut history = History::default();
        history.switch(None, a.clone());
        assert_eq!(history.previous(Some(&a.digest)), None);
        history.switch(Some(&a.digest), b.clone());
        assert_eq!(history.previous(Some(&b.digest)), Some(&a));
        history.switch(Some(&b.digest), of("a", 3));
        assert_eq!(history.previous(Some(&a.digest)).unwrap().digest, b.digest);
        assert_eq!(names(&history), [2, 3]);
    }

    #[test]
    fn a_revision_from_before_there_was_a_history_can_be_gone_back_to() {
        let mut history = History::default();
        let old = Digest::of(b"old");
        history.switch(Some(&old), of("new", 5));
        assert_eq!(history.previous(Some(&Digest::of(b"new"))).unwrap().digest, old);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut history = History::default();
        (0..50).for_each(|i| history.switch(None, of(&i.to_string(), i)));
        assert_eq!(history.all().len(), KEPT);
        assert_eq!(names(&history).last(), Some(&49));
    }
}
