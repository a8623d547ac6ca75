//! Status of a director.

use super::backend::BackendSummary;
use super::counters::{Counters, FlowTables, WorkerCounters};
use super::presence::Disagreement;
use super::vip::AnnouncedVip;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use utoipa::ToSchema;

/// The director at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DirectorStatus {
    /// Tells it from other daemons.
    #[serde(default)]
    #[schema(required)]
    pub kind: DirectorKind,
    /// Its name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Generation of the cluster state that workers read; 0 before there is one.
    pub generation: u64,
    /// Snapshots published since the start.
    pub published: u64,
    /// Maglev tables built since the start.
    pub tables_built: u64,
    /// Its store.
    pub store: StoreStatus,
    /// Where the health of its backends comes from.
    pub health: HealthSource,
    /// Other directors of the store that would send packets elsewhere.
    #[serde(default)]
    #[schema(required)]
    pub disagreements: Vec<Disagreement>,
    /// Whether packets are forwarded.
    pub ready: bool,
    /// Whether an operator keeps clients away from it: its VIPs are withdrawn, and it forwards what still comes.
    #[serde(default)]
    #[schema(required)]
    pub maintenance: bool,
    /// What is wrong with its host, and what to do.
    #[serde(default)]
    #[schema(required)]
    pub host_problems: Vec<String>,
    /// Its interface.
    pub io: IoStatus,
    /// Threads that forward packets.
    pub workers: usize,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Counters of all threads together.
    pub counters: Counters,
    /// Counters of the steering thread; null where there is none.
    #[schema(required)]
    pub steering: Option<Counters>,
    /// Counters of each worker.
    pub per_worker: Vec<WorkerCounters>,
    /// Its keys; null before it is ready.
    #[schema(required)]
    pub key: Option<KeyIds>,
    /// VIPs that it serves.
    pub vips: Vec<AnnouncedVip>,
    /// Its backends, retired ones included.
    pub backends: Vec<BackendSummary>,
    /// Directors of the remote site.
    pub remote_site: Vec<RemoteDirector>,
    /// Transfers that still run on backends that get no new ones, by `pool/backend`.
    pub draining: BTreeMap<String, u64>,
    /// Use of the flow tables.
    pub flows: FlowTables,
    /// Reloads since the start.
    pub reload: Reloads,
}

/// `kind` of a director.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DirectorKind {
    /// A director.
    #[default]
    Director,
}

/// The store of a director.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoreStatus {
    /// Its kind.
    pub kind: String,
    /// Generation of the newest usable cluster state that was read from it.
    pub generation: u64,
    /// Since when its newest contents cannot be used.
    #[schema(required)]
    pub stale: Option<StaleStore>,
    /// Why this director cannot use its newest cluster state.
    #[schema(required)]
    pub refused: Option<String>,
}

/// Where the health of backends comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealthSource {
    /// Name of the health controller that publishes; null where none does.
    #[schema(required)]
    pub leader: Option<String>,
    /// For how long none was seen to publish: so old may the health be. 0 while one does; null where no pool has a check.
    #[schema(required)]
    pub age_seconds: Option<f64>,
}

/// A store whose contents are not in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StaleStore {
    /// For how long.
    pub seconds: f64,
    /// The kind of trouble.
    #[serde(default)]
    #[schema(required)]
    pub reason: StaleReason,
    /// Why.
    pub why: String,
}

/// The kind of trouble with a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StaleReason {
    /// It does not answer.
    #[default]
    Unavailable,
    /// It holds something that cannot be used.
    Invalid,
    /// It is empty, older than the known state, or another store: an operator must decide by `guideway store restore` or `accept`.
    RolledBack,
}

impl StaleReason {
    /// Returns what is wrong, as the rest of a sentence about the store.
    pub fn text(self) -> &'static str {
        match self {
            StaleReason::Unavailable => "is unavailable",
            StaleReason::Invalid => "holds something that cannot be used",
            StaleReason::RolledBack => "was emptied, rolled back or replaced",
        }
    }
}

/// The interface of a director.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IoStatus {
    /// `af_xdp`, `af_packet` or `netmap`.
    pub kind: String,
    /// Name of the interface.
    pub interface: String,
    /// Mode of the io there, such as `native, copy`.
    pub mode: String,
    /// Why it does not receive what it should, and the VIPs are withdrawn.
    #[schema(required)]
    pub trouble: Option<String>,
    /// Frames lost before a worker received them, by reason. They are not in `counters`.
    pub lost: IndexMap<String, u64>,
    /// Counters of the io, by name.
    pub counts: IndexMap<String, u64>,
}

/// Ids of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyIds {
    /// The key in use; null where the director does not know the one that the intent names.
    #[schema(required)]
    pub active: Option<String>,
    /// All keys that are known.
    pub known: Vec<String>,
}

impl KeyIds {
    /// Returns the known keys that are not in use.
    pub fn others(&self) -> Vec<&str> {
        self.known.iter().map(String::as_str).filter(|id| Some(*id) != self.active.as_deref()).collect()
    }
}

/// A director of the remote site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoteDirector {
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Link-layer address of the next hop, or `unresolved`.
    pub neighbour: String,
    /// Why the next hop is not known.
    #[schema(required)]
    pub unresolved_because: Option<String>,
}

/// Outcome of a reload that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// Generation of the cluster state in force.
    pub generation: u64,
}

/// Reloads since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloads {
    /// Files that were applied.
    pub accepted: u64,
    /// Files that were refused.
    pub refused: u64,
    /// Why the last file was refused; null when it was applied.
    #[schema(required)]
    pub last_error: Option<String>,
    /// When the last file was applied or refused, in seconds since 1970-01-01 UTC; that of the start counts.
    #[serde(default)]
    #[schema(required)]
    pub last: u64,
}

/// Maintenance of a director or a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Maintenance {
    /// Whether it is on.
    pub on: bool,
    /// Of a director: the packets of clients that it forwarded since the start.
    #[schema(required)]
    pub forwarded: Option<u64>,
    /// Of a server: the transfers that run.
    #[schema(required)]
    pub running: Option<u64>,
    /// Of a server: others go on with its transfers, as soon as health checks find it without answers.
    #[serde(default)]
    #[schema(required)]
    pub takeover: bool,
}
