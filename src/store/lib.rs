//! The set: what people want served (the intent) and how its backends were seen to do (health), with the one number that tells directors whether
//! they have the same. Where it lives is a store: this process alone, a directory of this host, or etcd for many hosts.
//!
//! Intent and health have different writers and are never mixed: an operator or the API commits an intent as a whole, the health controller that
//! leads publishes what it saw of each pool. A reader gets both at once, in order, and never half of a change.
//!
//! The rules that make directors agree:
//! * A set is a function of what the store holds; who was away and reads anew arrives at the same set with the same generation.
//! * What cannot be used (a hand edit with an error, a spoilt key) changes nothing: the last good set stands, and [`Seen::trouble`] says why.
//! * A store that is away is an old store: the last set stands, [`Seen::trouble`] says since when.

mod background;
mod etcd;
mod file;
mod health;
mod lead;
mod memory;
mod open;
mod replace;
mod word;

pub use health::{Health, Observation, Observed, PoolHealth};
pub use lead::{Leadership, Presence};
pub use open::{OpenError, open, open_within, ready, start};
pub use word::Suspected;

use etcd::Etcd;
use file::File;
use guideway_config::Intent;
use memory::Memory;
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use word::Topic;

/// The set at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Counts up with every change of the set. Directors that read one store and have the same generation have the same set. 0: nothing was ever
    /// committed.
    pub generation: u64,
    /// The generation that brought the intent of now: what a commit is based on.
    pub intent_generation: u64,
    /// What is wanted.
    pub intent: Arc<Intent>,
    /// What was observed.
    pub health: Health,
}

/// What a reader of the store knows.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The last set that was read and is good.
    pub set: Arc<Set>,
    /// Why it may no longer be the newest: the store is away, or holds what cannot be used. The last good set stands.
    pub trouble: Option<Trouble>,
}

/// Why a set may be stale.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Since when: the last moment at which the set was known to be the newest.
    pub since: Instant,
    /// What happened, for people; a line for each thing that is wrong.
    pub why: String,
}

/// Why an intent was not committed, or health not published. Nothing has changed then, except with [`CommitError::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Somebody else was quicker.
    #[error("the intent has changed meanwhile: it is that of generation {now}, not of {base}; read it again and repeat the change")]
    Changed {
        /// What the change was based on.
        base: u64,
        /// The generation of the intent of now.
        now: u64,
    },
    /// The store cannot be written.
    #[error("{0}")]
    Away(String),
    /// The store cannot take so much at once; the limit is named.
    #[error("{0}")]
    TooLarge(String),
    /// Another health controller leads.
    #[error("this process does not lead, so it may not publish health")]
    NotLeading,
    /// The store was asked to write and its answer did not come: it may or may not have done so.
    #[error("{0}; whether the change was made is not known: read the intent again")]
    Unknown(String),
}

/// Why a store could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(pub String);

/// A store. Clones are the same store.
#[derive(Clone, Debug)]
pub enum Store {
    /// This process alone.
    Memory(Arc<Memory>),
    /// A directory of this host.
    File(Arc<File>),
    /// etcd.
    Etcd(Arc<Etcd>),
}

impl Store {
    /// A store in the memory of this process that begins with `intent`, as generation 1.
    pub fn memory(intent: Intent) -> Store {
        Store::Memory(Arc::new(Memory::new(intent)))
    }

    /// What is known of the set; changes as the store does.
    pub fn watch(&self) -> watch::Receiver<Seen> {
        match self {
            Store::Memory(memory) => memory.watch(),
            Store::File(file) => file.watch(),
            Store::Etcd(etcd) => etcd.watch(),
        }
    }

