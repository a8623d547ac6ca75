//! What a receiver knows: how many came, which did not, in what order, how late.

use crate::tag::Tag;
use serde_json::{Value, json};

/// So far back a number is remembered, to tell a late frame from one that came twice.
const WINDOW: u64 = 1 << 20;
/// Buckets of each doubling of a latency; the error of a quantile is at most one part of so many.
const PARTS: u64 = 16;

/// Counts of received frames.
#[derive(Debug)]
pub struct RxStats {
    /// Frames with a tag.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Frames without a tag.
    pub untagged: u64,
    /// Frames with a tag that came again.
    pub duplicates: u64,
    /// Frames that came after a later one.
    pub reordered: u64,
    first: Option<u64>,
    highest: u64,
    seen: Vec<u64>,
    latency: Latency,
}

impl Default for RxStats {
    fn default() -> RxStats {
        let seen = vec![0; (WINDOW / 64) as usize];
        RxStats {
            frames: 0,
            bytes: 0,
            untagged: 0,
            duplicates: 0,
            reordered: 0,
            first: None,
            highest: 0,
            seen,
            latency: Latency::default(),
        }
    }
}

impl RxStats {
    /// Counts a frame that was received at `now`, in nanoseconds of the monotonic clock; its tag, if it has one.
    pub fn count(&mut self, frame: &[u8], now: u64) -> Option<Tag> {
        let Some(tag) = Tag::in_frame(frame) else {
            self.untagged += 1;
            return None;
        };
        self.frames += 1;
        self.bytes += frame.len() as u64;
        self.latency.add(now.saturating_sub(tag.sent));
        let first = *self.first.get_or_insert(u64::from(tag.seq));
        if self.frames == 1 {
            self.highest = first;
            self.mark(first);
            return Some(tag);
        }
        // The number nearest to the highest one that has these lower 32 bits.
        let ahead = i64::from(tag.seq.wrapping_sub(self.highest as u32).cast_signed());
        let Some(number) = self.highest.checked_add_signed(ahead) else { return Some(tag) };
        if number > self.highest {
            for skipped in (self.highest + 1..number).rev().take(WINDOW as usize) {
                self.clear(skipped);
            }
            self.highest = number;
            self.clear(number);
            self.mark(number);
        } else if self.highest - number < WINDOW && self.mark(number) {
            self.duplicates += 1;
        } else {
            self.reordered += 1;
            self.first = Some(first.min(number));
        }
        Some(tag)
    }

    /// Marks a number as seen; whether it was already.
    fn mark(&mut self, number: u64) -> bool {
        let place = number % WINDOW;
        let word = &mut self.seen[(place / 64) as usize];
        let before = *word & 1 << (place % 64) != 0;
        *word |= 1 << (place % 64);
        before
    }

    fn clear(&mut self, number: u64) {
        let place = number % WINDOW;
        self.seen[(place / 64) as usize] &= !(1 << (place % 64));
    }

    /// Different frames that came.
    pub fn unique(&self) -> u64 {
        self.frames - self.duplicates
    }

    /// Numbers between the first and the last frame that never came. What was lost after the last one only the sender knows.
    pub fn lost(&self) -> u64 {
        self.first.map_or(0, |first| (self.highest - first + 1).saturating_sub(self.unique()))
    }

    /// For `--json`.
    pub fn json(&self) -> Value {
        json!({
            "frames": self.frames, "bytes": self.bytes, "lost": self.lost(), "duplicates": self.duplicates, "reordered": self.reordered, "untagged": self.untagged,
            "latency_ns": self.latency.json(),
        })
    }

    /// Human-readable text.
    pub fn text(&self) -> String {
        let RxStats { frames, duplicates, reordered, untagged, .. } = self;
        format!(
            "received {frames}, lost {}, reordered {reordered}, duplicates {duplicates}, untagged {untagged}; latency {}",
            self.lost(),
            self.latency.text()
        )
    }
}

/// Latencies in buckets of a sixteenth of their size.
#[derive(Debug)]
pub struct Latency {
    buckets: Vec<u64>,
    total: u64,
    min: u64,
    max: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: vec![0; bucket(u64::MAX) + 1], total: 0, min: u64::MAX, max: 0 }
    }
}

fn bucket(ns: u64) -> usize {
    let doublings = ns.max(PARTS).ilog2() - PARTS.ilog2();
    (u64::from(doublings) * PARTS + (ns >> doublings)) as usize
}

