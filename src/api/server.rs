//! Status of a TFTP server.

use super::status::{KeyIds, Reloads};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use utoipa::ToSchema;

/// A TFTP server at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerStatus {
    /// Tells it from other daemons.
    #[serde(default)]
    #[schema(required)]
    pub kind: ServerKind,
    /// Its name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Listening addresses.
    #[schema(value_type = Vec<String>)]
    pub listen: Vec<SocketAddr>,
    /// Source address of the answers, one for each event loop.
    #[schema(value_type = Vec<String>)]
    pub tids: Vec<SocketAddr>,
    /// Listening addresses of HTTP.
    #[schema(value_type = Vec<String>)]
    pub http: Vec<SocketAddr>,
    /// Event loops.
    pub loops: usize,
    /// Whether it answers no new requests, for maintenance.
    #[serde(default)]
    #[schema(required)]
    pub maintenance: bool,
    /// Transfers that run, and their limit.
    pub capacity: Capacity,
    /// Counters by name, and `open` transfers.
    pub counters: IndexMap<String, u64>,
    /// Checkpoints stored for other servers; null where takeover is off.
    #[schema(required)]
    pub checkpoints: Option<Checkpoints>,
    /// Caches of its handlers.
    pub caches: Vec<CacheStatus>,
    /// Reloads since the start.
    pub reload: Reloads,
    /// Keys of the file that differ from those in use since the last reload, each with its old and new value: they require a restart.
    pub restart_required: Vec<String>,
}

/// `kind` of a TFTP server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerKind {
    /// A TFTP server.
    #[default]
    Tftpd,
}

/// Transfers that run, and their limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// Transfers that run.
    pub used: u64,
    /// Largest number of transfers.
    pub limit: usize,
}

/// Checkpoints stored for other servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checkpoints {
    /// Other servers of the pool that answer.
    pub peers: u64,
    /// Ids of the keys under which checkpoints are accepted.
    pub key: KeyIds,
    /// Checkpoints that are stored.
    pub transfers: u64,
    /// Checkpoints for which there is room.
    pub transfers_limit: usize,
    /// Bytes that stored checkpoints take.
    pub bytes: u64,
    /// Bytes for which there is room.
    pub bytes_limit: usize,
}

/// The cache of a handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheStatus {
    /// Name of the handler.
    pub handler: String,
    /// Requests answered without asking the origin.
    pub hits: u64,
    /// Requests for which the origin was asked.
    pub misses: u64,
    /// Requests that shared a running fetch.
    pub coalesced: u64,
    /// Requests refused because the origin had just said that the file does not exist.
    pub negative_hits: u64,
    /// Files in the cache, partial ones included.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Bytes for which there is room.
    pub limit: u64,
}
