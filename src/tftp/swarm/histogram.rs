//! Histogram of the latencies of millions of transfers in a few kilobytes, with an error of at most 1/32.

use std::time::Duration;

/// Buckets for each power of two.
const PARTS: u64 = 32;
/// Values below are exact; above, there are [`PARTS`] buckets for each doubling, up to 2^40 µs.
const BUCKETS: usize = 36 * PARTS as usize;

/// Counts of durations, in microseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS], total: 0, longest: Duration::ZERO }
    }
}

fn bucket(micros: u64) -> usize {
    if micros < PARTS {
        return micros as usize;
    }
    let doublings = u64::from(micros.ilog2() - PARTS.ilog2());
    ((doublings * PARTS + (micros >> doublings)) as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn top(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PARTS {
        return bucket;
    }
    let doublings = bucket / PARTS - 1;
    ((bucket % PARTS + PARTS + 1) << doublings) - 1
}

impl Histogram {
    /// Counts one duration.
    pub fn add(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(micros)) {
            *count += 1;
        }
        self.total += 1;
        self.longest = self.longest.max(duration);
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(to, from)| *to += from);
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    /// Returns the number of durations.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the duration that this share (0 to 1) does not exceed, at most 1/32 too long.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(top(bucket)).min(self.longest);
            }
        }
        self.longest
    }

    /// Returns the exact longest duration.
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_of_a_thousand() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        (1..=1000).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        for (share, exact) in [(0.5, 500), (0.95, 950), (0.99, 990), (1.0, 1000)] {
            let (got, exact) = (histogram.quantile(share), Duration::from_millis(exact));
            assert!(got >= exact && got <= exact + exact / 32, "{share}: {got:?}");
        }
        let mut sum = Histogram::default();
        sum.merge(&histogram);
        assert_eq!((sum.total(), sum.longest()), (1000, Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_is_put_there(micros in 0u64..1 << 40) {
            let bucket = bucket(micros);
            prop_assert!(top(bucket) >= micros);
            prop_assert!(top(bucket) - micros <= micros / 32);
            prop_assert!(bucket == 0 || top(bucket - 1) < micros);
        }
    }
}
