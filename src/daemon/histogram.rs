//! Histograms with fixed buckets.

/// Counts of values in buckets, and their sum.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Upper bounds of the buckets, ascending.
    bounds: &'static [f64],
    /// One count for each bucket, and one for larger values.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Creates an empty histogram with these upper bounds, which must ascend.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// Returns the sum of all values.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Returns the number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the number of values in each bucket, with its upper bound; larger values are in none.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        self.bounds.iter().copied().zip(self.counts.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        [0.0, 1.0, 1.5, 2.0, 7.0].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!(histogram.buckets(), [(1.0, 2), (2.0, 2)]);
        assert_eq!((histogram.count(), histogram.sum()), (5, 11.5));
    }
}
