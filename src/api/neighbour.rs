//! Next hops of a director.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

/// Next hops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Neighbours {
    /// The director's own interface.
    pub link: Link,
    /// The next hop towards each address.
    pub neighbours: Vec<Neighbour>,
}

/// The director's own interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// Link-layer address.
    pub address: String,
    /// MTU in bytes.
    pub mtu: u16,
}

/// The next hop towards an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Neighbour {
    /// Address of a backend, or of a director of the remote site.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Link-layer address of the next hop.
    #[schema(required)]
    pub neighbour: Option<String>,
    /// MTU of the path in bytes.
    #[schema(required)]
    pub mtu: Option<u16>,
    /// Why the next hop is not known.
    #[schema(required)]
    pub unresolved_because: Option<String>,
}
