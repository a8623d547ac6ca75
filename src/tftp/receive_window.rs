//! Order of received blocks: the next block, gaps and duplicates. Used by clients for reads and by the server for writes.

use super::rollover::Rollover;

/// Classification of a DATA packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next block; its bytes must be stored.
    Next {
        /// Whether it completes a window.
        full: bool,
        /// Whether it is the last one.
        last: bool,
    },
    /// The next block, with more bytes than negotiated.
    TooLong,
    /// Blocks are missing before it. An ACK of the last block in order must report the gap.
    Gap,
    /// Blocks are missing before it, and the gap was already reported.
    GapKnown,
    /// The block was received before.
    Duplicate {
        /// Whether it is the last acknowledged block, whose ACK may be lost.
        acknowledged: bool,
    },
    /// No block has this number.
    OutOfRange,
}

/// The receiver's position in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveWindow {
    /// The next expected block, from 1.
    next: u64,
    /// Received blocks of the current window.
    in_window: u16,
    /// Distance from the missing block to the last block that showed the gap.
    gap: Option<u64>,
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        ReceiveWindow { next: 1, in_window: 0, gap: None }
    }
}

impl ReceiveWindow {
    /// Returns the next expected block, from 1.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Classifies a DATA packet of this number and length; `blksize`, `window` and `rollover` are the negotiated ones.
    pub fn arrive(&mut self, number: u16, length: usize, blksize: u16, window: u16, rollover: Rollover) -> Arrival {
        let Some(ahead) = rollover.ahead(self.next, number) else { return Arrival::OutOfRange };
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
            // Once, because each such ACK makes the sender restart the window; again when the restarted window lacks the block, too.
            let acked = self.gap.is_some_and(|before| ahead >= before);
            self.gap = Some(ahead);
            return if acked { Arrival::GapKnown } else { Arrival::Gap };
        }
        // Earlier blocks are covered by a later ACK.
        Arrival::Duplicate { acknowledged: ahead == rollover.ring() - 1 && self.in_window == 0 }
    }

    /// Records that all blocks in order were acknowledged, so that a new window starts.
    pub fn acknowledged(&mut self) {
        self.in_window = 0;
    }

    /// Forgets that a gap was reported, so that it is reported again after a pause.
    pub fn reset_gap(&mut self) {
        self.gap = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(receive_window: &mut ReceiveWindow, number: u16) -> Arrival {
        receive_window.arrive(number, 8, 8, 4, Rollover::Zero)
    }

    #[test]
    fn windows_gaps_and_repetitions() {
        let mut receive_window = ReceiveWindow::default();
        assert_eq!([1, 2, 3].map(|n| arrive(&mut receive_window, n)), [Arrival::Next { full: false, last: false }; 3]);
        assert_eq!(arrive(&mut receive_window, 4), Arrival::Next { full: true, last: false });
        receive_window.acknowledged();
        assert_eq!([4, 3].map(|n| arrive(&mut receive_window, n)), [true, false].map(|acknowledged| Arrival::Duplicate { acknowledged }));
        assert_eq!([6, 7, 8].map(|n| arrive(&mut receive_window, n)), [Arrival::Gap, Arrival::GapKnown, Arrival::GapKnown]);
        assert_eq!(arrive(&mut receive_window, 6), Arrival::Gap, "the window is sent again, and the same block is lost again");
        receive_window.reset_gap();
        assert_eq!(arrive(&mut receive_window, 8), Arrival::Gap);
        assert_eq!(arrive(&mut receive_window, 5), Arrival::Next { full: false, last: false });
        assert_eq!(arrive(&mut receive_window, 4), Arrival::Duplicate { acknowledged: false }, "within a window");
        assert_eq!(arrive(&mut receive_window, 20), Arrival::Duplicate { acknowledged: false }, "as good as 65,000 blocks behind");
        assert_eq!(receive_window.arrive(6, 9, 8, 4, Rollover::Zero), Arrival::TooLong);
        assert_eq!(receive_window.arrive(6, 0, 8, 4, Rollover::Zero), Arrival::Next { full: false, last: true });
        assert_eq!(receive_window.arrive(0, 8, 8, 4, Rollover::One), Arrival::OutOfRange);
        assert_eq!(receive_window.next(), 7);
    }

    #[test]
    fn numbers_start_again() {
        for (rollover, after) in [(Rollover::Zero, 0), (Rollover::One, 1)] {
            let mut receive_window = ReceiveWindow::default();
            for number in 1..=65535 {
                assert_eq!(receive_window.arrive(number, 8, 8, 1, rollover), Arrival::Next { full: true, last: false });
                receive_window.acknowledged();
            }
            assert_eq!(receive_window.arrive(after, 8, 8, 1, rollover), Arrival::Next { full: true, last: false }, "{rollover:?}");
        }
    }
}
