//! A bounded log in memory: the newest bytes win, and readers can follow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::sys::eventfd::EventFd;

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    /// Bytes ever written.
    end: u64,
    followers: Vec<Weak<EventFd>>,
}

/// A ring of the newest bytes.
#[derive(Debug)]
pub(crate) struct Log {
    limit: usize,
    kept: Mutex<Kept>,
}

impl Log {
    /// A log that keeps `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bytes, dropping the oldest.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        kept.end += bytes.len() as u64;
        let newest = &bytes[bytes.len().saturating_sub(self.limit)..];
        let excess = (kept.bytes.len() + newest.len()).saturating_sub(self.limit);
        kept.bytes.drain(..excess);
        kept.bytes.extend(newest);
        kept.followers.retain(|follower| match follower.upgrade() {
            Some(follower) => follower.write(1).is_ok(),
            None => false,
        });
    }

    /// Position of the last `lines` lines; of everything kept when `None`.
    pub(crate) fn position(&self, lines: Option<u32>) -> u64 {
        let kept = self.lock();
        let start = kept.end - kept.bytes.len() as u64;
        let Some(lines) = lines else {
            return start;
        };
        // The newline that ends the last line does not begin another.
        let before_last = kept.bytes.len().saturating_sub(1);
        let newlines = (0..before_last).rev().filter(|at| kept.bytes[*at] == b'\n');
        match lines.checked_sub(1) {
            None => kept.end,
            Some(skip) => {
                newlines.map(|at| start + at as u64 + 1).nth(skip as usize).unwrap_or(start)
            }
        }
    }

    /// Up to `limit` bytes from `position` (or from the oldest kept) and the position after.
    pub(crate) fn read(&self, position: u64, limit: usize) -> (Vec<u8>, u64) {
        let kept = self.lock();
        let start = kept.end - kept.bytes.len() as u64;
        let from = position.clamp(start, kept.end);
        let skip = usize::try_from(from - start).unwrap_or(usize::MAX);
        let bytes: Vec<u8> = kept.bytes.iter().skip(skip).take(limit).copied().collect();
        let end = from + bytes.len() as u64;
        (bytes, end)
    }

    /// Writes to `waker` whenever something is added, until it is dropped.
    pub(crate) fn follow(&self, waker: &Arc<EventFd>) {
        self.lock().followers.push(Arc::downgrade(waker));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_are_kept() {
        let log = Log::new(8);
        log.push(b"one\ntwo\n");
        log.push(b"six\n");
        assert_eq!(log.read(0, 100), (b"two\nsix\n".to_vec(), 12));
        log.push(b"a very long line\n");
        assert_eq!(log.read(0, 100).0, b"ng line\n");
    }

    #[test]
    fn lines_are_counted_from_the_end() {
        let log = Log::new(100);
        log.push(b"one\ntwo\nthree\n");
        let tail = |lines| log.read(log.position(lines), 100).0;
        assert_eq!(tail(Some(1)), b"three\n");
        assert_eq!(tail(Some(2)), b"two\nthree\n");
        assert_eq!(tail(Some(9)), b"one\ntwo\nthree\n");
        assert_eq!(tail(Some(0)), b"");
        assert_eq!(tail(None), b"one\ntwo\nthree\n");
    }

    #[test]
    fn reading_goes_on_where_it_ended() {
        let log = Log::new(100);
        log.push(b"abcdef");
        let (first, next) = log.read(0, 4);
        assert_eq!((first.as_slice(), log.read(next, 4).0.as_slice()), (&b"abcd"[..], &b"ef"[..]));
    }
}
