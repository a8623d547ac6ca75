//! The cluster state, and a reader's view of it.

use super::{Health, Lineage};
use guideway_config::Intent;
use std::sync::Arc;
use std::time::Instant;

/// The cluster state at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Increases with every change of the cluster state. Directors of one store with the same generation have the same state. 0: nothing
    /// was ever committed. Falls only when an operator accepts or restores a store.
    pub generation: u64,
    /// The generation of the current intent: the base of a commit.
    pub intent_generation: u64,
    /// The history that both generations count in.
    pub lineage: Lineage,
    /// The intent.
    pub intent: Arc<Intent>,
    /// The health.
    pub health: Health,
}

/// A reader's view of the store.
#[derive(Clone, Debug, Default)]
pub struct StoreView {
    /// The last valid cluster state that was read.
    pub cluster: Arc<ClusterState>,
    /// Why the state may not be the newest: the store is unavailable, or its contents are invalid or older.
    pub stale: Option<Stale>,
}

/// Why a cluster state may be stale.
#[derive(Clone, Debug)]
pub struct Stale {
    /// The last moment at which the cluster state was known to be the newest.
    pub since: Instant,
    /// The kind of trouble.
    pub reason: StaleReason,
    /// The reasons, for operators, one a line.
    pub why: String,
}

/// The kind of trouble with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// It does not answer.
    Unavailable,
    /// It holds something that cannot be used.
    Invalid,
    /// It is empty, older than the known state, or another store. An operator must decide.
    RolledBack,
}

impl StaleReason {
    /// All reasons.
    pub const ALL: [StaleReason; 3] = [StaleReason::Unavailable, StaleReason::Invalid, StaleReason::RolledBack];

    /// Returns the name in documents and metrics.
    pub fn name(self) -> &'static str {
        match self {
            StaleReason::Unavailable => "unavailable",
            StaleReason::Invalid => "invalid",
            StaleReason::RolledBack => "rolled_back",
        }
    }
}

impl StoreView {
    /// Sets why the state may not be the newest; logs it if it is news. Returns whether it is.
    pub(super) fn set_stale(&mut self, stale: Stale) -> bool {
        if self.stale.as_ref().is_some_and(|before| before.why == stale.why) {
            return false;
        }
        let (generation, reason) = (self.cluster.generation, &stale.why);
        match stale.reason {
            StaleReason::Unavailable => tracing::warn!(generation, %reason, "store unavailable, last valid cluster state stays in force"),
            StaleReason::Invalid => tracing::error!(generation, %reason, "store not usable, last valid cluster state stays in force"),
            StaleReason::RolledBack => tracing::error!(generation, %reason, "store rolled back, last valid cluster state stays in force"),
        }
        self.stale = Some(stale);
        true
    }
}
