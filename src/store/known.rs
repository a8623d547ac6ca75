//! Guards the last good cluster state: what a store holds replaces it only if it is the same history, and not an older part of it.
//!
//! A store loses its contents in ways that look like ordinary contents: a wiped data directory or `etcdctl del --prefix` like a fleet
//! without VIPs, a restored backup like the state of last week, another cluster like a change. So a process compares what it reads with what
//! it knows, in memory or in its cache. An operator decides with [`super::Store::accept`] or [`super::Store::restore`], which set
//! [`super::Lineage::accepted`].

use super::{ClusterState, StaleReason, StoreView, cache};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::watch;

/// What this process knows of the cluster state.
#[derive(Debug)]
pub(super) struct Known {
    state: Arc<ClusterState>,
    /// Why the cache, which exists, cannot be used.
    unusable_cache: Option<String>,
    /// Whether this process may lead over health: it writes lost health anew.
    campaigns: Arc<AtomicBool>,
}

impl Known {
    /// Starts with the state in the cache, if there is one.
    pub(super) fn load(cache: Option<&Path>) -> Known {
        let mut known = Known { state: Arc::default(), unusable_cache: None, campaigns: Arc::default() };
        if let Some(path) = cache.filter(|path| path.exists()) {
            match cache::read(path) {
                Ok(state) => known.state = Arc::new(state),
                Err(why) => {
                    tracing::error!(reason = %why, "store.cache not usable");
                    known.unusable_cache = Some(why);
                }
            }
        }
        known
    }

    /// Returns the known state; generation 0: none.
    pub(super) fn state(&self) -> &Arc<ClusterState> {
        &self.state
    }

    /// Returns the flag that says that this process may lead over health.
    pub(super) fn campaigns(&self) -> Arc<AtomicBool> {
        self.campaigns.clone()
    }

    /// Takes a state that was read from the store.
    ///
    /// # Errors
    /// Returns why it must not replace the known state.
    pub(super) fn take(&mut self, found: Arc<ClusterState>) -> Result<(), String> {
        self.check(&found).map_err(|why| {
            format!(
                "{why}. What is in force stays. To write it into the store: `guideway store restore`; to use what the store has: `guideway store accept`"
            )
        })?;
        (self.state, self.unusable_cache) = (found, None);
        Ok(())
    }

    fn check(&self, found: &ClusterState) -> Result<(), String> {
        let known = &*self.state;
        if found.lineage.accepted > known.lineage.accepted {
            return Ok(());
        }
        if known.generation == 0 {
            return match &self.unusable_cache {
                Some(why) if found.generation == 0 => {
                    Err(format!("the store is empty, but this host knew a state that cannot be read: {why}"))
                }
                _ => Ok(()),
            };
        }
        let (now, before) = (found.intent_generation, known.intent_generation);
        if found.intent_generation == 0 && before > 0 {
            return Err(format!("the store is empty, but generation {} is known", known.generation));
        }
        if !known.lineage.id.is_empty() && found.lineage.id != known.lineage.id {
            return Err(format!(
                "the store is another one than that of the known generation {}, or was emptied and filled again",
                known.generation
            ));
        }
        if found.lineage.accepted < known.lineage.accepted || now < before {
            return Err(format!("the store holds an older intent: generation {now}, but {before} is known"));
        }
        if now == before && found.intent != known.intent {
            return Err(format!("the store holds another intent than the known one under the same generation {now}"));
        }
        if found.generation < known.generation && !self.campaigns.load(Relaxed) {
            return Err(format!("the store holds older health: generation {}, but {} is known", found.generation, known.generation));
        }
        Ok(())
    }

    /// Puts the known state into a view that has none yet: the store does not answer.
    pub(super) fn show(state: &Arc<ClusterState>, view: &watch::Sender<StoreView>) {
        if state.generation == 0 {
            return;
        }
        view.send_if_modified(|view| {
            let missing = view.stale.as_ref().is_some_and(|stale| stale.reason == StaleReason::Unavailable) && view.cluster.generation == 0;
            if missing {
                tracing::warn!(generation = state.generation, "store unavailable, starting with store.cache");
                view.cluster = state.clone();
            }
            missing
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lineage;
    use super::*;
    use guideway_config::{Intent, read_intent};

    fn state(generation: u64, intent_generation: u64, id: &str, accepted: u64) -> ClusterState {
        let text = "[[pool]]\nname = \"p\"\nbackends = []\n";
        let intent = if intent_generation == 0 { Intent::default() } else { read_intent(text).config.unwrap() };
        let lineage = Lineage { id: id.to_owned(), accepted };
        ClusterState { generation, intent_generation, intent: Arc::new(intent), lineage, ..ClusterState::default() }
    }

    #[test]
    fn only_a_later_part_of_the_same_history_replaces_the_known_state() {
        let other_intent = ClusterState { intent: Arc::default(), ..state(9, 7, "a", 5) };
        for (found, refused_because) in [
            (state(9, 7, "a", 5), None),
            (state(10, 7, "a", 5), None),
            (state(12, 12, "a", 5), None),
            (ClusterState::default(), Some("is empty")),
            (state(20, 0, "", 0), Some("is empty")),
            (state(20, 18, "b", 0), Some("another one")),
            (state(20, 18, "", 0), Some("another one")),
            (state(8, 6, "a", 5), Some("an older intent")),
            (state(20, 6, "a", 5), Some("an older intent")),
            (state(20, 18, "a", 4), Some("an older intent")),
            (state(8, 7, "a", 5), Some("older health")),
            (other_intent, Some("another intent than the known one")),
            // An operator has decided.
            (state(1, 1, "b", 6), None),
            (ClusterState { lineage: Lineage { id: "c".to_owned(), accepted: 9 }, ..ClusterState::default() }, None),
        ] {
            let mut known = Known::load(None);
            known.take(Arc::new(state(9, 7, "a", 5))).unwrap();
            let outcome = known.take(Arc::new(found.clone()));
            match refused_because {
                None => assert_eq!((outcome, &**known.state()), (Ok(()), &found)),
                Some(part) => {
                    assert!(outcome.as_ref().is_err_and(|why| why.contains(part) && why.contains("store accept")), "{found:?}: {outcome:?}")
                }
            }
        }
    }

    #[test]
    fn whoever_publishes_health_may_see_it_lost_and_a_store_of_an_older_version_gets_a_lineage() {
        let mut known = Known::load(None);
        known.take(Arc::new(state(9, 7, "", 0))).unwrap();
        assert!(known.take(Arc::new(state(8, 7, "", 0))).is_err());
        known.campaigns().store(true, Relaxed);
        known.take(Arc::new(state(8, 7, "", 0))).unwrap();
        known.take(Arc::new(state(9, 9, "new", 0))).unwrap();
        assert!(known.take(Arc::new(state(10, 10, "", 0))).is_err());
    }

    #[test]
    fn a_cache_that_cannot_be_read_still_says_that_there_was_a_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copy.json");
        std::fs::write(&path, "{\"generation\": 7").unwrap();
        let mut known = Known::load(Some(&path));
        assert!(known.take(Arc::default()).is_err_and(|why| why.contains("copy.json")));
        known.take(Arc::new(state(3, 3, "a", 0))).unwrap();
        assert!(known.take(Arc::default()).is_err());
    }
}
