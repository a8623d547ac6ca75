//! Records that directors leave in their store for as long as they run.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use utoipa::ToSchema;

/// The record of a director in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presence {
    /// Whether it forwards packets.
    #[serde(default)]
    #[schema(required)]
    pub ready: bool,
    /// Its addresses, once it is ready: other directors hand fragments on to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Its tables, once it is ready.
    #[serde(flatten)]
    pub tables: Option<PresentTables>,
}

/// The tables of a director, as other readers of the store compare them. A director of another version may leave out all but the generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PresentTables {
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// Generation of the cluster state that workers read.
    pub generation: u64,
    /// Ids of the keys that it knows.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Fingerprint of the Maglev table of each pool.
    #[serde(default)]
    pub tables: BTreeMap<String, String>,
    /// Transfers that still run on backends that get no new ones, by `pool/backend`.
    #[serde(default)]
    pub draining: BTreeMap<String, u64>,
}
