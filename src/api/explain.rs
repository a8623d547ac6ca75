//! Answers to "where would this packet go?".

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use utoipa::ToSchema;

/// Where a packet would go; why it goes to no backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// Source of the packet.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// Destination address.
    #[schema(value_type = String)]
    pub vip: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Where it goes.
    #[serde(flatten)]
    pub destination: PacketDestination,
    /// Generation of the tables; missing where they are those of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PacketDestination {
    /// To a backend, or to a director of the remote site.
    Backend(Box<SelectedBackend>),
    /// To the kernel of the director's host.
    Host(LeftToHost),
    /// Nowhere.
    Dropped(DroppedPacket),
}

/// The backend of a packet, and how it was selected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SelectedBackend {
    /// The service that the packet belongs to.
    pub service: String,
    /// Whether the packet is taken for a TFTP request.
    pub request: bool,
    /// The pool of the service.
    pub pool: String,
    /// The backend; of the remote site, the director there.
    pub backend: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// What selected it.
    pub by: Selection,
    /// The backend that is down and whose successor this one is.
    #[schema(required)]
    pub failed_owner: Option<String>,
    /// What the choice depends on, human-readable.
    pub key: String,
    /// Hash of that, if it was needed.
    #[schema(required)]
    pub hash: Option<String>,
    /// Row of the Maglev table, if it was asked.
    #[schema(required)]
    pub row: Option<u32>,
    /// The range that the server's port lies in; for a request, the range of the backend.
    #[schema(required)]
    pub tid_range: Option<String>,
    /// Whether the flow table of a running director may name another backend.
    pub flow_table_consulted: bool,
    /// Whether the server's port lies in no TID range of a pool that has some.
    pub outside_tid_ranges: bool,
}

/// What selected a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// The TID range that the server's port lies in.
    TidRange,
    /// The flow table.
    Flow,
    /// The Maglev table.
    Maglev,
    /// The ranking of successors, as the owner is down.
    Successor,
    /// The remote site, as no backend here takes the packet.
    RemoteSite,
}

/// A packet that is left to the host's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftToHost {
    /// Always null.
    #[schema(required)]
    pub service: Option<String>,
    /// Always null.
    #[schema(required)]
    pub backend: Option<String>,
    /// Always true.
    pub to_host: bool,
    /// Why.
    pub why: String,
}

/// A packet that is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DroppedPacket {
    /// Always null.
    #[schema(required)]
    pub service: Option<String>,
    /// Always null.
    #[schema(required)]
    pub backend: Option<String>,
    /// The reason under which it is counted.
    pub dropped: String,
    /// The reason, human-readable.
    pub why: String,
}
