//! A store that lives as long as its process: what a director without `[store]` has.

use super::{CommitError, PoolHealth, Seen, Set};
use crate::config::Intent;
use std::sync::Arc;
use tokio::sync::watch;

/// See [`super::Store::memory`].
#[derive(Debug)]
pub struct Memory {
    seen: watch::Sender<Seen>,
}

impl Memory {
    pub(super) fn new(intent: Intent) -> Memory {
        let set = Set { generation: 1, intent_generation: 1, intent: Arc::new(intent), health: Default::default() };
        Memory { seen: watch::Sender::new(Seen { set: Arc::new(set), trouble: None }) }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    pub(super) fn commit(&self, base: u64, intent: Intent) -> Result<u64, CommitError> {
        let mut outcome = Ok(0);
        self.seen.send_if_modified(|seen| {
            let now = seen.set.intent_generation;
            if now != base {
                outcome = Err(CommitError::Changed { base, now });
                return false;
            }
            let generation = seen.set.generation + 1;
            let health = seen.set.health.clone();
            seen.set = Arc::new(Set { generation, intent_generation: generation, intent: Arc::new(intent), health });
            outcome = Ok(generation);
            true
        });
        outcome
    }

    pub(super) fn publish(&self, pool: &str, health: PoolHealth) -> u64 {
        let mut generation = 0;
        self.seen.send_modify(|seen| {
            let mut set = (*seen.set).clone();
            set.generation += 1;
            set.health.insert(pool.to_owned(), Arc::new(health));
            generation = set.generation;
            seen.set = Arc::new(set);
        });
        generation
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Observation, Observed, Store};
    use super::*;

    #[tokio::test]
    async fn a_commit_that_is_based_on_the_past_changes_nothing() {
        let store = Store::memory(Intent::default());
        let mut watch = store.watch();
        let down = Observed { state: Observation::Down, since: 1, why: "silent".into() };
        let health = PoolHealth { backends: [("t1".to_owned(), down)].into() };
        assert_eq!(store.publish("boot", health.clone()).await, Ok(2));
        assert_eq!(store.commit(1, Intent::default()).await, Ok(3), "health does not stand in the way of an intent");
        assert_eq!(store.commit(1, Intent::default()).await, Err(CommitError::Changed { base: 1, now: 3 }));
        let seen = watch.borrow_and_update().clone();
        assert_eq!((seen.set.generation, seen.set.intent_generation), (3, 3));
        assert_eq!(seen.set.health["boot"], Arc::new(health));
        assert!(!watch.has_changed().unwrap());
    }
}
