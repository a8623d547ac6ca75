//! A backend, and the header that every packet to it gets.

use guideway_packet::wire::ethernet::{IPV4, IPV6};
use guideway_packet::wire::gre::PROTOCOL;
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
    /// Seen to be down: flows that another can go on with leave it.
    pub down: bool,
    /// Gets nothing new: drained, down or retired. What still goes there is looked at.
    pub watched: bool,
    next_hop: Option<NextHop>,
    head: Head,
    /// Longest packet that fits the way there once wrapped; 0 while the next hop is not resolved.
    room: u16,
}

/// Bytes of an Ethernet header without a tag.
const LINK: usize = 14;
/// Bytes before a packet that goes to its backend over IPv4: Ethernet, IPv4, GRE.
pub const HEAD_V4: usize = LINK + 24;
/// The same over IPv6.
pub const HEAD_V6: usize = LINK + 44;

/// What stands before a packet on its way to the backend, ready but for length, DSCP/ECN, TTL, checksum and GRE protocol.
#[derive(Clone, Debug)]
pub enum Head {
    /// Over IPv4.
    V4(HeadV4),
    /// Over IPv6.
    V6(HeadV6),
}

/// See [`Head`].
#[derive(Clone, Debug)]
pub struct HeadV4 {
    bytes: [u8; HEAD_V4],
    /// Sum of the IPv4 header as it stands in `bytes`, in words of the machine (RFC 1071 section 2 (B)).
    sum: u32,
}

/// See [`Head`].
#[derive(Clone, Debug)]
pub struct HeadV6 {
    bytes: [u8; HEAD_V6],
}

/// What is different about every packet.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Bytes of the client's packet, at most 65,491.
    pub inner_len: u16,
    /// Its EtherType, which is the GRE protocol, as it stands in a packet.
    pub inner_ethertype: [u8; 2],
    /// DSCP and ECN.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
}

