//! Blocks as they come to the one who receives them: which is next, which is missing, which came before. The client that reads and the
//! server that is written to share it.

use super::options::Rollover;

/// What a DATA packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next block; the bytes are to be kept.
    Next {
        /// Whether it completes a window.
        full: bool,
        /// Whether it is the last one.
        last: bool,
    },
    /// The next block, with more bytes than agreed.
    TooLong,
    /// Blocks are missing before it, which the sender is to be told by an ACK of the last one that came in order.
    Gap,
    /// Blocks are missing before it, and the sender was told.
    Behind,
    /// It came before.
    Again {
        /// Whether it is the last block that was acknowledged, so that the ACK may be lost.
        acknowledged: bool,
    },
    /// No block has this number.
    Foreign,
}

/// The receiver's place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The block that comes next, from 1.
    next: u64,
    /// Blocks of the current window that came.
    in_window: u16,
    /// How far behind the missing block the last block was that showed the gap.
    gap: Option<u64>,
}

impl Default for Order {
    fn default() -> Self {
        Order { next: 1, in_window: 0, gap: None }
    }
}

impl Order {
    /// The block that comes next, from 1.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes a DATA packet of this number and length; `blksize`, `window` and `rollover` are what was agreed.
    pub fn arrive(&mut self, number: u16, length: usize, blksize: u16, window: u16, rollover: Rollover) -> Arrival {
        let Some(ahead) = rollover.ahead(self.next, number) else { return Arrival::Foreign };
        if ahead == 0 {
            if length > usize::from(blksize) {
                return Arrival::TooLong;
            }
            self.next += 1;
            self.in_window = self.in_window.saturating_add(1);
            self.gap = None;
            return Arrival::Next { full: self.in_window >= window, last: length < usize::from(blksize) };
        }
        if ahead < u64::from(window) {
            // "the receiver … notifies the sender by sending an ACK of the last data block received in sequence" (RFC 7440 section 4).
            // Once, because each such ACK makes the sender begin a window; again when the blocks begin anew and still lack that one.
            let told = self.gap.is_some_and(|before| ahead >= before);
            self.gap = Some(ahead);
            return if told { Arrival::Behind } else { Arrival::Gap };
        }
        // What is further behind was answered by a later ACK.
        Arrival::Again { acknowledged: ahead == rollover.ring() - 1 && self.in_window == 0 }
    }

    /// All blocks that came in order were acknowledged: a window begins.
    pub fn acknowledged(&mut self) {
        self.in_window = 0;
    }

    /// Nothing came for a while: a gap is told again.
    pub fn silence(&mut self) {
        self.gap = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(order: &mut Order, number: u16) -> Arrival {
        order.arrive(number, 8, 8, 4, Rollover::Zero)
    }

    #[test]
    fn windows_gaps_and_repetitions() {
        let mut order = Order::default();
        assert_eq!([1, 2, 3].map(|n| arrive(&mut order, n)), [Arrival::Next { full: false, last: false }; 3]);
        assert_eq!(arrive(&mut order, 4), Arrival::Next { full: true, last: false });
        order.acknowledged();
        assert_eq!([4, 3].map(|n| arrive(&mut order, n)), [true, false].map(|acknowledged| Arrival::Again { acknowledged }));
        assert_eq!([6, 7, 8].map(|n| arrive(&mut order, n)), [Arrival::Gap, Arrival::Behind, Arrival::Behind]);
        assert_eq!(arrive(&mut order, 6), Arrival::Gap, "the window comes again, without that block again");
        order.silence();
        assert_eq!(arrive(&mut order, 8), Arrival::Gap);
        assert_eq!(arrive(&mut order, 5), Arrival::Next { full: false, last: false });
        assert_eq!(arrive(&mut order, 4), Arrival::Again { acknowledged: false }, "within a window");
        assert_eq!(arrive(&mut order, 20), Arrival::Again { acknowledged: false }, "as good as 65,000 blocks behind");
        assert_eq!(order.arrive(6, 9, 8, 4, Rollover::Zero), Arrival::TooLong);
        assert_eq!(order.arrive(6, 0, 8, 4, Rollover::Zero), Arrival::Next { full: false, last: true });
        assert_eq!(order.arrive(0, 8, 8, 4, Rollover::One), Arrival::Foreign);
        assert_eq!(order.next(), 7);
    }

    #[test]
    fn numbers_start_again() {
        for (rollover, after) in [(Rollover::Zero, 0), (Rollover::One, 1)] {
            let mut order = Order::default();
            for number in 1..=65535 {
                assert_eq!(order.arrive(number, 8, 8, 1, rollover), Arrival::Next { full: true, last: false });
                order.acknowledged();
            }
            assert_eq!(order.arrive(after, 8, 8, 1, rollover), Arrival::Next { full: true, last: false }, "{rollover:?}");
        }
    }
}
