//! A copy of the cluster state, which `guideway store restore` writes into a store.

use super::backend::BackendHealth;
use super::intent::Intent;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The cluster state in force, as `store.cache` holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterState {
    /// Its generation.
    pub generation: u64,
    /// The generation of its intent.
    pub intent_generation: u64,
    /// The history in which both count.
    pub lineage: Lineage,
    /// VIPs and pools.
    pub intent: Intent,
    /// Health by the name of the pool.
    pub health: BTreeMap<String, PoolHealth>,
}

/// The history of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lineage {
    /// Chosen by the first commit into an empty store.
    pub id: String,
    /// When an operator last accepted or restored the store, in milliseconds since 1970-01-01 UTC; 0: never.
    pub accepted: u64,
}

/// The observed states of a pool's backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolHealth {
    /// By the name of the backend.
    pub backends: BTreeMap<String, BackendHealth>,
}
