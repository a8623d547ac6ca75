//! How many flow entries hold each backend number, readable from the writer's thread: a number is given away again only when nobody holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const NUMBERS: usize = 1 << 16;

/// Counts of one flow table, by backend number. The worker that owns the table writes, anyone may read.
///
/// The writer of tables may give a number away again when every worker has taken a snapshot without its old owner (so that nothing new can hold it) and after
/// that finds `held(number) == 0` in every worker's `Holders`.
#[derive(Clone)]
pub struct Holders(Arc<[AtomicU32]>);

impl std::fmt::Debug for Holders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.0.iter().enumerate().map(|(number, count)| (number, count.load(Ordering::Acquire))).filter(|entry| entry.1 > 0))
            .finish()
    }
}

impl Holders {
    pub(super) fn new() -> Holders {
        Holders((0..NUMBERS).map(|_| AtomicU32::new(0)).collect())
    }

    /// How many entries hold `backend`, those included that have expired but are not forgotten yet.
    #[inline]
    pub fn held(&self, backend: u16) -> u32 {
        self.0.get(usize::from(backend)).map_or(0, |count| count.load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn take(&self, backend: u16) {
        self.change(backend, 1);
    }

    #[inline]
    pub(super) fn release(&self, backend: u16) {
        self.change(backend, u32::MAX);
    }

    /// Load and store rather than an atomic addition: there is one writer, and a locked instruction per new flow would cost more than the flow.
    #[inline]
    fn change(&self, backend: u16, by: u32) {
        if let Some(count) = self.0.get(usize::from(backend)) {
            count.store(count.load(Ordering::Relaxed).wrapping_add(by), Ordering::Release);
        }
    }

    pub(super) fn memory() -> usize {
        NUMBERS * size_of::<AtomicU32>()
    }
}
