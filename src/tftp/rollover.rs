//! Block numbers: absolute in memory, 16 bits on the wire.
//!
//! RFC 1350 ends at block 65535. Implementations that continue start again at 0 (nearly all) or at 1.

/// The number of the block after block 65535. No RFC defines it; nearly all implementations use 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rollover {
    /// 0.
    #[default]
    Zero,
    /// 1.
    One,
}

impl Rollover {
    /// Returns the number of distinct block numbers before they repeat.
    pub fn ring(self) -> u64 {
        match self {
            Rollover::Zero => 65_536,
            Rollover::One => 65_535,
        }
    }

    /// Returns the number on the wire of an absolute block. Block 0 acknowledges an OACK.
    pub fn wire(self, block: u64) -> u16 {
        let number = match self {
            Rollover::Zero => block % self.ring(),
            Rollover::One if block == 0 => 0,
            Rollover::One => (block - 1) % self.ring() + 1,
        };
        u16::try_from(number).unwrap_or(0)
    }

    /// Returns how many blocks after `expected` (at least 1) the block with this number comes, 0 to [`Self::ring`] − 1. The block before
    /// `expected` has the largest distance. `None` when no block has the number.
    pub fn ahead(self, expected: u64, wire: u16) -> Option<u64> {
        let ring = self.ring();
        let at = match self {
            Rollover::Zero => u64::from(wire),
            Rollover::One => u64::from(wire).checked_sub(1)?,
        };
        let from = match self {
            Rollover::Zero => expected % ring,
            Rollover::One => expected.saturating_sub(1) % ring,
        };
        Some((at + ring - from) % ring)
    }

    /// Returns how many blocks after `acked` the block comes that an ACK of this number acknowledges. Block 0 is acknowledged once, after an OACK.
    pub fn ahead_of_ack(self, acked: u64, wire: u16) -> Option<u64> {
        if acked == 0 { Some(wire.into()) } else { self.ahead(acked, wire) }
    }

    /// Returns the block that a client acknowledges by `number`, for a server that only knows the earlier position `checkpointed`: the first block
    /// with this number from a window before that position on. `None` if there is none up to `last`, or if it is so far ahead that the number may be
    /// an old one.
    pub fn acknowledged(self, checkpointed: u64, window: u16, number: u16, last: u64) -> Option<u64> {
        let base = checkpointed.saturating_sub(u64::from(window));
        self.ahead_of_ack(base, number).filter(|ahead| *ahead <= MAX_AHEAD).map(|ahead| base + ahead).filter(|block| *block <= last)
    }
}

/// Largest distance in blocks at which an ACK still identifies the position of another server: three quarters of the numbers. The rest is for old ACKs.
pub const MAX_AHEAD: u64 = 49_152;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_follows_65535() {
        let numbers = |rollover: Rollover| [0, 1, 65_535, 65_536, 65_537, 131_070, 131_071, 131_072].map(|block| rollover.wire(block));
        assert_eq!(numbers(Rollover::Zero), [0, 1, 65_535, 0, 1, 65_534, 65_535, 0]);
        assert_eq!(numbers(Rollover::One), [0, 1, 65_535, 1, 2, 65_535, 1, 2]);
        assert_eq!(Rollover::One.ahead(1, 0), None, "no DATA has the number 0 then");
        assert_eq!(Rollover::Zero.ahead(65_535, 0), Some(1));
        assert_eq!(Rollover::One.ahead(65_535, 1), Some(1));
        assert_eq!(Rollover::Zero.ahead(1, 0), Some(65_535), "the one before");
    }

    proptest! {
        #[test]
        fn a_number_says_how_far_ahead_its_block_is(expected in 1u64..1 << 40, ahead in 0u64..65_535, one: bool) {
            let rollover = if one { Rollover::One } else { Rollover::Zero };
            prop_assert_eq!(rollover.ahead(expected, rollover.wire(expected + ahead)), Some(ahead));
        }
    }
}
