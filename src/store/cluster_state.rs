//! The cluster state, and a reader's view of it.

use super::Health;
use guideway_config::Intent;
use std::sync::Arc;
use std::time::Instant;

/// The cluster state at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Increases with every change of the cluster state. Directors of one store with the same generation have the same state. 0: nothing
    /// was ever committed.
    pub generation: u64,
    /// The generation of the current intent: the base of a commit.
    pub intent_generation: u64,
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
    /// Why the state may not be the newest: the store is unavailable, or its contents are invalid.
    pub stale: Option<Stale>,
}

/// Why a cluster state may be stale.
#[derive(Clone, Debug)]
pub struct Stale {
    /// The last moment at which the cluster state was known to be the newest.
    pub since: Instant,
    /// The reasons, for operators, one a line.
    pub why: String,
}
