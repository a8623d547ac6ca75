//! The set of available byte ranges of a file.

use std::ops::Range;

/// Disjoint, non-adjacent spans in ascending order.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    /// Adds available bytes.
    pub(super) fn insert(&mut self, span: Range<u64>) {
        if span.is_empty() {
            return;
        }
        let first = self.0.partition_point(|s| s.end < span.start);
        let behind = self.0.partition_point(|s| s.start <= span.end);
        let merged = self.0[first..behind].iter().fold(span, |m, s| m.start.min(s.start)..m.end.max(s.end));
        self.0.splice(first..behind, [merged]);
    }

    /// Returns the end of the available bytes from `offset` on; `offset` itself if it is not available.
    pub(super) fn end_from(&self, offset: u64) -> u64 {
        let at = self.0.partition_point(|s| s.end <= offset);
        self.0.get(at).filter(|s| s.start <= offset).map_or(offset, |s| s.end)
    }

    /// Returns the first hole at or after `offset` in a file of `size` bytes.
    pub(super) fn hole_from(&self, offset: u64, size: u64) -> Option<Range<u64>> {
        let start = self.end_from(offset);
        let next = self.0.get(self.0.partition_point(|s| s.start < start)).map_or(size, |s| s.start.min(size));
        (start < size).then_some(start..next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spans_are_like_an_array_of_flags(range_set in prop::collection::vec((0u64..60, 0u64..20), 0..12), offset in 0u64..80) {
            let (mut plain, mut ours) = ([false; 80], RangeSet::default());
            for (start, len) in range_set {
                ours.insert(start..start + len);
                plain[start as usize..(start + len) as usize].fill(true);
            }
            let run = |from: u64, flag: bool| (from..80).find(|&at| plain[at as usize] != flag).unwrap_or(80);
            prop_assert_eq!(ours.end_from(offset), run(offset, true));
            let hole = run(offset, true);
            prop_assert_eq!(ours.hole_from(offset, 80), (hole < 80).then(|| hole..run(hole, false)));
            prop_assert!(ours.0.windows(2).all(|w| w[0].end < w[1].start) && ours.0.iter().all(|s| !s.is_empty()));
        }
    }
}
