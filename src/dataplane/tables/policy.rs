//! What operators decide about packets: the values of a few configuration keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PREFIX_V4: u8 = 24;
const PREFIX_V6: u8 = 56;

/// `[director] unmatched`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    /// Leave it to the kernel (`"host"`, the default).
    #[default]
    Host,
    /// Drop it (`"drop"`).
    Drop,
}

/// `[director] icmp_echo`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Echo {
    /// To a backend, which answers (`"forward"`, the default).
    #[default]
    Forward,
    /// The director answers itself (`"answer"`).
    Answer,
    /// Drop (`"drop"`).
    Drop,
}

/// What a `tftp` service's choice of a backend depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashKey {
    /// Client address and client port (`"flow"`, the default): one transfer.
    #[default]
    Flow,
    /// Client address alone (`"client"`): all requests of one machine go to one server.
    Client,
}

/// At most one address of each family, at least one in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4
    pub v4: Option<Ipv4Addr>,
    /// IPv6
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// Whether `address` is one of the two.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.v4 == Some(a),
            IpAddr::V6(a) => self.v6 == Some(a),
        }
    }

    /// The one of the same family as `other`.
    pub fn same_family(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
}

/// `[[vip]] writes`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// Write requests end at the director (`"drop"`, the default).
    #[default]
    Drop,
    /// They go to a backend like read requests (`"forward"`).
    Forward,
}

/// `[[vip]] admission`: new requests per second of one director, 1–10,000,000 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Of all clients together.
    pub per_vip: Option<u32>,
    /// Of this VIP to one backend.
    pub per_backend: Option<u32>,
    /// Of all clients within one prefix.
    pub per_prefix: Option<u32>,
    /// Bits of a client's IPv4 address that make its prefix, 8–32; default 24.
    pub prefix_v4: u8,
    /// The same for IPv6, 16–128; default 56.
    pub prefix_v6: u8,
}

impl Default for Admission {
    fn default() -> Self {
        Admission { per_vip: None, per_backend: None, per_prefix: None, prefix_v4: PREFIX_V4, prefix_v6: PREFIX_V6 }
    }
}

impl Admission {
    /// Whether anything is limited.
    pub fn limits(&self) -> bool {
        self.per_vip.or(self.per_backend).or(self.per_prefix).is_some()
    }
}
