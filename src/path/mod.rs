//! The packet path: one function from bytes, tables and time to verdicts. No socket, clock, log, lock or allocation in it.

mod outbox;
mod state;

pub use state::State;

use crate::frame::Frame;
use crate::tables::Snapshot;
use crate::time::Time;

/// Decides over a batch and rewrites in place what is to be transmitted.
pub fn run(frames: &mut [Frame<'_>], tables: &Snapshot, state: &mut State, now: Time) {
    let _ = (frames, tables, state, now);
}
