//! How packets get in and out: one small trait; its kinds are in `guideway-io`, and can be stacked.
//!
//! A poll receives a batch in place, lets the caller decide over it, and carries out every verdict: the received buffer itself is
//! transmitted or released, without a copy of ours. The frames cannot outlive the poll, so that rings shared with a kernel stay
//! behind safe code.

use crate::frame::{Frame, OWN_INTERFACE, Output};
use crate::loss::Losses;
use crate::time::Time;
use std::time::Duration;

/// Most frames in one batch.
pub const BATCH: usize = 64;

/// Decides over a batch: sets the verdict of every frame, and leaves the frames in their places.
pub type BatchHandler<'w> = dyn FnMut(Time, &mut [Frame<'_>]) + 'w;

/// What one poll did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollResult {
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
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult>;

    /// Sends a frame that the caller has made or kept itself. `false` when there is no room now. Sent at the latest with the next poll.
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool>;

    /// Sends a frame as [`Io::send`] does, by another interface. An io that has only its own interface sends none there.
    fn send_by(&mut self, frame: &[u8], output: Output) -> std::io::Result<bool> {
        if output == OWN_INTERFACE { self.send(frame) } else { Ok(false) }
    }

    /// The time now, on the clock that `work` is given.
    fn now(&self) -> Time;

    /// Returns the frames that were lost before `work` saw them, as known at one of the last polls; they only grow. An idle poll is up to date.
    fn losses(&self) -> Losses {
        Losses::default()
    }

    /// Reports the counters of this io by human-readable names in snake_case; always the same names in the same order.
    fn for_each_counter(&self, _show: &mut dyn FnMut(&'static str, u64)) {}
}
