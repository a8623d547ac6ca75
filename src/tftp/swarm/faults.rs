//! A simulated bad network between a client and its socket: datagrams are lost, duplicated or reordered. The same seed and packets give the same faults.

use guideway_packet::time::Time;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest time for which a datagram is held back if no other overtakes it.
const REORDER_DELAY: Duration = Duration::from_millis(5);

/// Shares of faulty datagrams, 0 to 1, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Datagrams that are lost.
    pub lose: f64,
    /// Datagrams that arrive twice.
    pub duplicate: f64,
    /// Datagrams that arrive after the next one.
    pub reorder: f64,
}

impl Rates {
    /// Returns whether there are no faults.
    pub fn is_clean(&self) -> bool {
        *self == Rates::default()
    }
}

/// Reads `1%`, `0.5%` or `0.01`.
///
/// # Errors
/// When `text` is not a share.
pub fn parse(text: &str) -> Result<f64, String> {
    let (number, scale) = text.trim().strip_suffix('%').map_or((text.trim(), 1.0), |number| (number.trim_end(), 100.0));
    let share = number.parse::<f64>().ok().map(|number| number / scale);
    share.filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "a share is written as 1%, 0.5% or 0.01, from 0 to 100 %".to_owned())
}

/// One direction.
#[derive(Debug)]
pub struct Link {
    random: fastrand::Rng,
    rates: Rates,
    held: Option<(Time, Vec<u8>, SocketAddr)>,
}

impl Link {
    /// Creates a link with its own sequence of faults.
    pub fn new(seed: u64, rates: Rates) -> Self {
        Link { random: fastrand::Rng::with_seed(seed), rates, held: None }
    }

    /// Passes a datagram; `deliver` gets the datagrams that arrive now.
    pub fn pass(&mut self, now: Time, bytes: &[u8], peer: SocketAddr, mut deliver: impl FnMut(&[u8], SocketAddr)) {
        if self.rates.is_clean() {
            return deliver(bytes, peer);
        }
        let fate = self.random.f64();
        if fate < self.rates.lose {
            return;
        }
        if self.held.is_none() && self.random.f64() < self.rates.reorder {
            self.held = Some((now.plus(REORDER_DELAY), bytes.to_vec(), peer));
            return;
        }
        deliver(bytes, peer);
        if self.random.f64() < self.rates.duplicate {
            deliver(bytes, peer);
        }
        if let Some((_, bytes, peer)) = self.held.take() {
            deliver(&bytes, peer);
        }
    }

    /// Returns when to call [`Link::expire`].
    pub fn deadline(&self) -> Option<Time> {
        self.held.as_ref().map(|(due, ..)| *due)
    }

    /// Returns the datagram that was held back, once its time is over.
    pub fn expire(&mut self, now: Time) -> Option<(Vec<u8>, SocketAddr)> {
        self.held.take_if(|(due, ..)| *due <= now).map(|(_, bytes, peer)| (bytes, peer))
    }

    /// Drops the datagram that was held back: it belongs to an earlier transfer.
    pub fn clear(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> SocketAddr {
        "192.0.2.1:1".parse().unwrap()
    }

    fn arrive(rates: Rates, seed: u64) -> Vec<u8> {
        let (mut link, mut arrived) = (Link::new(seed, rates), Vec::new());
        (0..=255).for_each(|byte| link.pass(Time(0), &[byte], peer(), |bytes, _| arrived.extend(bytes)));
        arrived.extend(link.expire(Time(0).plus(REORDER_DELAY)).map_or(Vec::new(), |(bytes, _)| bytes));
        arrived
    }

    #[test]
    fn shares_are_percentages_or_fractions() {
        assert_eq!((parse("1%"), parse("0.5 %"), parse("0.01"), parse("0")), (Ok(0.01), Ok(0.005), Ok(0.01), Ok(0.0)));
        for bad in ["", "%", "101%", "-1%", "2", "NaN", "one"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_faults() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(arrive(Rates::default(), 1), all);
        let lossy = Rates { lose: 0.2, ..Rates::default() };
        assert_eq!(arrive(lossy, 1), arrive(lossy, 1));
        assert_ne!(arrive(lossy, 1), arrive(lossy, 2));
        assert!((150..250).contains(&arrive(lossy, 1).len()));
        assert!(arrive(Rates { duplicate: 0.2, ..Rates::default() }, 1).len() > 270);
        let mut shuffled = arrive(Rates { reorder: 0.2, ..Rates::default() }, 1);
        assert_ne!(shuffled, all);
        shuffled.sort_unstable();
        assert_eq!(shuffled, all, "late, not lost");
    }
}
