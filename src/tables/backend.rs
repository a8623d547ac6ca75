//! A backend, and the header that every packet to it gets.

use crate::wire::ethernet::{IPV4, IPV6};
use crate::wire::gre::{BASE_LEN, PROTOCOL};
use std::net::IpAddr;
use std::sync::Arc;

/// Number of a backend. Stable over snapshots; not given to another backend while a flow table may still hold it.
pub type BackendId = u16;

/// No backend has this number.
pub const NO_BACKEND: BackendId = BackendId::MAX;

/// Where the frames to a backend go on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Link-layer address of the backend or of the gateway towards it.
    pub mac: [u8; 6],
    /// MTU of the route in bytes, at most that of the interface.
    pub mtu: u16,
}

/// A server behind a VIP.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Name of its pool.
    pub pool: Arc<str>,
    /// Where its GRE goes.
    pub address: IpAddr,
    /// `None` while the kernel has not resolved it.
    pub next_hop: Option<NextHop>,
    outer: Outer,
}

/// The outer IP header and GRE header, ready but for length, DSCP/ECN, TTL, checksum and GRE protocol.
#[derive(Clone, Debug)]
enum Outer {
    V4 { bytes: [u8; 24], sum: u32 },
    V6 { bytes: [u8; 44] },
}

impl Backend {
    /// A backend reached from `source` (of the same family as `address`; `None` otherwise).
    pub fn new(name: Arc<str>, pool: Arc<str>, source: IpAddr, address: IpAddr, next_hop: Option<NextHop>) -> Option<Backend> {
        let outer = match (source, address) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = [0u8; 24];
                bytes[0] = 0x45;
                // Identification stays 0: with DF set it means nothing (RFC 6864 section 4.1).
                bytes[6] = 0x40;
                bytes[9] = PROTOCOL;
                bytes[12..16].copy_from_slice(&source.octets());
                bytes[16..20].copy_from_slice(&destination.octets());
                let sum = bytes[..20].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
                Outer::V4 { bytes, sum }
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut bytes = [0u8; 44];
                bytes[0] = 0x60;
                bytes[6] = PROTOCOL;
                bytes[8..24].copy_from_slice(&source.octets());
                bytes[24..40].copy_from_slice(&destination.octets());
                Outer::V6 { bytes }
            }
            _ => return None,
        };
        Some(Backend { name, pool, address, next_hop, outer })
    }

    /// Bytes that [`Backend::write_outer`] writes: outer IP header and GRE header.
    #[inline]
    pub fn outer_len(&self) -> usize {
        match self.outer {
            Outer::V4 { .. } => 24,
            Outer::V6 { .. } => 44,
        }
    }

    /// EtherType of the outer packet.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        match self.outer {
            Outer::V4 { .. } => IPV4,
            Outer::V6 { .. } => IPV6,
        }
    }

    /// Writes outer IP header and GRE header into `to`, which has [`Backend::outer_len`] bytes.
    /// `inner_len` is the length of the inner packet (at most 65,511), `inner_ethertype` its GRE protocol.
    #[inline]
    pub fn write_outer(&self, to: &mut [u8], inner_len: u16, inner_ethertype: u16, tos: u8, ttl: u8) {
        match &self.outer {
            Outer::V4 { bytes, sum } => {
                to.copy_from_slice(bytes);
                let total = inner_len.saturating_add(24);
                to[1] = tos;
                to[2..4].copy_from_slice(&total.to_be_bytes());
                to[8] = ttl;
                let mut sum = sum + u32::from(tos) + u32::from(total) + (u32::from(ttl) << 8);
                sum = (sum & 0xffff) + (sum >> 16);
                sum = (sum & 0xffff) + (sum >> 16);
                to[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
                to[22..24].copy_from_slice(&inner_ethertype.to_be_bytes());
            }
            Outer::V6 { bytes } => {
                to.copy_from_slice(bytes);
                to[0] |= tos >> 4;
                to[1] = tos << 4;
                to[4..6].copy_from_slice(&inner_len.saturating_add(BASE_LEN as u16).to_be_bytes());
                to[7] = ttl;
                to[42..44].copy_from_slice(&inner_ethertype.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnet::packet::ipv4::{Ipv4Packet, checksum};
    use pnet::packet::ipv6::Ipv6Packet;

    fn backend(source: &str, address: &str) -> Option<Backend> {
        Backend::new("t1".into(), "boot".into(), source.parse().unwrap(), address.parse().unwrap(), None)
    }

    #[test]
    fn the_outer_ipv4_header_has_df_and_a_right_checksum_for_every_tos_and_ttl() {
        let backend = backend("10.0.1.11", "10.0.2.21").unwrap();
        for (inner, tos, ttl) in [(20, 0, 64), (1476, 0xb8, 1), (65_511, 3, 255)] {
            let mut to = [0u8; 24];
            backend.write_outer(&mut to, inner, 0x86dd, tos, ttl);
            let ip = Ipv4Packet::new(&to).unwrap();
            assert_eq!(ip.get_checksum(), checksum(&ip));
            assert_eq!((ip.get_total_length(), ip.get_flags(), ip.get_ttl()), (inner + 24, 2, ttl));
            assert_eq!(ip.get_dscp() << 2 | ip.get_ecn(), tos);
            assert_eq!(to[20..], [0, 0, 0x86, 0xdd]);
        }
    }

    #[test]
    fn the_outer_ipv6_header_carries_the_traffic_class() {
        let backend = backend("2001:db8::11", "2001:db8::21").unwrap();
        let mut to = [0u8; 44];
        backend.write_outer(&mut to, 100, 0x0800, 0xb9, 7);
        let ip = Ipv6Packet::new(&to).unwrap();
        assert_eq!((ip.get_version(), ip.get_traffic_class(), ip.get_payload_length(), ip.get_hop_limit()), (6, 0xb9, 104, 7));
        assert_eq!(ip.get_next_header().0, 47);
        assert_eq!(to[40..], [0, 0, 0x08, 0x00]);
    }

    #[test]
    fn families_must_match() {
        assert!(backend("10.0.1.11", "2001:db8::21").is_none());
    }
}
