//! Which health controller leads, and for how long none was seen.

use guideway_api::status::HealthSource;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The leader, as the store names it.
#[derive(Debug)]
pub struct HealthLeader(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    leader: Option<String>,
    /// When one was last seen; before the first, the start of the director.
    seen: Instant,
}

impl Default for HealthLeader {
    fn default() -> Self {
        HealthLeader(Mutex::new(Inner { leader: None, seen: Instant::now() }))
    }
}

impl HealthLeader {
    /// Records the leader as just read; `None` also when the store cannot be read.
    pub fn set(&self, leader: Option<String>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if leader.is_some() {
            inner.seen = Instant::now();
        }
        inner.leader = leader;
    }

    /// Returns the document; `checked` is whether a pool has a check.
    pub(super) fn document(&self, checked: bool) -> HealthSource {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = if inner.leader.is_some() { 0.0 } else { inner.seen.elapsed().as_secs_f64() };
        HealthSource { leader: inner.leader.clone(), age_seconds: checked.then_some(age) }
    }
}
