//! Retransmission time-outs of both sides: they follow the measured round trip, double without an answer, and end after a number of retries.

use std::time::Duration;

/// Time-outs and limits of retransmissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetransmissionPolicy {
    /// Time-out before the first measurement. RFC 6298 section 2 begins with 1 s: clients such as atftp give up when a second OACK arrives.
    pub initial_rto: Duration,
    /// Shortest measured time-out.
    pub min_rto: Duration,
    /// Longest time-out, back-off included.
    pub max_rto: Duration,
    /// Retransmissions without an answer before the client is given up.
    pub retries: u8,
    /// Shortest time without progress before a client that has answered is given up: it may be erasing its flash.
    pub min_give_up: Duration,
}

impl Default for RetransmissionPolicy {
    fn default() -> Self {
        RetransmissionPolicy {
            initial_rto: Duration::from_secs(1),
            min_rto: Duration::from_millis(40),
            // atftp 0.8 acknowledges a retransmitted block once, then only after its own 5 s, which every retransmission restarts.
            max_rto: Duration::from_secs(6),
            retries: 5,
            min_give_up: Duration::from_secs(20),
        }
    }
}

/// The retransmission policy of a transfer. With equal `min_rto`, `initial` and `max_rto` the time-out is fixed, as in most firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time-out before the first measurement.
    pub initial: Duration,
    /// Shortest time-out.
    pub min_rto: Duration,
    /// Longest time-out, back-off included.
    pub max_rto: Duration,
    /// Retransmissions of one packet before the transfer is given up. Time-outs shorter than `initial` allow more of them in the same
    /// total time, because a server's own time-out may be seconds. Progress resets the count.
    pub retries: u32,
    /// How long a finished read dallies, so that it can repeat a lost last acknowledgement (RFC 1350 section 6).
    pub dally: Dally,
}

/// When a finished read dallies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dally {
    /// Only after a loss or a duplicate: a clean path needs no wait.
    AfterLoss(Duration),
    /// Always.
    Always(Duration),
    /// Never.
    Never,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            initial: Duration::from_secs(1),
            min_rto: Duration::from_millis(30),
            max_rto: Duration::from_secs(5),
            retries: 6,
            dally: Dally::AfterLoss(Duration::from_millis(1500)),
        }
    }
}

impl Timing {
    /// Returns the time without an answer after which a transfer fails.
    pub fn total_timeout(&self) -> Duration {
        let wait = |number: u32| self.initial.checked_mul(1 << number.min(16)).unwrap_or(Duration::MAX).min(self.max_rto.max(self.min_rto));
        (0..=self.retries).map(wait).fold(Duration::ZERO, Duration::saturating_add)
    }
}

/// Smoothed round-trip time (RFC 6298 section 2), in microseconds. Servers and clients measure with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundTrip {
    /// 0 before the first measurement.
    mean: u32,
    deviation: u32,
}

impl RoundTrip {
    /// Records the round trip of a packet that was sent once (Karn's rule: never of a retransmitted one).
    pub fn measure(&mut self, trip: Duration) {
        let trip = u32::try_from(trip.as_micros()).unwrap_or(u32::MAX).max(1);
        if self.mean == 0 {
            (self.mean, self.deviation) = (trip, trip / 2);
        } else {
            self.deviation = self.deviation - self.deviation / 4 + self.mean.abs_diff(trip) / 4;
            self.mean = (self.mean - self.mean / 8).saturating_add(trip / 8).max(1);
        }
    }

    /// Returns the smoothed round trip; zero before the first measurement.
    pub fn mean(&self) -> Duration {
        Duration::from_micros(self.mean.into())
    }

    /// Returns the time-out: the round trip and four deviations, which count as `slack` at least. `None` before the first measurement.
    pub fn timeout(&self, slack: Duration) -> Option<Duration> {
        let margin = Duration::from_micros(4 * u64::from(self.deviation)).max(slack);
        (self.mean != 0).then(|| self.mean() + margin)
    }
}

/// The time-out of one transfer: RFC 6298 with a smaller minimum, because a server answers from memory or a local disk.
#[derive(Clone, Debug)]
pub struct Rto {
    timing: Timing,
    round_trip: RoundTrip,
    unanswered: u32,
    total_waited: Duration,
}

/// Minimum that is added to the round trip, so that a busy machine does not look like a lossy network.
const SLACK: Duration = Duration::from_millis(20);

impl Rto {
    /// Returns a time-out without a measurement.
    pub fn new(timing: Timing) -> Self {
        Rto { timing, round_trip: RoundTrip::default(), unanswered: 0, total_waited: Duration::ZERO }
    }

    /// Records the round trip of a packet that was sent once.
    pub fn measured(&mut self, trip: Duration) {
        self.round_trip.measure(trip);
    }

    /// Returns the current time-out.
    pub fn current(&self) -> Duration {
        let first = self.round_trip.timeout(SLACK).unwrap_or(self.timing.initial).max(self.timing.min_rto);
        first.checked_mul(1 << self.unanswered.min(16)).unwrap_or(Duration::MAX).min(self.timing.max_rto.max(self.timing.min_rto))
    }

    /// Doubles the time-out. Returns `false` when the retries are used up.
    pub fn again(&mut self) -> bool {
        self.total_waited = self.total_waited.saturating_add(self.current());
        self.unanswered += 1;
        self.total_waited < self.timing.total_timeout()
    }

    /// Resets back-off and retries after progress.
    pub fn progress(&mut self) {
        self.unanswered = 0;
        self.total_waited = Duration::ZERO;
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
    fn it_doubles_gives_up_and_is_reset_by_progress() {
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
        let mut total_waited = rto.current();
        while rto.again() {
            total_waited += rto.current();
        }
        assert!((17_000 * MS..23_000 * MS).contains(&total_waited), "{total_waited:?}");
    }

    #[test]
    fn a_fixed_time_out_stays() {
        let second = 1000 * MS;
        let mut rto = Rto::new(Timing { initial: second, min_rto: second, max_rto: second, ..Timing::default() });
        rto.measured(MS);
        rto.again();
        assert_eq!(rto.current(), second);
    }
}
