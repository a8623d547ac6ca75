//! The publication of one pool: pending, recent or running.

use guideway_packet::time::Time;

/// A pool with pending, recent or running publication.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// Time to publish; `None`: nothing is new.
    pub(super) due: Option<Time>,
    /// Earliest time.
    pub(super) earliest: Time,
    /// Being written.
    pub(super) running: bool,
    pub(super) failures: u32,
}

impl Pending {
    /// Returns whether the store lacks a change.
    pub(super) fn has_unpublished(&self) -> bool {
        self.running || self.due.is_some()
    }
}
