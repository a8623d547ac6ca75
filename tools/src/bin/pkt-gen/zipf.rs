//! Which flow comes next: all alike, or some far more often than others.

/// Draws numbers below a count, the number k with a weight of (k + 1)^-skew: Walker's alias method, one draw whatever the count.
#[derive(Debug)]
pub struct Zipf {
    /// Where the column is cut, of 2^32, and what is above the cut.
    columns: Vec<(u32, u32)>,
}

impl Zipf {
    /// Weights for `count` numbers (at least 1). A skew of 0 makes all alike.
    pub fn new(count: u32, skew: f64) -> Zipf {
        let weights: Vec<f64> = (1..=count.max(1)).map(|k| f64::from(k).powf(-skew)).collect();
        let total: f64 = weights.iter().sum();
        // Every column is one high when all are alike.
        let mut heights: Vec<f64> = weights.iter().map(|w| w / total * weights.len() as f64).collect();
        let mut columns = vec![(u32::MAX, 0); weights.len()];
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|k| heights[*k] < 1.0);
        while let (Some(low), Some(high)) = (small.pop(), large.last().copied()) {
            columns[low] = ((heights[low] * 4_294_967_296.0) as u32, high as u32);
            heights[high] -= 1.0 - heights[low];
            if heights[high] < 1.0 {
                large.pop();
                small.push(high);
            }
        }
        Zipf { columns }
    }

    /// The next number.
    pub fn draw(&self, random: &mut fastrand::Rng) -> u32 {
        let bits = random.u64(..);
        let column = ((bits >> 32) * self.columns.len() as u64) >> 32;
        match self.columns.get(column as usize) {
            Some((cut, above)) if bits as u32 > *cut => *above,
            _ => column as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares how often each number comes with its weight, by chi-square.
    fn compare(count: u32, skew: f64, draws: u32) {
        let (zipf, mut random) = (Zipf::new(count, skew), fastrand::Rng::with_seed(7));
        let mut seen = vec![0u32; count as usize];
        (0..draws).for_each(|_| seen[zipf.draw(&mut random) as usize] += 1);
        let total: f64 = (1..=count).map(|k| f64::from(k).powf(-skew)).sum();
        let square: f64 = (1..=count)
            .zip(&seen)
            .map(|(k, seen)| {
                let expected = f64::from(draws) * f64::from(k).powf(-skew) / total;
                (f64::from(*seen) - expected).powi(2) / expected
            })
            .sum();
        // Mean: count - 1; standard deviation: the square root of twice that. Six of them.
        let freedom = f64::from(count - 1);
        assert!(square < freedom + 6.0 * (2.0 * freedom).sqrt(), "{count} flows, skew {skew}: {square}");
    }

    #[test]
    fn numbers_come_as_often_as_their_weights_say() {
        compare(10, 0.0, 100_000);
        compare(10, 1.0, 100_000);
        compare(1000, 0.8, 1_000_000);
        assert_eq!(Zipf::new(1, 1.2).draw(&mut fastrand::Rng::with_seed(1)), 0);
    }
}
