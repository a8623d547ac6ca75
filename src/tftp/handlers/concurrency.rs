//! Limits of concurrent work.

use crate::handler::Refusal;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Limits concurrency; a bounded number of further tasks waits.
pub struct ConcurrencyLimit {
    permits: Semaphore,
    waiting: AtomicUsize,
}

/// Largest number of waiting tasks: clients of further ones would give up before they run.
const MAX_WAITING: usize = 1024;

impl ConcurrencyLimit {
    /// Allows that many at once.
    pub fn new(permits: usize) -> ConcurrencyLimit {
        ConcurrencyLimit { permits: Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a permit, which is released on drop; refuses without an answer when too many tasks wait already.
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let busy = Refusal::overloaded;
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= MAX_WAITING {
            return Err(busy());
        }
        self.permits.acquire().await.map_err(|_| busy())
    }
}