impl HeadV4 {
    /// Writes the head of one packet.
    #[inline(always)]
    pub fn write(&self, to: &mut [u8; HEAD_V4], packet: Variable) {
        to[..36].copy_from_slice(&self.bytes[..36]);
        let total = packet.inner_len.wrapping_add(24).to_be_bytes();
        to[15] = packet.tos;
        to[16..18].copy_from_slice(&total);
        to[22] = packet.ttl;
        let word = |high, low| u32::from(u16::from_ne_bytes([high, low]));
        let sum = self.sum + word(0, packet.tos) + word(total[0], total[1]) + word(packet.ttl, 0);
        // Both halves added to both halves: the upper one then is their sum with the carry brought round.
        let sum = (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16;
        to[24..26].copy_from_slice(&(!sum).to_ne_bytes());
        to[36..38].copy_from_slice(&packet.inner_ethertype);
    }
}

impl HeadV6 {
    /// Writes the head of one packet.
    #[inline(always)]
    pub fn write(&self, to: &mut [u8; HEAD_V6], packet: Variable) {
        *to = self.bytes;
        to[14] = 0x60 | packet.tos >> 4;
        to[15] = packet.tos << 4;
        to[18..20].copy_from_slice(&packet.inner_len.wrapping_add(GRE_LEN).to_be_bytes());
        to[21] = packet.ttl;
        to[56..58].copy_from_slice(&packet.inner_ethertype);
    }
}

/// Bytes of a GRE header without optional fields.
const GRE_LEN: u16 = 4;

impl Backend {
    /// A backend reached from `source` (of the same family as `address`; `None` otherwise) through the interface with the link-layer address `mac`.
    pub fn new(
        name: Arc<str>,
        pool: Arc<str>,
        mac: [u8; 6],
        source: IpAddr,
        address: IpAddr,
        next_hop: Option<NextHop>,
    ) -> Option<Backend> {
        let link = |ethertype: u16| {
            let mut link = [0u8; LINK];
            link[6..12].copy_from_slice(&mac);
            link[12..].copy_from_slice(&ethertype.to_be_bytes());
            link
        };
        let head = match (source, address) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = [0u8; HEAD_V4];
                bytes[..LINK].copy_from_slice(&link(IPV4));
                let ip = &mut bytes[LINK..];
                ip[0] = 0x45;
                // Identification stays 0: with DF set it means nothing (RFC 6864 section 4.1).
                ip[6] = 0x40;
                ip[9] = PROTOCOL;
                ip[12..16].copy_from_slice(&source.octets());
                ip[16..20].copy_from_slice(&destination.octets());
                let sum = ip[..20].chunks_exact(2).map(|w| u32::from(u16::from_ne_bytes([w[0], w[1]]))).sum();
                Head::V4(HeadV4 { bytes, sum })
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut bytes = [0u8; HEAD_V6];
                bytes[..LINK].copy_from_slice(&link(IPV6));
                let ip = &mut bytes[LINK..];
                ip[0] = 0x60;
                ip[6] = PROTOCOL;
                ip[8..24].copy_from_slice(&source.octets());
                ip[24..40].copy_from_slice(&destination.octets());
                Head::V6(HeadV6 { bytes })
            }
            _ => return None,
        };
        let mut backend = Backend { name, pool, address, down: false, watched: false, next_hop: None, head, room: 0 };
        backend.set_next_hop(next_hop);
        Some(backend)
    }

    /// `None` while the kernel has not resolved it.
    #[inline]
    pub fn next_hop(&self) -> Option<NextHop> {
        self.next_hop
    }

    /// Says where frames to the backend go.
    pub fn set_next_hop(&mut self, next_hop: Option<NextHop>) {
        self.next_hop = next_hop;
        let overhead = self.outer_len() as u16;
        self.room = next_hop.map_or(0, |hop| hop.mtu.saturating_sub(overhead));
        let link = match &mut self.head {
            Head::V4(head) => &mut head.bytes[..6],
            Head::V6(head) => &mut head.bytes[..6],
        };
        link.copy_from_slice(&next_hop.map_or([0; 6], |hop| hop.mac));
    }

    /// Bytes of the longest packet that fits the way to the backend once wrapped; 0 while its next hop is not resolved.
    #[inline]
    pub fn room(&self) -> u16 {
        self.room
    }

    /// What stands before a packet to this backend.
    #[inline]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes of outer IP header and GRE header.
    #[inline]
    pub fn outer_len(&self) -> usize {
        match self.head {
            Head::V4(_) => HEAD_V4 - LINK,
            Head::V6(_) => HEAD_V6 - LINK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnet::packet::ipv4::{Ipv4Packet, checksum};
    use pnet::packet::ipv6::Ipv6Packet;

    fn backend(source: &str, address: &str) -> Option<Backend> {
        Backend::new("t1".into(), "boot".into(), [2, 0, 0, 0, 0, 9], source.parse().unwrap(), address.parse().unwrap(), None)
    }

    #[test]
    fn the_outer_ipv4_header_has_df_and_a_right_checksum_for_every_tos_and_ttl() {
        let backend = backend("10.0.1.11", "10.0.2.21").unwrap();
        let Head::V4(head) = backend.head() else { panic!("the families are IPv4") };
        for (inner_len, tos, ttl) in [(20, 0, 64), (1476, 0xb8, 1), (65_491, 3, 255)] {
            let mut to = [0u8; HEAD_V4];
            head.write(&mut to, Variable { inner_len, inner_ethertype: IPV6.to_be_bytes(), tos, ttl });
            assert_eq!(to[..14], [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9, 0x08, 0x00]);
            let ip = Ipv4Packet::new(&to[14..]).unwrap();
            assert_eq!(ip.get_checksum(), checksum(&ip));
            assert_eq!((ip.get_total_length(), ip.get_flags(), ip.get_ttl()), (inner_len + 24, 2, ttl));
            assert_eq!(ip.get_dscp() << 2 | ip.get_ecn(), tos);
            assert_eq!(to[34..], [0, 0, 0x86, 0xdd]);
        }
    }

    #[test]
    fn the_outer_ipv6_header_carries_the_traffic_class() {
        let backend = backend("2001:db8::11", "2001:db8::21").unwrap();
        let Head::V6(head) = backend.head() else { panic!("the families are IPv6") };
        let mut to = [0u8; HEAD_V6];
        head.write(&mut to, Variable { inner_len: 100, inner_ethertype: IPV4.to_be_bytes(), tos: 0xb9, ttl: 7 });
        assert_eq!(to[12..14], [0x86, 0xdd]);
        let ip = Ipv6Packet::new(&to[14..]).unwrap();
        assert_eq!((ip.get_version(), ip.get_traffic_class(), ip.get_payload_length(), ip.get_hop_limit()), (6, 0xb9, 104, 7));
        assert_eq!(ip.get_next_header().0, 47);
        assert_eq!(to[54..], [0, 0, 0x08, 0x00]);
    }

    #[test]
    fn families_must_match() {
        assert!(backend("10.0.1.11", "2001:db8::21").is_none());
    }
}
