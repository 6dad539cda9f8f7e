//! How long a condition is waited for on a machine that stands still now and then.

use std::time::{Duration, Instant};

/// What one look, with the pause before it, counts for at most.
const LOOK: Duration = Duration::from_millis(250);

/// What is left of a wait. A machine that stood still between two looks has not waited.
pub struct Patience {
    left: Duration,
    since: Instant,
}

impl Patience {
    pub fn new(limit: Duration) -> Self {
        Self { left: limit, since: Instant::now() }
    }

    /// Pauses before the next look; false when there is no patience left.
    pub fn pause(&mut self, pause: Duration) -> bool {
        std::thread::sleep(pause);
        let took = self.since.elapsed().min(LOOK.max(pause));
        (self.left, self.since) = (self.left.saturating_sub(took), Instant::now());
        !self.left.is_zero()
    }
}
