//! VIPs of a director.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

/// Every VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vips {
    /// Each service of each VIP.
    pub vips: Vec<ServedVip>,
}

/// A service of a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServedVip {
    /// The VIP.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The service: `tftp`, `udp/53`.
    pub service: String,
    /// Name of its pool.
    pub pool: String,
    /// Seconds after which an idle flow is forgotten.
    pub idle_seconds: u16,
    /// Whether it takes no packets.
    pub paused: bool,
    /// Rows of its Maglev table.
    pub table_size: u32,
    /// Fingerprint of its Maglev table.
    pub fingerprint: String,
}

/// A service of a VIP in the status of a director.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnnouncedVip {
    /// The VIP.
    #[schema(value_type = String)]
    pub vip: IpAddr,
    /// The service: `tftp`, `udp/53`.
    pub service: String,
    /// Name of its pool.
    pub pool: String,
    /// Fingerprint of its Maglev table.
    pub fingerprint: String,
    /// Whether its route is announced; null where the director announces none.
    #[schema(required)]
    pub announced: Option<bool>,
    /// Why it is not announced.
    #[schema(required)]
    pub not_announced_because: Option<String>,
}
