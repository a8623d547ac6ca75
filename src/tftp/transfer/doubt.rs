//! When it is not certain that nobody else has gone on with a transfer.

use super::{AHEAD, Transfer};
use guideway_packet::time::Time;
use std::time::Duration;

/// In this time nobody else goes on with a transfer so far that its block numbers come again: that would be 650,000 blocks a second.
const SOON: Duration = Duration::from_millis(100);

impl Transfer {
    /// Whether another server may have gone on with it so far that block numbers mean something else to the client than here: it is shared, so many blocks
    /// are left, and the client was not heard for a while.
    pub fn is_in_doubt(&self, now: Time) -> bool {
        self.shared && self.last.is_some_and(|last| last > self.acked + AHEAD) && now - self.certain_at > SOON
    }

    /// When that was certain last.
    pub fn certain_at(&self) -> Time {
        self.certain_at
    }

    /// Nobody else had gone on with it at this time: that was asked.
    pub fn be_certain(&mut self, at: Time) {
        self.certain_at = at;
    }
}
