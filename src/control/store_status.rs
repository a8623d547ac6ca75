//! The state of the store, as the director knows it.

use guideway_api as api;
use guideway_api::status::{StaleReason, StaleStore};
use guideway_store::Stale;

/// State of the store, as the director knows it.
#[derive(Clone, Debug, Default)]
pub struct StoreStatus {
    /// Its kind.
    pub kind: &'static str,
    /// Generation of the newest usable cluster state that was read from it.
    pub generation: u64,
    /// Since when and why it cannot be read.
    pub stale: Option<Stale>,
    /// Why the director cannot use its newest cluster state.
    pub refused: Option<String>,
    /// Snapshots published since the start, for a new cluster state or a neighbour.
    pub published: u64,
    /// Maglev tables built since the start.
    pub tables_built: u64,
}

impl StoreStatus {
    pub(super) fn document(&self) -> api::status::StoreStatus {
        let stale = |stale: &Stale| StaleStore {
            seconds: stale.since.elapsed().as_secs_f64(),
            reason: stale_reason(stale),
            why: stale.why.clone(),
        };
        api::status::StoreStatus {
            kind: self.kind.to_owned(),
            generation: self.generation,
            stale: self.stale.as_ref().map(stale),
            refused: self.refused.clone(),
        }
    }
}

/// Returns the kind of trouble as documents show it.
pub(super) fn stale_reason(stale: &Stale) -> StaleReason {
    match stale.reason {
        guideway_store::StaleReason::Unavailable => StaleReason::Unavailable,
        guideway_store::StaleReason::Invalid => StaleReason::Invalid,
        guideway_store::StaleReason::RolledBack => StaleReason::RolledBack,
    }
}
