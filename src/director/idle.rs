//! Decides how long a worker may sleep: not at all while packets come, in the io when none come.

use std::time::Duration;

/// Maximum sleep; a stop also takes effect after at most this time.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// Number of empty polls before a worker sleeps. More would burn CPU between the packets of a transfer; fewer would sleep within a burst.
const BUSY_POLLS: u32 = 8;

/// Counts empty polls.
#[derive(Debug, Default)]
pub struct IdleBackoff(u32);

impl IdleBackoff {
    /// Returns how long the next poll may wait.
    pub fn wait(&self) -> Duration {
        if self.0 < BUSY_POLLS { Duration::ZERO } else { MAX_WAIT }
    }

    /// Records a poll; it was `busy` when frames came in or were handed to the io.
    pub fn polled(&mut self, busy: bool) {
        self.0 = if busy { 0 } else { self.0.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_sleeps_only_after_some_empty_polls_and_wakes_with_the_first_packet() {
        let mut idle = IdleBackoff::default();
        for _ in 0..BUSY_POLLS {
            assert_eq!(idle.wait(), Duration::ZERO);
            idle.polled(false);
        }
        assert_eq!(idle.wait(), MAX_WAIT);
        idle.polled(true);
        assert_eq!(idle.wait(), Duration::ZERO);
    }
}
