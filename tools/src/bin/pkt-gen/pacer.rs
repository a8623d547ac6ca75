//! When the next frame is due.

use std::time::{Duration, Instant};

/// Maximum number of bursts that a delayed sender may catch up at once. More would be bursts that were not requested.
const MAX_DEBT_BURSTS: u64 = 4;

/// A rate, or none.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    rate: Option<f64>,
    burst: u64,
    since: Instant,
    /// Frames sent or forgiven since then.
    done: u64,
}

impl Pacer {
    /// `rate` in frames a second; without one, a burst is always due.
    pub fn new(rate: Option<f64>, burst: u64, now: Instant) -> Pacer {
        Pacer { rate, burst, since: now, done: 0 }
    }

    /// How many frames are due, at most a burst.
    pub fn due(&mut self, now: Instant) -> u64 {
        let Some(rate) = self.rate else { return self.burst };
        let owed = ((now - self.since).as_secs_f64() * rate) as u64 + 1;
        let debt = owed.saturating_sub(self.done);
        self.done += debt.saturating_sub(self.burst * MAX_DEBT_BURSTS);
        debt.min(self.burst)
    }

    /// So many were sent.
    pub fn sent(&mut self, frames: u64) {
        self.done += frames;
    }

    /// How long until the next frame is due.
    pub fn wait(&self, now: Instant) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        Duration::from_secs_f64(self.done as f64 / rate).saturating_sub(now - self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_at_their_rate_and_debts_are_forgiven() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pacer = Pacer::new(Some(1000.0), 8, start);
        assert_eq!(pacer.due(start), 1, "the first one at once");
        pacer.sent(1);
        assert_eq!((pacer.due(start), pacer.wait(start)), (0, Duration::from_millis(1)));
        assert_eq!(pacer.due(at(5)), 5);
        pacer.sent(5);
        assert_eq!(pacer.due(at(1000)), 8, "a burst at most");
        let late: u64 = std::iter::repeat_with(|| {
            let due = pacer.due(at(1000));
            pacer.sent(due);
            due
        })
        .take_while(|due| *due > 0)
        .sum();
        assert_eq!(late, 32, "four bursts of what was missed");
        assert_eq!(Pacer::new(None, 8, start).due(start), 8);
    }
}
