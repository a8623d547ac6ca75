//! Backends that clients of this director wait for, as its workers see it: a reason to check a backend at once, never a verdict.

use guideway_dataplane::path::requests::suspicion::SUSPICION_TIMEOUT;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Largest number of suspicions that are kept.
const MAX_SUSPICIONS: usize = 1024;

/// A backend that is suspected now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// The reason, human-readable.
    pub reason: String,
    /// Start of the suspicion.
    pub since: Instant,
}

/// The suspicions of the last seconds, and their number since the start.
#[derive(Debug, Default)]
pub struct SuspectedBackends(Mutex<Suspicions>);

#[derive(Debug, Default)]
struct Suspicions {
    /// By pool and backend, each with the time of its last report.
    known: BTreeMap<(String, String), (Suspect, Instant)>,
    total: u64,
}

impl SuspectedBackends {
    /// Records that workers suspect `backend` of `pool`. Returns whether they did not suspect it before.
    pub fn report(&self, pool: &str, backend: &str, reason: &str, now: Instant) -> bool {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.known.retain(|_, (_, last)| now.duration_since(*last) < SUSPICION_TIMEOUT);
        let key = (pool.to_owned(), backend.to_owned());
        if let Some((suspect, last)) = inner.known.get_mut(&key) {
            reason.clone_into(&mut suspect.reason);
            *last = now;
            return false;
        }
        if inner.known.len() < MAX_SUSPICIONS {
            let suspect = Suspect { pool: pool.to_owned(), backend: backend.to_owned(), reason: reason.to_owned(), since: now };
            inner.known.insert(key, (suspect, now));
        }
        inner.total += 1;
        true
    }

    /// Returns the suspected backends, sorted by pool and name. A suspicion ends 10 seconds after its last report.
    pub fn now(&self, now: Instant) -> Vec<Suspect> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.known.values().filter(|(_, last)| now.duration_since(*last) < SUSPICION_TIMEOUT).map(|(suspect, _)| suspect.clone()).collect()
    }

    /// Returns how often a backend became suspected since the start.
    pub fn total(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_suspicion_lasts_as_long_as_it_is_reported() {
        let (suspected, start) = (SuspectedBackends::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(suspected.report("boot", "t1", "unresponsive", at(0)));
        assert!(!suspected.report("boot", "t1", "still unresponsive", at(6)));
        assert!(suspected.report("boot", "t2", "unresponsive", at(7)));
        let now = suspected.now(at(15));
        assert_eq!(
            now.iter().map(|s| (&*s.backend, &*s.reason, s.since)).collect::<Vec<_>>(),
            [("t1", "still unresponsive", at(0)), ("t2", "unresponsive", at(7))]
        );
        assert_eq!(suspected.now(at(16)).len(), 1);
        assert!(suspected.now(at(17)).is_empty());
        assert!(suspected.report("boot", "t1", "unresponsive", at(20)), "news again");
        assert_eq!(suspected.total(), 3);
    }
}
