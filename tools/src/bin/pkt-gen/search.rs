//! The highest rate without loss, by doubling and bisection.

/// What one trial came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Requested frames a second.
    pub requested: f64,
    /// Frames a second that were really sent.
    pub offered: f64,
    /// Frames sent.
    pub sent: u64,
    /// Different frames of these that came back.
    pub received: u64,
}

impl Trial {
    /// Share of the frames that was lost; all of them if none was sent, which proves nothing good.
    pub fn loss(&self) -> f64 {
        if self.sent == 0 { 1.0 } else { self.sent.saturating_sub(self.received) as f64 / self.sent as f64 }
    }

    /// Whether the sender could not keep up with the requested rate.
    pub fn is_sender_limited(&self) -> bool {
        self.offered < self.requested * 0.97
    }
}

/// What ended the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Beyond this rate frames are lost.
    Loss,
    /// The sender itself sends no faster.
    Sender,
    /// The highest rate that was allowed is without loss.
    Allowed,
    /// Already the lowest rate loses frames.
    Start,
}

impl Limit {
    /// For `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Loss => "loss",
            Limit::Sender => "sender",
            Limit::Allowed => "allowed",
            Limit::Start => "start",
        }
    }
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub struct SearchConfig {
    /// The first rate, in frames a second.
    pub start: f64,
    /// The highest rate to try.
    pub max_rate: f64,
    /// Share of the frames that may be lost.
    pub loss: f64,
    /// The result is within this share of the rate that loses.
    pub precision: f64,
}

/// Runs trials until the rate is known; the fastest good trial, and what limits it. `None` from `trial` gives up.
pub fn search(config: SearchConfig, mut trial: impl FnMut(f64) -> Option<Trial>) -> (Option<Trial>, Limit) {
    let (mut best, mut rate, mut bad): (Option<Trial>, f64, Option<f64>) = (None, config.start.min(config.max_rate), None);
    let mut limit = Limit::Start;
    while let Some(done) = trial(rate) {
        if done.loss() > config.loss {
            limit = if best.is_some() { Limit::Loss } else { Limit::Start };
            bad = Some(rate);
        } else {
            best = Some(best.filter(|best| best.offered >= done.offered).unwrap_or(done));
            if done.is_sender_limited() {
                // Whether more would be lost at a higher rate cannot be known from here.
                return (best, Limit::Sender);
            }
            if rate >= config.max_rate {
                return (best, Limit::Allowed);
            }
            limit = Limit::Loss;
        }
        let good = best.map_or(0.0, |best| best.requested);
        rate = match bad {
            None => (rate * 2.0).min(config.max_rate),
            Some(bad) if bad - good <= bad * config.precision || bad < 1.0 => return (best, limit),
            Some(bad) => (good + bad) / 2.0,
        };
    }
    (best, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: SearchConfig = SearchConfig { start: 1000.0, max_rate: 10e6, loss: 0.0, precision: 0.02 };

    /// Something that loses what comes beyond `capacity`, and a sender that sends at most `sender`.
    fn run(config: SearchConfig, capacity: f64, sender: f64) -> (f64, Limit, usize) {
        let mut trials = 0;
        let (best, limit) = search(config, |requested| {
            trials += 1;
            let offered = requested.min(sender);
            Some(Trial { requested, offered, sent: offered as u64, received: offered.min(capacity) as u64 })
        });
        (best.map_or(0.0, |best| best.offered), limit, trials)
    }

    #[test]
    fn the_rate_is_found_within_its_precision_from_below() {
        for capacity in [1_500.0, 40_000.0, 333_333.0, 5_000_000.0] {
            let (found, limit, trials) = run(WANTED, capacity, f64::INFINITY);
            assert!(found <= capacity && found >= capacity * 0.98 && limit == Limit::Loss, "{capacity}: {found} {limit:?}");
            assert!(trials < 30);
        }
    }

    #[test]
    fn what_limits_is_said() {
        assert_eq!(run(WANTED, 1e9, 200_000.0).1, Limit::Sender);
        assert_eq!(run(WANTED, 1e9, 200_000.0).0, 200_000.0);
        assert_eq!(run(WANTED, 1e9, 1e9), (10e6, Limit::Allowed, 15));
        let (below, limit, _) = run(WANTED, 100.0, 1e9);
        assert!((98.0..=100.0).contains(&below) && limit == Limit::Loss, "{below} {limit:?}");
        assert_eq!(run(WANTED, 0.0, 1e9).1, Limit::Start);
        assert!(run(SearchConfig { loss: 0.5, ..WANTED }, 50_000.0, 1e9).0 > 90_000.0);
        assert_eq!(search(WANTED, |_| None).1, Limit::Start);
    }
}
