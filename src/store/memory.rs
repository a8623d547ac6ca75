//! A store in memory that ends with its process, for a director without `[store]`.

use super::background_task::BackgroundTask;
use super::presence::PresenceTopic;
use super::{ClusterState, CommitError, HistoryEntry, Leadership, Origin, PoolHealth, Presence, StoreView};
use guideway_config::Intent;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// See [`super::Store::memory`].
#[derive(Debug)]
pub struct Memory {
    view: watch::Sender<StoreView>,
    /// The oldest first; changed only while `view` is.
    history: Mutex<VecDeque<HistoryEntry>>,
    leader: Mutex<Option<String>>,
    records: Mutex<Vec<(PresenceTopic, String, watch::Receiver<Value>)>>,
}

impl Memory {
    pub(super) fn new(intent: Intent) -> Memory {
        let origin = Origin { who: "start".to_owned(), from: "the file of the process".to_owned(), reason: None };
        let first = HistoryEntry { generation: 1, ..HistoryEntry::new(&origin, 0, Some(&Intent::default()), &intent) };
        let history = Mutex::new(VecDeque::from([first]));
        let cluster = ClusterState { generation: 1, intent_generation: 1, intent: Arc::new(intent), ..ClusterState::default() };
        let view = watch::Sender::new(StoreView { cluster: Arc::new(cluster), stale: None });
        Memory { view, history, leader: Mutex::default(), records: Mutex::default() }
    }

    pub(super) fn watch(&self) -> watch::Receiver<StoreView> {
        self.view.subscribe()
    }

    pub(super) fn commit(&self, base: u64, intent: Intent, entry: &HistoryEntry) -> Result<u64, CommitError> {
        let mut outcome = Ok(0);
        self.view.send_if_modified(|view| {
            let now = view.cluster.intent_generation;
            if now != base {
                outcome = Err(CommitError::Changed { base, now });
                return false;
            }
            let generation = view.cluster.generation + 1;
            let cluster = (*view.cluster).clone();
            let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            // A reload of an unchanged file is no change.
            if *cluster.intent != intent {
                history.push_back(HistoryEntry { generation, ..entry.clone() });
            }
            let kept = HistoryEntry::kept(serde_json::to_vec(entry).map_or(0, |bytes| bytes.len()));
            while history.len() > kept {
                history.pop_front();
            }
            view.cluster = Arc::new(ClusterState { generation, intent_generation: generation, intent: Arc::new(intent), ..cluster });
            outcome = Ok(generation);
            true
        });
        outcome
    }

    pub(super) fn history(&self, limit: usize) -> Vec<HistoryEntry> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.iter().rev().take(limit).cloned().collect()
    }

    pub(super) fn publish(&self, pools: &[(String, PoolHealth)]) -> u64 {
        let mut generation = 0;
        self.view.send_modify(|view| {
            let mut cluster = (*view.cluster).clone();
            cluster.generation += 1;
            PoolHealth::update(&mut cluster.health, pools);
            generation = cluster.generation;
            view.cluster = Arc::new(cluster);
        });
        generation
    }

    /// No other process can.
    pub(super) fn campaign(&self, name: &str) -> Leadership {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
        Leadership::new(watch::Sender::new(true).subscribe(), BackgroundTask::none())
    }

    pub(super) fn leader(&self) -> Option<String> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn publish_presence(&self, topic: PresenceTopic, name: &str, record: watch::Receiver<Value>) -> Presence {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push((topic, name.to_owned(), record));
        Presence::new(BackgroundTask::none())
    }

    pub(super) fn read_presence(&self, topic: PresenceTopic) -> Vec<(String, Value)> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        // A process that has ended cannot change its record any more.
        let there = records.iter().filter(|(about, _, record)| *about == topic && record.has_changed().is_ok());
        there.map(|(_, name, record)| (name.clone(), record.borrow().clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Observation, Observed, Store};
    use super::*;

    #[tokio::test]
    async fn a_commit_with_an_old_base_changes_nothing() {
        let store = Store::memory(Intent::default());
        let mut watch = store.watch();
        let down = Observed { state: Observation::Down, since: 1, why: "no answer".into(), unknown: false };
        let health = PoolHealth { backends: [("t1".to_owned(), down)].into() };
        assert_eq!(store.publish("boot", health.clone()).await, Ok(2));
        assert_eq!(store.commit(1, Intent::default(), &Origin::default()).await, Ok(3), "health does not conflict with an intent");
        assert_eq!(store.commit(1, Intent::default(), &Origin::default()).await, Err(CommitError::Changed { base: 1, now: 3 }));
        let view = watch.borrow_and_update().clone();
        assert_eq!((view.cluster.generation, view.cluster.intent_generation), (3, 3));
        assert_eq!(view.cluster.health["boot"], Arc::new(health));
        assert!(!watch.has_changed().unwrap());
        assert_eq!(store.publish("boot", PoolHealth::default()).await, Ok(4));
        assert!(watch.borrow().cluster.health.is_empty(), "health without backends removes the pool");
    }

    #[tokio::test]
    async fn old_changes_are_forgotten() {
        let store = Store::memory(Intent::default());
        let pool = guideway_config::read_intent("[[pool]]\nname = \"boot\"\nbackends = []\n").config.unwrap();
        for base in 1..=1100 {
            let intent = if base % 2 == 1 { pool.clone() } else { Intent::default() };
            store.commit(base, intent.clone(), &Origin::default()).await.unwrap();
            assert_eq!(store.change_of(base + 1).await.unwrap().unwrap().intent(), Ok(intent));
        }
        store.commit(1101, Intent::default(), &Origin::default()).await.unwrap();
        let history = store.history(usize::MAX).await.unwrap();
        assert_eq!((history.len(), history[0].generation, history[999].generation), (crate::MAX_ENTRIES, 1101, 102));
    }

    #[tokio::test]
    async fn a_single_process_leads_and_is_the_only_director() {
        let store = Store::memory(Intent::default());
        assert_eq!(store.leader().await, Ok(None));
        let mut leadership = store.campaign("h1");
        leadership.elected().await;
        assert!(leadership.leads());
        assert_eq!(store.leader().await, Ok(Some("h1".to_owned())));
        let record = watch::Sender::new(Value::from(1));
        let _presence = store.publish_director("d1", record.subscribe());
        record.send_replace(Value::from(2));
        assert_eq!(store.directors().await, Ok(vec![("d1".to_owned(), Value::from(2))]));
        drop(record);
        assert_eq!(store.directors().await, Ok(vec![]));
    }
}