    /// Whether what is committed survives a restart of this process.
    pub fn durable(&self) -> bool {
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

    /// Replaces the intent as a whole, if it is still that of generation `base`. Gives the generation that the change has; a watcher sees it a moment
    /// later.
    ///
    /// # Errors
    /// When the intent has changed since `base`, or the store cannot be written. Nothing has changed then, unless the error says otherwise.
    pub async fn commit(&self, base: u64, intent: Intent) -> Result<u64, CommitError> {
        match self {
            Store::Memory(memory) => memory.commit(base, intent),
            Store::File(file) => file.commit(base, intent).await,
            Store::Etcd(etcd) => etcd.commit(base, &intent).await,
        }
    }

    /// The generation of the intent that the store holds, whether or not that can be used: what a commit that replaces all of it is based on.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn intent_generation(&self) -> Result<u64, ReadError> {
        match self {
            Store::Memory(memory) => Ok(memory.watch().borrow().set.intent_generation),
            Store::File(file) => file.intent_generation(),
            Store::Etcd(etcd) => etcd.intent_generation().await,
        }
    }

    /// Says how the backends of `pool` were seen to do; what was said of this pool before is forgotten. A health without backends leaves nothing.
    ///
    /// # Errors
    /// When this store does not lead (see [`Store::lead`]; one in memory always does), or cannot be written.
    pub async fn publish(&self, pool: &str, health: PoolHealth) -> Result<u64, CommitError> {
        self.publish_all(&[(pool.to_owned(), health)]).await
    }

    /// The same for several pools at once: one generation, or with etcd one for every 100 pools. Gives the last.
    ///
    /// # Errors
    /// As for [`Store::publish`]; what was published before the error stays.
    pub async fn publish_all(&self, pools: &[(String, PoolHealth)]) -> Result<u64, CommitError> {
        match self {
            Store::Memory(memory) => Ok(memory.publish(pools)),
            Store::File(file) => file.publish(pools).await,
            Store::Etcd(etcd) => etcd.publish(pools).await,
        }
    }

    /// Stands for leader under this name, which people see. To be held once in a process; needs a runtime of tokio.
    pub fn lead(&self, name: &str) -> Leadership {
        match self {
            Store::Memory(memory) => memory.lead(name),
            Store::File(file) => file.lead(name),
            Store::Etcd(etcd) => etcd.lead(name),
        }
    }

    /// The name of who leads, if somebody does.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn leader(&self) -> Result<Option<String>, ReadError> {
        match self {
            Store::Memory(memory) => Ok(memory.leader()),
            Store::File(file) => file.leader(),
            Store::Etcd(etcd) => etcd.leader().await,
        }
    }

    /// Keeps what the director `name` says of itself in the store, as long as the guard is held. Needs a runtime of tokio.
    pub fn present(&self, name: &str, word: watch::Receiver<Value>) -> Presence {
        self.say(Topic::Director, name, word)
    }

    /// Keeps whom the director `name` suspects in the store, as [`Suspected::word`] makes it, as long as the guard is held. It is written at most five
    /// times a second. Needs a runtime of tokio.
    pub fn suspect(&self, name: &str, word: watch::Receiver<Value>) -> Presence {
        self.say(Topic::Suspicion, name, word)
    }

    fn say(&self, topic: Topic, name: &str, word: watch::Receiver<Value>) -> Presence {
        match self {
            Store::Memory(memory) => memory.say(topic, name, word),
            Store::File(file) => file.say(topic, name, word),
            Store::Etcd(etcd) => etcd.say(topic, name, word),
        }
    }

    /// What the directors that are there say of themselves, by name.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn directors(&self) -> Result<Vec<(String, Value)>, ReadError> {
        self.said(Topic::Director).await
    }

    /// The backends that directors suspect now.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn suspected(&self) -> Result<Vec<Suspected>, ReadError> {
        self.said(Topic::Suspicion).await.map(Suspected::heard)
    }

    /// The words that are there about a topic, by the name of the director.
    async fn said(&self, topic: Topic) -> Result<Vec<(String, Value)>, ReadError> {
        match self {
            Store::Memory(memory) => Ok(memory.said(topic)),
            Store::File(file) => file.said(topic),
            Store::Etcd(etcd) => etcd.said(topic).await,
        }
    }
}
