//! Backends that this director's clients wait for, as far as its workers saw. A reason to check a backend at once; never a verdict on it.

use guideway_dataplane::path::requests::suspicion::STANDS;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Suspicions that are remembered at once.
const MOST: usize = 1024;

/// A backend that is suspected now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// Why, for people.
    pub because: String,
    /// Since when, without a break.
    pub since: Instant,
}

/// The suspicions of the last seconds, and how many there were.
#[derive(Debug, Default)]
pub struct Suspects(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By pool and backend; with each the time of its last report.
    known: BTreeMap<(String, String), (Suspect, Instant)>,
    raised: u64,
}

impl Suspects {
    /// Workers suspect `backend` of `pool`. Says whether that is news.
    pub fn report(&self, pool: &str, backend: &str, because: &str, now: Instant) -> bool {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.known.retain(|_, (_, last)| now.duration_since(*last) < STANDS);
        let key = (pool.to_owned(), backend.to_owned());
        if let Some((suspect, last)) = inner.known.get_mut(&key) {
            because.clone_into(&mut suspect.because);
            *last = now;
            return false;
        }
        if inner.known.len() < MOST {
            let suspect = Suspect { pool: pool.to_owned(), backend: backend.to_owned(), because: because.to_owned(), since: now };
            inner.known.insert(key, (suspect, now));
        }
        inner.raised += 1;
        true
    }

    /// Who is suspected at this moment, sorted by pool and name. A suspicion ends 10 seconds after its last report.
    pub fn now(&self, now: Instant) -> Vec<Suspect> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.known.values().filter(|(_, last)| now.duration_since(*last) < STANDS).map(|(suspect, _)| suspect.clone()).collect()
    }

    /// How often somebody became suspected since the start.
    pub fn raised(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).raised
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_suspicion_lasts_as_long_as_it_is_reported() {
        let (suspects, start) = (Suspects::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(suspects.report("boot", "t1", "mute", at(0)));
        assert!(!suspects.report("boot", "t1", "still mute", at(6)));
        assert!(suspects.report("boot", "t2", "mute", at(7)));
        let now = suspects.now(at(15));
        assert_eq!(
            now.iter().map(|s| (&*s.backend, &*s.because, s.since)).collect::<Vec<_>>(),
            [("t1", "still mute", at(0)), ("t2", "mute", at(7))]
        );
        assert_eq!(suspects.now(at(16)).len(), 1);
        assert!(suspects.now(at(17)).is_empty());
        assert!(suspects.report("boot", "t1", "mute", at(20)), "news again");
        assert_eq!(suspects.raised(), 3);
    }
}
