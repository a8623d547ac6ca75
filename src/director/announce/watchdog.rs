//! Watchdog: detects workers that do not poll. A worker polls at least ten times a second, with or without packets. No clock: callers pass
//! the time.

use guideway_packet::time::Time;
use std::time::Duration;

/// Time between two checks.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Number of checks without a poll after which a worker is stuck. Counting checks instead of seconds tolerates a pause of the whole
/// process.
pub const MAX_MISSED_CHECKS: u32 = 3;

/// Results of the last checks.
#[derive(Debug, Default)]
pub struct Watchdog {
    last_check: Option<Time>,
    threads: Vec<ThreadProgress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ThreadProgress {
    polls: u64,
    /// Number of checks since it last polled.
    missed: u32,
}

impl Watchdog {
    /// Takes the number of polls of each thread since it started; returns the first thread that is stuck.
    pub fn check(&mut self, now: Time, polls: &[u64]) -> Option<usize> {
        self.threads.resize(polls.len(), ThreadProgress::default());
        if self.last_check.is_none_or(|before| now - before >= CHECK_INTERVAL) {
            self.last_check = Some(now);
            for (thread, polls) in self.threads.iter_mut().zip(polls) {
                thread.missed = if thread.polls == *polls { thread.missed.saturating_add(1) } else { 0 };
                thread.polls = *polls;
            }
        }
        self.threads.iter().position(|thread| thread.missed >= MAX_MISSED_CHECKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::default().plus(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn a_worker_that_does_not_poll_over_three_checks_is_stuck_until_it_polls() {
        let mut watchdog = Watchdog::default();
        assert_eq!(watchdog.check(at(0.0), &[5, 7]), None);
        assert_eq!(watchdog.check(at(1.0), &[6, 7]), None);
        assert_eq!(watchdog.check(at(2.0), &[7, 7]), None);
        assert_eq!(watchdog.check(at(2.5), &[7, 7]), None, "too early for the next check");
        assert_eq!(watchdog.check(at(3.0), &[8, 7]), Some(1));
        assert_eq!(watchdog.check(at(3.2), &[8, 8]), Some(1));
        assert_eq!(watchdog.check(at(4.0), &[9, 8]), None);
    }

    #[test]
    fn a_process_that_was_stopped_is_not_stuck() {
        let mut watchdog = Watchdog::default();
        watchdog.check(at(0.0), &[1]);
        assert_eq!(watchdog.check(at(3600.0), &[1]), None);
        assert_eq!(watchdog.check(at(3601.0), &[2]), None);
    }
}
