//! Transfers that still run on a backend that gets no new ones.

use super::backend::BackendState;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

/// Transfers that still run on a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Transfers {
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// Whether it gets new flows.
    pub state: BackendState,
    /// Generation of the cluster state that workers read.
    pub generation: u64,
    /// A transfer has ended when it was silent for so long.
    pub idle_timeout_seconds: f64,
    /// For how long it has got no new flows; null where it gets some.
    #[schema(required)]
    pub draining_seconds: Option<f64>,
    /// Transfers that run.
    pub running: usize,
    /// Flows for which there was no room, since the start.
    pub untracked: u64,
    /// None runs, and it was watched for long enough to say so.
    pub ended: bool,
    /// Each transfer, the one with the newest packet first.
    pub transfers: Vec<Transfer>,
}

/// A transfer that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Transfer {
    /// Address of the client.
    #[schema(value_type = String)]
    pub client: IpAddr,
    /// Port of the client.
    pub client_port: u16,
    /// The VIP.
    #[schema(value_type = String)]
    pub vip: IpAddr,
    /// Port of the server.
    pub server_port: u16,
    /// `udp`, `tcp`, or the number of the protocol.
    pub protocol: String,
    /// Packets from the client.
    pub packets: u64,
    /// Seconds since the last packet.
    pub idle_seconds: f64,
}
