//! What was done under which idempotency id, so that a repeated request is answered with the
//! first outcome and not done twice. A host repeats a request when its connection broke before
//! the answer came, which every snapshot attempt causes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Outcomes remembered.
const KEPT: usize = 64;

#[derive(Debug)]
struct Entry {
    id: String,
    /// `None` while it is being done.
    outcome: Option<Vec<u8>>,
}

/// Outcomes by idempotency id.
#[derive(Debug, Default)]
pub(crate) struct Once {
    entries: Mutex<VecDeque<Entry>>,
    changed: Condvar,
}

/// What a request with an id should do.
pub(crate) enum Turn<'a> {
    /// It is the first: do it and say the outcome.
    First(Claim<'a>),
    /// It was done: this was the outcome.
    Done(Vec<u8>),
}

/// The right to do what an id stands for. Dropped without an outcome, the id is free again.
pub(crate) struct Claim<'a> {
    once: &'a Once,
    id: String,
}

impl Once {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims `id`, waiting for whoever is doing it now.
    pub(crate) fn turn(&self, id: &str) -> Turn<'_> {
        let mut entries = self.lock();
        if id.is_empty() {
            return Turn::First(Claim { once: self, id: String::new() });
        }
        loop {
            match entries.iter().find(|entry| entry.id == id) {
                None => break,
                Some(Entry { outcome: Some(outcome), .. }) => return Turn::Done(outcome.clone()),
                Some(Entry { outcome: None, .. }) => {
                    entries = self.changed.wait(entries).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        if entries.len() >= KEPT
            && let Some(oldest) = entries.iter().position(|entry| entry.outcome.is_some())
        {
            entries.remove(oldest);
        }
        entries.push_back(Entry { id: id.to_owned(), outcome: None });
        Turn::First(Claim { once: self, id: id.to_owned() })
    }
}

impl Claim<'_> {
    /// Remembers the outcome.
    pub(crate) fn done(self, outcome: &[u8]) {
        let mut entries = self.once.lock();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.id == self.id) {
            entry.outcome = Some(outcome.to_vec());
        }
        drop(entries);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut entries = self.once.lock();
        entries.retain(|entry| entry.id != self.id || entry.outcome.is_some());
        drop(entries);
        self.once.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(once: &Once, id: &str) -> bool {
        match once.turn(id) {
            Turn::First(claim) => {
                claim.done(id.as_bytes());
                true
            }
            Turn::Done(outcome) => {
                assert_eq!(outcome, id.as_bytes());
                false
            }
        }
    }

    #[test]
    fn a_repeated_id_gets_the_first_outcome() {
        let once = Once::default();
        assert!(first(&once, "a"));
        assert!(!first(&once, "a"));
        assert!(first(&once, "b"));
    }

    #[test]
    fn without_an_id_everything_is_done() {
        let once = Once::default();
        assert!(first(&once, ""));
        assert!(first(&once, ""));
    }

    #[test]
    fn a_claim_given_up_frees_the_id() {
        let once = Once::default();
        drop(once.turn("a"));
        assert!(first(&once, "a"));
    }

    #[test]
    fn only_the_newest_are_remembered() {
        let once = Once::default();
        (0..=KEPT).for_each(|n| assert!(first(&once, &format!("id {n}"))));
        assert!(first(&once, "id 0"));
        assert!(!first(&once, "id 9"));
    }

    #[test]
    fn a_second_asker_waits_for_the_first() {
        let once = Once::default();
        let Turn::First(claim) = once.turn("a") else { panic!("not the first") };
        std::thread::scope(|scope| {
            let second = scope.spawn(|| matches!(once.turn("a"), Turn::Done(_)));
            claim.done(b"a");
            assert!(second.join().unwrap());
        });
    }
}
