//! Bodies of requests: the intent and its parts, as in a director's file.
//!
//! The director reads bodies with the reader of its file, so that both refuse the same values with the same sentences. These types describe the bodies.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Array, ArrayBuilder, Object, ObjectBuilder, SchemaType, Type};

/// Everything that is to be served. A missing list is an empty one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// VIPs.
    pub vip: Option<Vec<Vip>>,
    /// Pools.
    pub pool: Option<Vec<Pool>>,
}

/// A VIP with one service, as in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// A unicast address, IPv4 or IPv6.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its service.
    pub service: Service,
    /// Name of its pool.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,63}$")]
    pub pool: String,
    /// Time after which an idle flow is forgotten, 1s to 12h; default 60s.
    pub idle: Option<String>,
    /// Takes no packets; default false.
    pub paused: Option<bool>,
}

/// Keys of a VIP that change; null brings the default back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VipChange {
    /// Its service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub service: Option<Service>,
    /// Name of its pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9._-]{1,63}$")]
    pub pool: Option<String>,
    /// Time after which an idle flow is forgotten, 1s to 12h; default 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// Takes no packets; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// "tftp", or a protocol with its ports or key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Service {
    /// TFTP on port 69.
    Name(TftpProtocol),
    /// TFTP with its key.
    Tftp(TftpService),
    /// UDP or TCP.
    Ports(PortService),
}

/// TFTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TftpService {
    /// The protocol.
    pub protocol: TftpProtocol,
    /// What a request's hash depends on; default `flow`.
    pub key: Option<HashKey>,
}

/// The name of TFTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TftpProtocol {
    /// TFTP.
    Tftp,
}

/// What a request's hash depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// Address and port of the client.
    Flow,
    /// Address of the client.
    Client,
}

/// UDP or TCP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortService {
    /// The protocol.
    pub protocol: PortProtocol,
    /// Ports, and ranges such as "5000-5009".
    #[schema(schema_with = ports)]
    pub ports: Vec<PortRange>,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// A port, or a range of ports such as "20000-20999".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortRange {
    /// One port.
    Port(u16),
    /// The first and the last port.
    Range(String),
}

/// A pool, as in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Its name.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,63}$")]
    pub name: String,
    /// Rows of its Maglev table: prime, at least 100 × backends; default 65537.
    #[schema(minimum = 2, maximum = 5_000_011)]
    pub table_size: Option<u32>,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// A backend, as in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Its name.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,63}$")]
    pub name: String,
    /// A unicast address, IPv4 or IPv6.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Default 100; 0: no new flows.
    #[schema(minimum = 0, maximum = 1000)]
    pub weight: Option<u16>,
    /// Its own server ports.
    #[schema(schema_with = tid_range)]
    pub tid_range: Option<PortRange>,
    /// Gets no new flows and keeps those that it has; default false.
    pub drain: Option<bool>,
}

/// A backend; the path says its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendPut {
    /// The name in the path, if it is given at all.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,63}$")]
    pub name: Option<String>,
    /// A unicast address, IPv4 or IPv6.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Default 100; 0: no new flows.
    #[schema(minimum = 0, maximum = 1000)]
    pub weight: Option<u16>,
    /// Its own server ports.
    #[schema(schema_with = tid_range)]
    pub tid_range: Option<PortRange>,
    /// Gets no new flows and keeps those that it has; default false.
    pub drain: Option<bool>,
}

/// Keys of a backend that change; null brings the default back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendChange {
    /// The name in the path, if it is given at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9._-]{1,63}$")]
    pub name: Option<String>,
    /// A unicast address, IPv4 or IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub address: Option<String>,
    /// Default 100; 0: no new flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1000)]
    pub weight: Option<u16>,
    /// Its own server ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = tid_range)]
    pub tid_range: Option<PortRange>,
    /// Gets no new flows and keeps those that it has; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
}

/// A range, and what a number means without one.
const RANGE: &str = "^[0-9]+(-[0-9]+)?$";

fn tid_range() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Integer, Type::Null]))
        .minimum(Some(1024))
        .maximum(Some(65535))
        .pattern(Some(RANGE))
        .description(Some("Its own server ports: \"20000-20999\", or one. All backends of a pool have a range or none has."))
        .build()
}

fn ports() -> Array {
    let port = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::String]))
        .minimum(Some(1))
        .maximum(Some(65535))
        .pattern(Some(RANGE));
    ArrayBuilder::new().items(port).min_items(Some(1)).description(Some("Ports, and ranges such as \"5000-5009\".")).build()
}
