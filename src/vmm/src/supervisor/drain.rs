//! Takes whatever a VM says off its hands: a pipe is read as fast as it fills, a part of it is
//! kept in a [`Ring`], the rest is dropped and counted.
//!
//! ```text
//! pipe ─▶ reader thread ─ rate cap ─▶ queue (bounded) ─▶ writer thread ─▶ ring on disk
//! ```
//!
//! Two threads, so that a slow or full disk never makes the guest wait. When this process dies
//! the pipe's only reading end is gone with it: the VMM's writes fail at once and it goes on.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ring::Ring;

/// Bytes kept per second in the long run.
const RATE: u64 = 64 << 10;
/// Bytes kept at once: a whole verbose boot.
const BURST: u64 = 256 << 10;
/// Bytes waiting for the disk at most.
const MAX_QUEUED: usize = 256 << 10;
/// A drain's threads do little.
const STACK: usize = 128 << 10;

/// How much may be kept: a token bucket over bytes.
#[derive(Debug)]
struct Allowance {
    tokens: f64,
    at: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST as f64, at: now }
    }

    /// How many of `wanted` bytes may be kept now.
    fn take(&mut self, now: Instant, wanted: usize) -> usize {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * RATE as f64;
        self.tokens = (self.tokens + earned).min(BURST as f64);
        self.at = now;
        let granted = (self.tokens as usize).min(wanted);
        self.tokens -= granted as f64;
        granted
    }
}

#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    dropped: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    /// A panic cannot happen with the lock held, and if it did the bytes would still be sound.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8], granted: usize) {
        let mut queue = self.lock();
        let kept = granted.min(MAX_QUEUED - queue.bytes.len());
        queue.bytes.extend_from_slice(&bytes[..kept]);
        queue.dropped += (bytes.len() - kept) as u64;
        drop(queue);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits for something to write; `None` when there will be nothing more.
    fn pop(&self) -> Option<(Vec<u8>, u64)> {
        let mut queue = self.lock();
        while queue.bytes.is_empty() && !queue.closed {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let bytes = std::mem::take(&mut queue.bytes);
        (!bytes.is_empty() || !queue.closed).then_some((bytes, queue.dropped))
    }
}

/// A running drain.
#[derive(Debug)]
pub(super) struct Drain {
    shared: Arc<Shared>,
    writer: JoinHandle<()>,
}

impl Drain {
    /// Starts draining a pipe into a ring until every writing end is closed.
    pub(super) fn start(pipe: OwnedFd, ring: Ring) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (reading, writing) = (Arc::clone(&shared), Arc::clone(&shared));
        let thread = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(STACK);
        thread("drain-read").spawn(move || read_all(pipe.into(), &reading))?;
        let writer = thread("drain-write").spawn(move || write_all(ring, &writing))?;
        Ok(Self { shared, writer })
    }

    /// Waits until all is written, for two seconds at most. The pipe ends with the VMM, so this
    /// is short.
    pub(super) async fn settle(&self) {
        let end = Instant::now() + Duration::from_secs(2);
        while !self.writer.is_finished() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// How many bytes were not kept.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }
}

fn read_all(mut pipe: File, shared: &Shared) {
    let mut buffer = vec![0; 16 << 10];
    let mut allowance = Allowance::new(Instant::now());
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                let granted = allowance.take(Instant::now(), read);
                shared.push(&buffer[..read], granted);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    shared.close();
}

fn write_all(mut ring: Ring, shared: &Shared) {
    let mut told = 0;
    while let Some((mut bytes, dropped)) = shared.pop() {
        if dropped > told {
            let note = format!("\n[mvm: {dropped} bytes dropped so far]\n");
            bytes.extend_from_slice(note.as_bytes());
            told = dropped;
        }
        // A full disk loses log lines, nothing else.
        if ring.write(&bytes).is_err() {
            shared.lock().dropped += bytes.len() as u64;
        }
    }
}

/// Waits until everything a VM that has ended wrote is kept.
pub(super) async fn settle(drain: Option<&Drain>) {
    if let Some(drain) = drain {
        drain.settle().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn in_the_long_run_no_more_than_the_rate_is_kept() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let kept: usize = (0..1000)
            .map(|tick| allowance.take(start + Duration::from_millis(10 * tick), 1 << 20))
            .sum();
        let bound = BURST as usize + 10 * RATE as usize;
        assert!((bound - 20_000..=bound).contains(&kept), "{kept}");
    }

    #[tokio::test]
    async fn a_flood_is_cut_and_counted_and_never_waits_for_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let (read, write) = std::io::pipe().unwrap();
        let ring = Ring::create(path.clone(), 4096).unwrap();
        let drain = Drain::start(read.into(), ring).unwrap();
        let mut write = write;
        let flood = vec![b'x'; 64 << 10];
        for _ in 0..64 {
            write.write_all(&flood).unwrap();
        }
        drop(write);
        drain.settle().await;
        let dropped = drain.dropped();
        assert!(dropped >= ((64 * 64) << 10) - 2 * BURST, "{dropped}");
        let kept = super::super::ring::read(&path, 1 << 20).unwrap();
        assert!(kept.len() <= 8192);
        assert!(String::from_utf8_lossy(&kept).contains("bytes dropped so far"));
    }

    #[tokio::test]
    async fn a_short_message_arrives_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmm.log");
        let (read, mut write) = std::io::pipe().unwrap();
        let drain = Drain::start(read.into(), Ring::create(path.clone(), 4096).unwrap()).unwrap();
        write.write_all(b"qemu: no such thing\n").unwrap();
        drop(write);
        drain.settle().await;
        assert_eq!(drain.dropped(), 0);
        assert_eq!(super::super::ring::read(&path, 100).unwrap(), b"qemu: no such thing\n");
    }
}
