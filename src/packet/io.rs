//! How packets get in and out: one small trait; its kinds are in `guideway-io`, and can be stacked.
//!
//! A turn receives a batch in place, lets the caller decide over it, and carries out every verdict: the received buffer itself is
//! transmitted or released, without a copy of ours. The frames cannot outlive the turn, so that rings shared with a kernel stay
//! behind safe code.

use crate::frame::Frame;
use crate::time::Time;
use std::time::Duration;

/// Most frames in one batch.
pub const BATCH: usize = 64;

/// Decides over a batch: sets the verdict of every frame, and leaves the frames in their places.
pub type Work<'w> = dyn FnMut(Time, &mut [Frame<'_>]) + 'w;

/// What one turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Frames received.
    pub received: usize,
    /// Frames whose verdict was `Transmit` and that found no room in the transmit ring.
    pub transmit_full: usize,
    /// No frame will ever come again (a capture has ended).
    pub end: bool,
}

/// A way in and out for packets. One value belongs to one worker.
pub trait Io: Send {
    /// Waits at most `wait` for frames, calls `work` once for each batch received (never with an empty one), and carries out the verdicts.
    /// Errors are those that a retry does not mend (the interface is gone).
    fn turn(&mut self, wait: Duration, work: &mut Work<'_>) -> std::io::Result<Turn>;

    /// Sends a frame that the caller has made or kept itself. `false` when there is no room now. Sent at the latest with the next turn.
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool>;

    /// The time now, on the clock that `work` is given.
    fn now(&self) -> Time;

    /// Tells what it has seen that no turn says: names for people, in snake_case, and numbers; always the same names in the same order.
    fn each_count(&self, _show: &mut dyn FnMut(&'static str, u64)) {}
}
