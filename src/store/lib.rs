//! The cluster state: what operators want served (the intent) and the observed states of backends (the health), with one generation number.
//! Directors with the same generation have the same state. A store keeps it: the memory of this process, a directory of this host, or etcd
//! for many hosts.
//!
//! Intent and health have different writers and are never mixed. An operator or the API commits an intent as a whole; the leading health
//! controller publishes the health of each pool. A reader gets both at once, in order, and never half of a change.
//!
//! Rules that make directors agree:
//! * A cluster state is a function of the store's contents. A process that was away and reads again gets the same state with the same
//!   generation.
//! * Invalid contents (a hand edit with an error, a damaged key) change nothing. The last valid state stays, and [`StoreView::stale`] says
//!   why.
//! * When a store is unavailable, the last state stays, and [`StoreView::stale`] says since when.
//! * A store that is emptied, rolled back or replaced changes nothing. The last state stays, in memory and in the cache, and is what a
//!   restarted process begins with, until an operator decides by [`Store::accept`] or [`Store::restore`].

mod atomic_write;
mod background_task;
mod cache;
mod cluster_state;
mod error;
mod etcd;
mod file;
mod health;
mod history;
mod known;
mod leadership;
mod lineage;
mod memory;
mod open;
mod presence;

pub use cache::{from_json, read as read_cache, to_json};
pub use cluster_state::{ClusterState, Stale, StaleReason, StoreView};
pub use error::{CommitError, ReadError};
pub use health::{Health, Observation, Observed, PoolHealth};
pub use history::{HistoryEntry, MAX_ENTRIES, MAX_REASON, Origin, audit_refused};
pub use leadership::{Leadership, Presence};
pub use lineage::Lineage;
pub use open::{OpenError, open, open_timeout, ready, start};
pub use presence::SuspectedBackend;

use etcd::Etcd;
use file::File;
use guideway_config::Intent;
use memory::Memory;
use presence::PresenceTopic;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch;

/// A store. Clones are the same store.
#[derive(Clone, Debug)]
pub enum Store {
    /// The memory of this process.
    Memory(Arc<Memory>),
    /// A directory of this host.
    File(Arc<File>),
    /// etcd.
    Etcd(Arc<Etcd>),
}

impl Store {
    /// Creates a store in the memory of this process that starts with `intent` as generation 1.
    pub fn memory(intent: Intent) -> Store {
        Store::Memory(Arc::new(Memory::new(intent)))
    }

    /// Returns a channel with the view of the cluster state.
    pub fn watch(&self) -> watch::Receiver<StoreView> {
        match self {
            Store::Memory(memory) => memory.watch(),
            Store::File(file) => file.watch(),
            Store::Etcd(etcd) => etcd.watch(),
        }
    }

    /// Returns whether committed changes survive a restart of this process.
    pub fn is_durable(&self) -> bool {
        !matches!(self, Store::Memory(_))
    }

