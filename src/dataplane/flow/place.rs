//! The two buckets of a flow, from its hash.

/// The lower bits of a hash, by which an entry is recognised.
pub(super) const TAG: u64 = (1 << 48) - 1;

/// ⌊hash · count / 2^64⌋: the home bucket.
#[inline]
pub(super) fn scale(hash: u64, count: usize) -> usize {
    ((u128::from(hash) * count as u128) >> 64) as usize
}

/// The other bucket of a flow with `tag` of which one bucket is `at`; the other one's other one is `at` again.
#[inline]
pub(super) fn other(at: usize, tag: u64, count: usize) -> usize {
    // The multiplier (2^64 divided by the golden ratio) spreads the tag over the upper bits, which `scale` reads.
    let sum = scale(tag.wrapping_mul(0x9e37_79b9_7f4a_7c15), count);
    if sum >= at { sum - at } else { sum + count - at }
}
