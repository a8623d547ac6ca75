//! The set: what people want served (the intent) and how its backends were seen to do (health), with the one number that tells directors whether
//! they have the same. Where it lives is a store: this process alone, a file of this host, or etcd for many hosts.
//!
//! Intent and health have different writers and are never mixed: an operator or the API commits an intent as a whole, the health controller publishes
//! what it saw of each pool. A reader gets both at once, in order, and never half of a change.

mod health;
mod memory;

pub use health::{Health, Observation, Observed, PoolHealth};

use crate::config::Intent;
use memory::Memory;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// The set at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Counts up with every change of the set. Directors that read one store and have the same generation have the same set.
    pub generation: u64,
    /// The generation that brought the intent of now: what a commit is based on.
    pub intent_generation: u64,
    /// What is wanted.
    pub intent: Arc<Intent>,
    /// What was observed.
    pub health: Health,
}

/// What a reader of the store knows.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The last set that was read and is good.
    pub set: Arc<Set>,
    /// Why it may no longer be the newest: the store is away, or holds what cannot be used. The last good set stands.
    pub trouble: Option<Trouble>,
}

/// Why a set may be stale.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Since when.
    pub since: Instant,
    /// What happened, for people.
    pub why: String,
}

/// Why an intent was not committed. Nothing has changed then.
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
}

/// A store. Clones are the same store.
#[derive(Clone, Debug)]
pub enum Store {
    /// This process alone.
    Memory(Arc<Memory>),
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
        }
    }

    /// Whether what is committed survives a restart of this process.
    pub fn durable(&self) -> bool {
        match self {
            Store::Memory(_) => false,
        }
    }

    /// `memory`
    pub fn kind(&self) -> &'static str {
        match self {
            Store::Memory(_) => "memory",
        }
    }

    /// Replaces the intent as a whole, if it is still that of generation `base`. Gives the generation that the change has; a watcher sees it a moment
    /// later.
    ///
    /// # Errors
    /// When the intent has changed since `base`, or the store cannot be written. Nothing has changed then.
    pub async fn commit(&self, base: u64, intent: Intent) -> Result<u64, CommitError> {
        match self {
            Store::Memory(memory) => memory.commit(base, intent),
        }
    }

    /// Says how the backends of `pool` were seen to do; what was said of this pool before is forgotten.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn publish(&self, pool: &str, health: PoolHealth) -> Result<u64, CommitError> {
        match self {
            Store::Memory(memory) => Ok(memory.publish(pool, health)),
        }
    }
}
