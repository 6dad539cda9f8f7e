//! How much of the host's own connections one tenant may have for its questions: each forwarded
//! one is an entry of the connection tracker and a port of the host's towards its upstreams, one
//! asked by TCP for two minutes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::upstream::Transport;

/// Forwarded questions of one tenant at a time.
const IN_FLIGHT: usize = 64;
/// Forwarded questions by UDP in a second, and at once after a time of rest.
const BY_UDP: (u32, u32) = (500, 1000);
/// The same by TCP: what did not fit into a datagram.
const BY_TCP: (u32, u32) = (20, 100);

/// One tenant's.
#[derive(Debug)]
pub(super) struct Allowance {
    in_flight: Arc<Semaphore>,
    udp: Mutex<Bucket>,
    tcp: Mutex<Bucket>,
}

impl Default for Allowance {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            udp: Mutex::new(Bucket::full(BY_UDP, now)),
            tcp: Mutex::new(Bucket::full(BY_TCP, now)),
        }
    }
}

impl Allowance {
    /// Lets one question be forwarded, while the permit is held; `None`: it is not.
    pub(super) fn take(&self, transport: Transport) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.in_flight).try_acquire_owned().ok()?;
        let bucket = match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
        };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(Instant::now()).then_some(permit)
    }
}

/// So many in a second, so many at once.
#[derive(Debug)]
struct Bucket {
    /// What one costs.
    each: Duration,
    /// What is there when nobody took anything for long.
    most: Duration,
    /// When it was, or will be, empty.
    empty: Instant,
}

impl Bucket {
    fn full((per_second, burst): (u32, u32), now: Instant) -> Self {
        let each = Duration::from_secs(1) / per_second;
        let most = each * burst;
        Self { each, most, empty: now.checked_sub(most).unwrap_or(now) }
    }

    fn take(&mut self, now: Instant) -> bool {
        let oldest = now.checked_sub(self.most).unwrap_or(now);
        let empty = self.empty.max(oldest) + self.each;
        let there = empty <= now;
        if there {
            self.empty = empty;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_so_many_at_once_and_then_so_many_in_a_second() {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut bucket = Bucket::full((20, 100), start);
        let mut after = |seconds, tries| {
            let now = start + Duration::from_secs(seconds);
            (0..tries).filter(|_| bucket.take(now)).count()
        };
        assert_eq!([after(0, 1000), after(1, 1000), after(3, 30), after(3, 30)], [100, 20, 30, 10]);
        assert_eq!(after(3600, 1000), 100);
    }

    #[tokio::test]
    async fn a_flood_by_tcp_leaves_the_datagrams_theirs() {
        let allowance = Allowance::default();
        let by_tcp = (0..1000).filter(|_| allowance.take(Transport::Tcp).is_some()).count();
        assert!((100..200).contains(&by_tcp), "{by_tcp}");
        let held: Vec<_> = (0..1000).filter_map(|_| allowance.take(Transport::Udp)).collect();
        assert_eq!(held.len(), IN_FLIGHT);
        drop(held);
        assert!(allowance.take(Transport::Udp).is_some());
    }
}
