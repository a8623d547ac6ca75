//! A store that lives as long as its process: what a director without `[store]` has.

use super::background::Background;
use super::word::Topic;
use super::{CommitError, Leadership, PoolHealth, Presence, Seen, Set};
use guideway_config::Intent;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// See [`super::Store::memory`].
#[derive(Debug)]
pub struct Memory {
    seen: watch::Sender<Seen>,
    leader: Mutex<Option<String>>,
    words: Mutex<Vec<(Topic, String, watch::Receiver<Value>)>>,
}

impl Memory {
    pub(super) fn new(intent: Intent) -> Memory {
        let set = Set { generation: 1, intent_generation: 1, intent: Arc::new(intent), health: Default::default() };
        let seen = watch::Sender::new(Seen { set: Arc::new(set), trouble: None });
        Memory { seen, leader: Mutex::default(), words: Mutex::default() }
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

    pub(super) fn publish(&self, pools: &[(String, PoolHealth)]) -> u64 {
        let mut generation = 0;
        self.seen.send_modify(|seen| {
            let mut set = (*seen.set).clone();
            set.generation += 1;
            PoolHealth::update(&mut set.health, pools);
            generation = set.generation;
            seen.set = Arc::new(set);
        });
        generation
    }

    /// Nobody else can.
    pub(super) fn lead(&self, name: &str) -> Leadership {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
        Leadership::new(watch::Sender::new(true).subscribe(), Background::none())
    }

    pub(super) fn leader(&self) -> Option<String> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn say(&self, topic: Topic, name: &str, word: watch::Receiver<Value>) -> Presence {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).push((topic, name.to_owned(), word));
        Presence::new(Background::none())
    }

    pub(super) fn said(&self, topic: Topic) -> Vec<(String, Value)> {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has gone cannot change its word any more.
        let there = words.iter().filter(|(about, _, word)| *about == topic && word.has_changed().is_ok());
        there.map(|(_, name, word)| (name.clone(), word.borrow().clone())).collect()
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
        assert_eq!(store.publish("boot", PoolHealth::default()).await, Ok(4));
        assert!(watch.borrow().set.health.is_empty(), "nothing is left of a health without backends");
    }

    #[tokio::test]
    async fn who_is_alone_leads_and_is_the_only_director() {
        let store = Store::memory(Intent::default());
        assert_eq!(store.leader().await, Ok(None));
        let mut leadership = store.lead("h1");
        leadership.won().await;
        assert!(leadership.leads());
        assert_eq!(store.leader().await, Ok(Some("h1".to_owned())));
        let word = watch::Sender::new(Value::from(1));
        let _presence = store.present("d1", word.subscribe());
        word.send_replace(Value::from(2));
        assert_eq!(store.directors().await, Ok(vec![("d1".to_owned(), Value::from(2))]));
        drop(word);
        assert_eq!(store.directors().await, Ok(vec![]));
    }
}
