//! Pools of a director.

use super::backend::BackendStatus;
use super::vip::ServedVip;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Every pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pools {
    /// The pools of the intent.
    pub pools: Vec<PoolStatus>,
}

/// A pool with the state of its backends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Rows of its Maglev table.
    pub table_size: u32,
    /// Fingerprint of its Maglev table; null where no VIP uses it.
    #[schema(required)]
    pub fingerprint: Option<String>,
    /// Whether its backends have TID ranges.
    pub tid_ranges: bool,
    /// VIPs that use it.
    pub vips: Vec<ServedVip>,
    /// Its backends.
    pub backends: Vec<BackendStatus>,
}
