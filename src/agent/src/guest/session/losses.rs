//! How often a guest lost the session on its lasting transport, and what that earns it: a guest
//! decides when a session breaks, so neither the host's time nor its log may follow every loss.

use std::time::Duration;

/// A session that lasted so long was one: the next loss counts as the first.
const STEADY: Duration = Duration::from_secs(5);
/// The pause after the second loss in a row; doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// The losses of one transport.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// All of them.
    pub(super) total: u64,
    /// Those since a session was steady.
    in_a_row: u32,
}

/// What follows one loss.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// How long not to open another session. The first loss costs nothing: an agent that was
    /// started again is reached at once.
    pub(super) pause: Duration,
    /// Whether it is worth a line: the first, second, fourth, eighth, ... ever, so that a guest
    /// never has more lines than there are bits in the count.
    pub(super) is_news: bool,
}

impl Losses {
    /// Notes a loss; `lasted` is how long the session was open, if it ever was.
    pub(super) fn note(&mut self, lasted: Option<Duration>) -> Loss {
        if lasted.is_some_and(|lasted| lasted >= STEADY) {
            self.in_a_row = 0;
        }
        self.total = self.total.saturating_add(1);
        self.in_a_row = self.in_a_row.saturating_add(1);
        Loss { pause: pause(self.in_a_row), is_news: self.total.is_power_of_two() }
    }
}

fn pause(in_a_row: u32) -> Duration {
    match in_a_row.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => {
            FIRST_PAUSE.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
        }
    }
    .min(LAST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_in_a_row_take_longer_and_longer_and_the_first_no_time() {
        let mut losses = Losses::default();
        let mut next = |lasted| losses.note(lasted).pause.as_millis();
        let pauses: Vec<_> = (0..10).map(|_| next(Some(Duration::from_millis(3)))).collect();
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!((0..100).map(|_| next(None)).max(), Some(5000));
        assert_eq!([next(Some(STEADY)), next(None)], [0, 50]);
    }

    #[test]
    fn a_hundred_thousand_losses_are_seventeen_lines() {
        for lasted in [None, Some(STEADY)] {
            let mut losses = Losses::default();
            let lines = (0..100_000).filter(|_| losses.note(lasted).is_news).count();
            assert_eq!(lines, 17);
        }
    }
}
