//! How long a worker may sleep: not at all while packets come, in the io when none do.

use std::time::Duration;

/// Longest sleep; also how late a stopped worker may notice.
const SLEEP: Duration = Duration::from_millis(100);

/// Empty turns before a worker sleeps. More would burn a CPU between the packets of a transfer, less would sleep within a burst.
const PATIENCE: u32 = 8;

/// Counts empty turns.
#[derive(Debug, Default)]
pub struct Pace(u32);

impl Pace {
    /// How long the next turn may wait.
    pub fn wait(&self) -> Duration {
        if self.0 < PATIENCE { Duration::ZERO } else { SLEEP }
    }

    /// A turn has ended; `busy` when frames came in or were handed to the io.
    pub fn turned(&mut self, busy: bool) {
        self.0 = if busy { 0 } else { self.0.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_sleeps_only_after_some_empty_turns_and_wakes_with_the_first_packet() {
        let mut pace = Pace::default();
        for _ in 0..PATIENCE {
            assert_eq!(pace.wait(), Duration::ZERO);
            pace.turned(false);
        }
        assert_eq!(pace.wait(), SLEEP);
        pace.turned(true);
        assert_eq!(pace.wait(), Duration::ZERO);
    }
}
