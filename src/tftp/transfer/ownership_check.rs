//! Conditions for an ownership check: another server may have continued the transfer.

use super::Transfer;
use crate::rollover::MAX_AHEAD;
use guideway_packet::time::Time;
use std::time::Duration;

/// Pause after which an ownership check is needed. Within it, no other server can send 65,536 blocks: that would take 650,000 blocks per second.
const CHECK_AFTER: Duration = Duration::from_millis(100);

impl Transfer {
    /// Returns whether another server may have advanced the transfer so far that block numbers are ambiguous: it is shared, enough blocks are left, and
    /// the client was not received for a while.
    pub fn needs_ownership_check(&self, now: Time) -> bool {
        self.shared && self.last.is_some_and(|last| last > self.acked + MAX_AHEAD) && now - self.confirmed_at > CHECK_AFTER
    }

    /// Returns when it was last certain that no other server had continued it.
    pub fn confirmed_at(&self) -> Time {
        self.confirmed_at
    }

    /// Records that no other server had continued it at this time, as an ownership check has shown.
    pub fn confirm_ownership(&mut self, at: Time) {
        self.confirmed_at = at;
    }
}
