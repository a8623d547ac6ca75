//! Counters of packets.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Counters of packets: of a worker, or a sum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Packets received.
    pub received: u64,
    /// Received packets forwarded to a backend.
    pub transmitted: u64,
    /// Received packets left to the host's kernel.
    pub to_host: u64,
    /// Early fragments held now.
    pub held: u64,
    /// Packets that the director made itself: ICMP, and fragments beyond the first.
    pub originated: u64,
    /// Packets whose backend was selected by the TID range of their server port.
    pub by_tid_range: u64,
    /// Packets whose backend was selected by the flow table.
    pub by_flow: u64,
    /// Packets whose backend was selected by the Maglev table.
    pub by_maglev: u64,
    /// Packets that went to a successor of their backend.
    pub by_successor: u64,
    /// Packets that went to a director of the remote site.
    pub by_remote_site: u64,
    /// Fragments that went to the director of the fleet that owns their datagram.
    pub handed_on: u64,
    /// Packets that another director, or a health check, sent to the server of this host.
    pub to_local_server: u64,
    /// Requests that went to another backend, as the first left them unanswered.
    pub redispatched: u64,
    /// Requests shed by the limit of their VIP.
    pub shed_by_vip: u64,
    /// Requests shed by the limit of a backend.
    pub shed_by_backend: u64,
    /// Requests shed by the limit of their client's prefix.
    pub shed_by_prefix: u64,
    /// Dropped packets by reason, without those reasons that never happened.
    pub dropped: IndexMap<String, u64>,
    /// Entries that full tables evicted or did not take, by table, without those that were never full.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub evicted: IndexMap<String, u64>,
}

impl Counters {
    /// Returns every counter but those of dropped packets, by its name in JSON.
    pub fn each(&self) -> [(&'static str, u64); 16] {
        [
            ("received", self.received),
            ("transmitted", self.transmitted),
            ("to_host", self.to_host),
            ("held", self.held),
            ("originated", self.originated),
            ("by_tid_range", self.by_tid_range),
            ("by_flow", self.by_flow),
            ("by_maglev", self.by_maglev),
            ("by_successor", self.by_successor),
            ("by_remote_site", self.by_remote_site),
            ("handed_on", self.handed_on),
            ("to_local_server", self.to_local_server),
            ("redispatched", self.redispatched),
            ("shed_by_vip", self.shed_by_vip),
            ("shed_by_backend", self.shed_by_backend),
            ("shed_by_prefix", self.shed_by_prefix),
        ]
    }
}

/// Counters of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerCounters {
    /// Its number.
    pub worker: usize,
    /// Its CPU.
    #[schema(required)]
    pub cpu: Option<usize>,
    /// Its counters.
    pub counters: Counters,
}

/// Use of the flow tables of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowTables {
    /// Entries in use.
    pub used: usize,
    /// Entries that there is room for.
    pub capacity: usize,
}

/// What became of packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PacketCounters {
    /// Generation of the cluster state that workers read.
    pub generation: u64,
    /// The sum over all threads.
    pub counters: Counters,
    /// Those of the steering thread; null where there is none.
    #[schema(required)]
    pub steering: Option<Counters>,
    /// Those of each worker.
    pub per_worker: Vec<WorkerCounters>,
    /// Use of the flow tables.
    pub flows: FlowTables,
}
