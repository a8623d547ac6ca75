//! When to send again: a time-out that follows the round trips it sees, doubles while nobody answers, and gives up after a while.

use std::time::Duration;

/// The patience of a transfer. With `floor`, `initial` and `ceiling` alike the time-out is fixed, as in most firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time-out before anything was measured.
    pub initial: Duration,
    /// Shortest time-out.
    pub floor: Duration,
    /// Longest time-out, doubling included.
    pub ceiling: Duration,
    /// How often one thing is sent again before the transfer is given up. With time-outs shorter than `initial` more often, in the same
    /// time: a server's own time-out may be seconds. Progress sets the count back to 0.
    pub retries: u32,
    /// How long the end of a read is guarded at most, so that a lost last acknowledgement can be repeated (RFC 1350, section 6).
    pub dally: Dally,
}

/// When the end of a read is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dally {
    /// Only when something was lost or doubled before: a clean path needs no wait.
    AfterTrouble(Duration),
    /// Always.
    Always(Duration),
    /// Never.
    Never,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            initial: Duration::from_secs(1),
            floor: Duration::from_millis(30),
            ceiling: Duration::from_secs(5),
            retries: 6,
            dally: Dally::AfterTrouble(Duration::from_millis(1500)),
        }
    }
}

impl Timing {
    /// How long nobody may answer.
    pub fn patience(&self) -> Duration {
        let wait = |number: u32| self.initial.checked_mul(1 << number.min(16)).unwrap_or(Duration::MAX).min(self.ceiling.max(self.floor));
        (0..=self.retries).map(wait).fold(Duration::ZERO, Duration::saturating_add)
    }
}

/// The time-out of one transfer: RFC 6298 with a smaller floor, for a server answers from memory or a disk nearby.
#[derive(Clone, Debug)]
pub struct Rto {
    timing: Timing,
    smoothed: Option<(Duration, Duration)>,
    unanswered: u32,
    waited: Duration,
}

/// Added to the round trip at least, so that a busy machine is not taken for a lossy network.
const SLACK: Duration = Duration::from_millis(20);

impl Rto {
    /// Nothing measured yet.
    pub fn new(timing: Timing) -> Self {
        Rto { timing, smoothed: None, unanswered: 0, waited: Duration::ZERO }
    }

    /// A round trip of something that was sent once (Karn's rule: never of something repeated).
    pub fn measured(&mut self, trip: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (trip, trip / 2),
            Some((mean, deviation)) => ((mean * 7 + trip) / 8, (deviation * 3 + mean.abs_diff(trip)) / 4),
        });
    }

    /// How long to wait now.
    pub fn current(&self) -> Duration {
        let first = self.smoothed.map_or(self.timing.initial, |(mean, deviation)| mean + (deviation * 4).max(SLACK));
        let first = first.max(self.timing.floor);
        first.checked_mul(1 << self.unanswered.min(16)).unwrap_or(Duration::MAX).min(self.timing.ceiling.max(self.timing.floor))
    }

    /// Nobody answered: wait twice as long. `false` when enough was tried.
    pub fn again(&mut self) -> bool {
        self.waited = self.waited.saturating_add(self.current());
        self.unanswered += 1;
        self.waited < self.timing.patience()
    }

    /// There was an answer that moved the transfer on.
    pub fn progress(&mut self) {
        self.unanswered = 0;
        self.waited = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_follows_the_round_trip_between_floor_and_ceiling() {
        let mut rto = Rto::new(Timing::default());
        assert_eq!(rto.current(), 1000 * MS);
        rto.measured(Duration::from_micros(90));
        assert_eq!(rto.current(), 30 * MS);
        (0..50).for_each(|_| rto.measured(200 * MS));
        assert!((215 * MS..260 * MS).contains(&rto.current()), "{:?}", rto.current());
        rto.measured(Duration::from_secs(60));
        assert_eq!(rto.current(), 5000 * MS);
    }

    #[test]
    fn it_doubles_gives_up_and_is_set_back_by_progress() {
        let mut rto = Rto::new(Timing { retries: 4, ..Timing::default() });
        let mut waits = vec![rto.current()];
        while rto.again() {
            waits.push(rto.current());
        }
        assert_eq!(waits, [1000 * MS, 2000 * MS, 4000 * MS, 5000 * MS, 5000 * MS]);
        rto.progress();
        assert_eq!(rto.current(), 1000 * MS);
        assert!(rto.again());

        // 17 s in all, also when the time-out is short: the server may have a longer one.
        rto.progress();
        rto.measured(MS);
        let mut waited = rto.current();
        while rto.again() {
            waited += rto.current();
        }
        assert!((17_000 * MS..23_000 * MS).contains(&waited), "{waited:?}");
    }

    #[test]
    fn a_fixed_time_out_stays() {
        let second = 1000 * MS;
        let mut rto = Rto::new(Timing { initial: second, floor: second, ceiling: second, ..Timing::default() });
        rto.measured(MS);
        rto.again();
        assert_eq!(rto.current(), second);
    }
}