/// The largest latency of a bucket.
fn top(bucket: usize) -> u64 {
    let (bucket, doublings) = (bucket as u64, (bucket as u64 / PARTS).saturating_sub(1));
    if bucket < 2 * PARTS { bucket } else { ((u128::from(bucket % PARTS + PARTS + 1) << doublings) - 1).min(u128::from(u64::MAX)) as u64 }
}

impl Latency {
    /// Counts one, in nanoseconds.
    pub fn add(&mut self, ns: u64) {
        self.buckets[bucket(ns)] += 1;
        self.total += 1;
        (self.min, self.max) = (self.min.min(ns), self.max.max(ns));
    }

    /// What this share (0 to 1) does not exceed.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map_or(self.max, |bucket| top(bucket).clamp(self.min.min(self.max), self.max))
    }

    fn json(&self) -> Value {
        if self.total == 0 {
            return Value::Null;
        }
        json!({"min": self.min, "p50": self.quantile(0.5), "p99": self.quantile(0.99), "p999": self.quantile(0.999), "max": self.max})
    }

    fn text(&self) -> String {
        if self.total == 0 {
            return "unknown".to_owned();
        }
        let us = |ns: u64| ns as f64 / 1000.0;
        let (p50, p99) = (self.quantile(0.5), self.quantile(0.99));
        format!("min {:.1} p50 {:.1} p99 {:.1} max {:.1} µs", us(self.min), us(p50), us(p99), us(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::build;

    fn frame(seq: u32) -> Vec<u8> {
        let tag = Tag { seq, sent: 1000 };
        build::udp("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:53".parse().unwrap(), &tag.bytes()).frame([2; 6], [4; 6])
    }

    fn after(numbers: impl IntoIterator<Item = u32>) -> RxStats {
        let mut rx_stats = RxStats::default();
        for seq in numbers {
            assert!(rx_stats.count(&frame(seq), 3000).is_some());
        }
        rx_stats
    }

    fn sums(numbers: impl IntoIterator<Item = u32>) -> (u64, u64, u64, u64) {
        let rx_stats = after(numbers);
        (rx_stats.unique(), rx_stats.lost(), rx_stats.reordered, rx_stats.duplicates)
    }

    #[test]
    fn losses_reordering_and_duplicates_are_distinguished() {
        assert_eq!(sums(0..100), (100, 0, 0, 0));
        assert_eq!(sums((0..100).filter(|n| n % 10 != 3)), (90, 10, 0, 0));
        assert_eq!(sums([0, 1, 3, 2, 4]), (5, 0, 1, 0));
        assert_eq!(sums([5, 4, 6]), (3, 0, 1, 0), "the first may be late too");
        assert_eq!(sums([0, 1, 1, 3, 0]), (3, 1, 0, 2));
        let (most, window) = (u32::MAX, WINDOW as u32);
        assert_eq!(sums([most - 1, most, 0, 2]), (4, 1, 0, 0), "numbers wrap");
        assert_eq!(sums([0, window, 2 * window]), (3, 2 * WINDOW - 2, 0, 0), "places are used again");
        assert_eq!(sums((0..3 * window).step_by(1000).chain([3 * window - 1])).2, 0);
    }

    #[test]
    fn others_are_counted_apart_and_latency_is_measured() {
        let mut rx_stats = after(0..3);
        assert_eq!(rx_stats.count(&[0; 60], 0), None);
        assert_eq!((rx_stats.untagged, rx_stats.frames, rx_stats.bytes), (1, 3, 3 * 56));
        assert_eq!(rx_stats.json()["latency_ns"]["p50"], 2000);
        assert_eq!(RxStats::default().json()["latency_ns"], Value::Null);
    }

    #[test]
    fn a_quantile_is_a_sixteenth_too_long_at_most() {
        let mut latency = Latency::default();
        (1..=1000u64).for_each(|n| latency.add(n * 1_000_000));
        for (share, exact) in [(0.5, 500_000_000), (0.99, 990_000_000)] {
            let got = latency.quantile(share);
            assert!(got >= exact && got <= exact + exact / 16, "{share}: {got}");
        }
        assert!((0..64).map(|n| 1u64 << n).all(|ns| top(bucket(ns)) >= ns && bucket(ns) < latency.buckets.len()));
    }
}