    /// `memory`, `file` or `etcd`
    pub fn kind(&self) -> &'static str {
        match self {
            Store::Memory(_) => "memory",
            Store::File(_) => "file",
            Store::Etcd(_) => "etcd",
        }
    }

    /// Replaces the whole intent if its generation is still `base`. Returns the generation of the change; watchers see it a moment later.
    /// The history says that `origin` did it, and so does the log, which also says what was refused.
    ///
    /// # Errors
    /// Returns an error when the intent has changed since `base`, or the store cannot be written or was rolled back. Nothing has changed then,
    /// unless the error says otherwise.
    pub async fn commit(&self, base: u64, intent: Intent, origin: &Origin) -> Result<u64, CommitError> {
        let entry = self.entry(base, &intent, origin);
        let outcome = match self.check_not_rolled_back() {
            Ok(()) => match self {
                Store::Memory(memory) => memory.commit(base, intent, &entry),
                Store::File(file) => file.commit(base, intent, entry.clone()).await,
                Store::Etcd(etcd) => etcd.commit(base, &intent, &entry).await,
            },
            Err(error) => Err(error),
        };
        history::audit(&entry, &outcome);
        outcome
    }

    /// Writes a copy of the cluster state, such as [`read_cache`] returns it, into a store that was emptied, rolled back or spoilt. All
    /// processes take it, whatever they know. Returns its new generation.
    ///
    /// # Errors
    /// Returns an error when the store cannot be written.
    pub async fn restore(&self, copy: &ClusterState, origin: &Origin) -> Result<u64, CommitError> {
        let base = self.watch().borrow().cluster.intent_generation;
        let entry = self.entry(base, &copy.intent, origin);
        let outcome = match self {
            Store::Memory(memory) => memory.commit(base, Intent::clone(&copy.intent), &entry),
            Store::File(file) => file.restore(copy.clone(), entry.clone()).await,
            Store::Etcd(etcd) => etcd.restore(copy, &entry).await,
        };
        history::audit(&entry, &outcome);
        outcome
    }

    /// Declares the contents of the store as right. All processes take them, whatever they know. Returns the new generation.
    ///
    /// # Errors
    /// Returns an error when the contents are not valid, or the store cannot be written.
    pub async fn accept(&self, origin: &Origin) -> Result<u64, CommitError> {
        match self {
            Store::Memory(memory) => Ok(memory.watch().borrow().cluster.generation),
            Store::File(file) => file.accept(origin.clone()).await,
            Store::Etcd(etcd) => etcd.accept(origin).await,
        }
    }

    /// Returns the last changes of the intent, at most `limit`, the newest first.
    ///
    /// # Errors
    /// Returns an error when the store cannot be read.
    pub async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, ReadError> {
        match self {
            Store::Memory(memory) => Ok(memory.history(limit)),
            Store::File(file) => file.history(limit),
            Store::Etcd(etcd) => etcd.history(limit).await,
        }
    }

    /// Returns the change that made the intent of `generation`: the newest one that is not newer. `None`: the history does not reach so far.
    ///
    /// # Errors
    /// Returns an error when the store cannot be read.
    pub async fn change_of(&self, generation: u64) -> Result<Option<HistoryEntry>, ReadError> {
        Ok(self.history(MAX_ENTRIES).await?.into_iter().find(|entry| entry.generation <= generation))
    }

    /// Describes a change of the intent of generation `base`.
    fn entry(&self, base: u64, intent: &Intent, origin: &Origin) -> HistoryEntry {
        let cluster = self.watch().borrow().cluster.clone();
        let before = (cluster.intent_generation == base).then_some(&*cluster.intent);
        HistoryEntry::new(origin, base, before, intent)
    }

    /// Reads certificates again, which new connections then use. A password is read for each login anyway.
    ///
    /// # Errors
    /// Returns an error that names the file that cannot be used; then nothing changes.
    pub fn reload_credentials(&self) -> std::io::Result<()> {
        match self {
            Store::Memory(_) | Store::File(_) => Ok(()),
            Store::Etcd(etcd) => etcd.reload_credentials(),
        }
    }

    fn check_not_rolled_back(&self) -> Result<(), CommitError> {
        match &self.watch().borrow().stale {
            Some(Stale { reason: StaleReason::RolledBack, why, .. }) => Err(CommitError::Unavailable(why.clone())),
            _ => Ok(()),
        }
    }

    /// Returns the generation of the stored intent, valid or not: the base of a commit that replaces all of it.
    ///
    /// # Errors
    /// Returns an error when the store cannot be read.
    pub async fn intent_generation(&self) -> Result<u64, ReadError> {
        match self {
            Store::Memory(memory) => Ok(memory.watch().borrow().cluster.intent_generation),
            Store::File(file) => file.intent_generation(),
            Store::Etcd(etcd) => etcd.intent_generation().await,
        }
    }

    /// Publishes the health of `pool` and replaces its previous health. Health without backends removes the pool.
    ///
    /// # Errors
    /// Returns an error when this store does not lead (see [`Store::campaign`]; one in memory always does) or cannot be written.
    pub async fn publish(&self, pool: &str, health: PoolHealth) -> Result<u64, CommitError> {
        self.publish_all(&[(pool.to_owned(), health)]).await
    }

    /// Publishes the health of several pools: one generation, or with etcd one for every 100 pools. Returns the last.
    ///
    /// # Errors
    /// As for [`Store::publish`]; pools published before the error stay.
    pub async fn publish_all(&self, pools: &[(String, PoolHealth)]) -> Result<u64, CommitError> {
        self.check_not_rolled_back()?;
        match self {
            Store::Memory(memory) => Ok(memory.publish(pools)),
            Store::File(file) => file.publish(pools).await,
            Store::Etcd(etcd) => etcd.publish(pools).await,
        }
    }

    /// Stands for leader under this name, which operators see. A process must hold at most one candidacy. Needs a tokio runtime.
    pub fn campaign(&self, name: &str) -> Leadership {
        match self {
            Store::Memory(memory) => memory.campaign(name),
            Store::File(file) => file.campaign(name),
            Store::Etcd(etcd) => etcd.campaign(name),
        }
    }

    /// Returns the name of the leader, if there is one.
    ///
    /// # Errors
    /// Returns an error when the store cannot be read.
    pub async fn leader(&self) -> Result<Option<String>, ReadError> {
        match self {
            Store::Memory(memory) => Ok(memory.leader()),
            Store::File(file) => file.leader(),
            Store::Etcd(etcd) => etcd.leader().await,
        }
    }

    /// Keeps the presence record of the director `name` in the store as long as the guard is held. Needs a tokio runtime.
    pub fn publish_director(&self, name: &str, record: watch::Receiver<Value>) -> Presence {
        self.publish_presence(PresenceTopic::Director, name, record)
    }

    /// Keeps the suspicions of the director `name` in the store, as encoded by [`SuspectedBackend::encode`], as long as the guard is held.
    /// Writes at most five times a second. Needs a tokio runtime.
    pub fn publish_suspects(&self, name: &str, record: watch::Receiver<Value>) -> Presence {
        self.publish_presence(PresenceTopic::Suspicion, name, record)
    }

    fn publish_presence(&self, topic: PresenceTopic, name: &str, record: watch::Receiver<Value>) -> Presence {
        match self {
            Store::Memory(memory) => memory.publish_presence(topic, name, record),
            Store::File(file) => file.publish_presence(topic, name, record),
            Store::Etcd(etcd) => etcd.publish_presence(topic, name, record),
        }
    }

    /// Returns the presence records of all running directors, by name.
    ///
    /// # Errors
    /// Returns an error when the store cannot be read.
    pub async fn directors(&self) -> Result<Vec<(String, Value)>, ReadError> {
        self.read_presence(PresenceTopic::Director).await
    }

    /// Returns the backends that directors suspect now.
    ///
    /// # Errors
    /// Returns an error when the store cannot be read.
    pub async fn suspected(&self) -> Result<Vec<SuspectedBackend>, ReadError> {
        self.read_presence(PresenceTopic::Suspicion).await.map(SuspectedBackend::decode_all)
    }

    /// Returns the records about a topic, by the name of the director.
    async fn read_presence(&self, topic: PresenceTopic) -> Result<Vec<(String, Value)>, ReadError> {
        match self {
            Store::Memory(memory) => Ok(memory.read_presence(topic)),
            Store::File(file) => file.read_presence(topic),
            Store::Etcd(etcd) => etcd.read_presence(topic).await,
        }
    }
}
