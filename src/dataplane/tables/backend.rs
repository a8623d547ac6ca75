//! A backend, and the header that every packet to it gets.

use guideway_hash::ClientHasher;
use guideway_packet::frame::{OWN_INTERFACE, Output};
use guideway_packet::wire::layout::protocol::GRE;
use guideway_packet::wire::layout::{ethernet, gre, ipv4, ipv6};
use guideway_packet::wire::write::{ip_template, ipv6_version_class_label, put16};
use ipnet::Ipv4Net;
use std::net::IpAddr;
use std::sync::Arc;

/// Number of a backend. Stable over snapshots; not given to another backend while a flow table may still hold it.
pub type BackendId = u16;

/// No backend has this number.
pub const NO_BACKEND: BackendId = BackendId::MAX;

/// The next hop on the link towards a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Link-layer address of the backend or of the gateway towards it.
    pub mac: [u8; 6],
    /// MTU of the route in bytes, at most that of the interface.
    pub mtu: u16,
    /// The interface towards it, where it is not the one that packets come from.
    pub output: Option<OutputInterface>,
}

/// An interface besides the one that packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputInterface {
    /// The kernel's index of it; never 0.
    pub index: Output,
    /// Its own link-layer address.
    pub mac: [u8; 6],
}

/// A server behind a VIP.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Name of its pool.
    pub pool: Arc<str>,
    /// Destination of its GRE.
    pub address: IpAddr,
    /// It is down: flows that another backend can continue leave it.
    pub down: bool,
    /// It gets nothing new: drained, down or retired. The flows that still run on it are recorded.
    pub draining: bool,
    next_hop: Option<NextHop>,
    head: EncapHeader,
    /// Longest packet that fits the way there once wrapped; 0 while the next hop is not resolved.
    inner_mtu: u16,
    output: Output,
    /// Link-layer address of the interface that packets come from.
    mac: [u8; 6],
}

/// Bytes before a packet that goes to its backend over IPv4: Ethernet, IPv4, GRE.
pub const ENCAP_LEN_V4: usize = GRE_V4 + gre::LEN;
/// The same over IPv6.
pub const ENCAP_LEN_V6: usize = GRE_V6 + gre::LEN;

/// Offset of the IP header.
const IP: usize = ethernet::LEN;
/// Offset of the GRE header behind IPv4.
const GRE_V4: usize = IP + ipv4::LEN;
/// The same behind IPv6.
const GRE_V6: usize = IP + ipv6::LEN;

/// The headers before a packet on its way to the backend, complete but for length, DSCP/ECN, TTL, checksum, GRE protocol, and what differs by client, so that
/// routers and network cards can spread the packets to one backend: IPv6's flow label (RFC 6438 section 3), optionally IPv4's source.
#[derive(Clone, Debug)]
pub enum EncapHeader {
    /// Over IPv4 from one address.
    V4(EncapHeaderV4),
    /// Over IPv4 from the addresses of a prefix.
    V4Sources(EncapHeaderV4Sources),
    /// Over IPv6.
    V6(EncapHeaderV6),
}

/// See [`EncapHeader`].
#[derive(Clone, Debug)]
pub struct EncapHeaderV4 {
    bytes: [u8; ENCAP_LEN_V4],
    /// Sum of the IPv4 header as it stands in `bytes`, in words of the machine (RFC 1071 section 2 (B)).
    sum: u32,
}

/// See [`EncapHeader`].
#[derive(Clone, Debug)]
pub struct EncapHeaderV4Sources {
    /// With the prefix as source.
    header: EncapHeaderV4,
    /// The bits of the source that the client chooses.
    hosts: u32,
    hasher: ClientHasher,
}

/// See [`EncapHeader`].
#[derive(Clone, Debug)]
pub struct EncapHeaderV6 {
    bytes: [u8; ENCAP_LEN_V6],
    hasher: ClientHasher,
}

/// The fields that differ from packet to packet.
#[derive(Clone, Copy, Debug)]
pub struct EncapFields {
    /// Bytes of the client's packet, at most 65,491.
    pub inner_len: u16,
    /// Its EtherType, which is the GRE protocol, in network byte order.
    pub inner_ethertype: [u8; 2],
    /// DSCP and ECN.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
}

impl EncapHeaderV4 {
    /// Writes the headers of one packet.
    #[inline(always)]
    pub fn write(&self, to: &mut [u8; ENCAP_LEN_V4], packet: EncapFields) {
        self.write_from(to, packet, 0);
    }

    /// The same from a source with these bits more.
    #[inline(always)]
    fn write_from(&self, to: &mut [u8; ENCAP_LEN_V4], packet: EncapFields, host: u32) {
        const PROTOCOL: usize = GRE_V4 + gre::PROTOCOL;
        const SOURCE: usize = IP + ipv4::SOURCE;
        to[..PROTOCOL].copy_from_slice(&self.bytes[..PROTOCOL]);
        for (byte, more) in to[SOURCE..SOURCE + 4].iter_mut().zip(host.to_be_bytes()) {
            *byte |= more;
        }
        let total = packet.inner_len.wrapping_add((ipv4::LEN + gre::LEN) as u16);
        to[IP + ipv4::TOS] = packet.tos;
        put16(to, IP + ipv4::TOTAL_LEN, total);
        to[IP + ipv4::TTL] = packet.ttl;
        // Each field in the half of a 16-bit word in which it stands.
        let word = |high, low| u32::from(u16::from_ne_bytes([high, low]));
        let host = host.to_be();
        let sum = self.sum + word(0, packet.tos) + u32::from(total.to_be()) + word(packet.ttl, 0) + (host & 0xffff) + (host >> 16);
        // Both halves added to both halves: the upper one is then their sum with the carry added.
        let sum = (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16;
        put16(to, IP + ipv4::CHECKSUM, (!sum).to_be());
        to[PROTOCOL..].copy_from_slice(&packet.inner_ethertype);
    }
}

impl EncapHeaderV4Sources {
    /// The hash by which clients are told apart where there is no hash of the flow.
    #[inline(always)]
    pub fn hasher(&self) -> &ClientHasher {
        &self.hasher
    }

    /// Writes the headers of one packet. `entropy` is what they shall differ by.
    #[inline(always)]
    pub fn write(&self, to: &mut [u8; ENCAP_LEN_V4], packet: EncapFields, entropy: u64) {
        self.header.write_from(to, packet, entropy as u32 & self.hosts);
    }
}

impl EncapHeaderV6 {
    /// The hash by which clients are told apart where there is no hash of the flow.
    #[inline(always)]
    pub fn hasher(&self) -> &ClientHasher {
        &self.hasher
    }

    /// Writes the headers of one packet. `entropy` is what they shall differ by.
    #[inline(always)]
    pub fn write(&self, to: &mut [u8; ENCAP_LEN_V6], packet: EncapFields, entropy: u64) {
        *to = self.bytes;
        // The lower bits: the upper ones name the row of the Maglev table, in which all flows of a backend are alike.
        let label = entropy as u32 & ((1 << ipv6::FLOW_LABEL_BITS) - 1);
        ipv6_version_class_label(to, IP, packet.tos, label);
        put16(to, IP + ipv6::PAYLOAD_LEN, packet.inner_len.wrapping_add(gre::LEN as u16));
        to[IP + ipv6::HOP_LIMIT] = packet.ttl;
        to[GRE_V6 + gre::PROTOCOL..].copy_from_slice(&packet.inner_ethertype);
    }
}

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
        let write = |bytes: &mut [u8], ethertype: u16, gre: usize| {
            put16(bytes, ethernet::ETHERTYPE, ethertype);
            ip_template(&mut bytes[IP..gre], source, address, GRE, 0, 0);
        };
        let head = match (source, address) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let mut bytes = [0u8; ENCAP_LEN_V4];
                write(&mut bytes, ethernet::IPV4, GRE_V4);
                // Identification stays 0: with DF set it means nothing (RFC 6864 section 4.1).
                put16(&mut bytes, IP + ipv4::FLAGS_AND_OFFSET, ipv4::DONT_FRAGMENT);
                EncapHeader::V4(EncapHeaderV4 { bytes, sum: header_sum(&bytes) })
            }
            (IpAddr::V6(_), IpAddr::V6(_)) => {
                let mut bytes = [0u8; ENCAP_LEN_V6];
                write(&mut bytes, ethernet::IPV6, GRE_V6);
                EncapHeader::V6(EncapHeaderV6 { bytes, hasher: ClientHasher::default() })
            }
            _ => return None,
        };
        let mut backend =
            Backend { name, pool, address, down: false, draining: false, next_hop: None, head, inner_mtu: 0, output: OWN_INTERFACE, mac };
        backend.set_next_hop(next_hop);
        Some(backend)
    }

    /// Lets the outer headers differ by client: IPv6 by the flow label, IPv4 by the source if `sources` has addresses for it.
    pub fn spread(&mut self, hasher: ClientHasher, sources: Option<Ipv4Net>) {
        match (&mut self.head, sources) {
            (EncapHeader::V6(head), _) => head.hasher = hasher,
            (EncapHeader::V4(header), Some(sources)) => {
                let mut header = header.clone();
                header.bytes[IP + ipv4::SOURCE..IP + ipv4::SOURCE + 4].copy_from_slice(&sources.network().octets());
                header.sum = header_sum(&header.bytes);
                self.head = EncapHeader::V4Sources(EncapHeaderV4Sources { header, hosts: sources.hostmask().to_bits(), hasher });
            }
            (EncapHeader::V4(_) | EncapHeader::V4Sources(_), _) => {}
        }
    }

    /// `None` while the kernel has not resolved it.
    #[inline]
    pub fn next_hop(&self) -> Option<NextHop> {
        self.next_hop
    }

    /// Sets the next hop.
    pub fn set_next_hop(&mut self, next_hop: Option<NextHop>) {
        self.next_hop = next_hop;
        let overhead = self.outer_len() as u16;
        self.inner_mtu = next_hop.map_or(0, |hop| hop.mtu.saturating_sub(overhead));
        let link = match &mut self.head {
            EncapHeader::V4(head) => &mut head.bytes[..],
            EncapHeader::V4Sources(head) => &mut head.header.bytes[..],
            EncapHeader::V6(head) => &mut head.bytes[..],
        };
        let output = next_hop.and_then(|hop| hop.output);
        self.output = output.map_or(OWN_INTERFACE, |output| output.index);
        link[ethernet::DESTINATION..ethernet::SOURCE].copy_from_slice(&next_hop.map_or([0; 6], |hop| hop.mac));
        link[ethernet::SOURCE..ethernet::ETHERTYPE].copy_from_slice(&output.map_or(self.mac, |output| output.mac));
    }

    /// The interface that packets to the backend leave by.
    #[inline]
    pub fn output(&self) -> Output {
        self.output
    }

    /// Bytes of the longest packet that fits the way to the backend once wrapped; 0 while its next hop is not resolved.
    #[inline]
    pub fn inner_mtu(&self) -> u16 {
        self.inner_mtu
    }

    /// The headers before a packet to this backend.
    #[inline]
    pub fn head(&self) -> &EncapHeader {
        &self.head
    }

    /// Bytes of outer IP header and GRE header.
    #[inline]
    pub fn outer_len(&self) -> usize {
        match self.head {
            EncapHeader::V4(_) | EncapHeader::V4Sources(_) => ENCAP_LEN_V4 - IP,
            EncapHeader::V6(_) => ENCAP_LEN_V6 - IP,
        }
    }
}

fn header_sum(bytes: &[u8; ENCAP_LEN_V4]) -> u32 {
    bytes[IP..GRE_V4].chunks_exact(2).map(|w| u32::from(u16::from_ne_bytes([w[0], w[1]]))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::layout::ethernet::{IPV4, IPV6};
    use pnet_packet::ipv4::{Ipv4Packet, checksum};
    use pnet_packet::ipv6::Ipv6Packet;

    fn backend(source: &str, address: &str) -> Option<Backend> {
        Backend::new("t1".into(), "boot".into(), [2, 0, 0, 0, 0, 9], source.parse().unwrap(), address.parse().unwrap(), None)
    }

    #[test]
    fn the_outer_ipv4_header_has_df_and_a_right_checksum_for_every_tos_and_ttl() {
        let backend = backend("10.0.1.11", "10.0.2.21").unwrap();
        let EncapHeader::V4(head) = backend.head() else { panic!("the families are IPv4") };
        for (inner_len, tos, ttl) in [(20, 0, 64), (1476, 0xb8, 1), (65_491, 3, 255)] {
            let mut to = [0u8; ENCAP_LEN_V4];
            head.write(&mut to, EncapFields { inner_len, inner_ethertype: IPV6.to_be_bytes(), tos, ttl });
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
        let EncapHeader::V6(head) = backend.head() else { panic!("the families are IPv6") };
        let mut to = [0u8; ENCAP_LEN_V6];
        head.write(&mut to, EncapFields { inner_len: 100, inner_ethertype: IPV4.to_be_bytes(), tos: 0xb9, ttl: 7 }, 0x0000_0000_123a_bcde);
        assert_eq!(to[12..14], [0x86, 0xdd]);
        let ip = Ipv6Packet::new(&to[14..]).unwrap();
        assert_eq!((ip.get_version(), ip.get_traffic_class(), ip.get_payload_length(), ip.get_hop_limit()), (6, 0xb9, 104, 7));
        assert_eq!((ip.get_next_header().0, ip.get_flow_label()), (47, 0xabcde));
        assert_eq!(to[54..], [0, 0, 0x08, 0x00]);
    }

    #[test]
    fn the_outer_source_is_one_of_the_prefix_and_the_checksum_stays_right() {
        for (prefix, hosts) in [("10.0.1.16/28", 0xf), ("10.0.0.0/16", 0xffff), ("10.255.255.254/31", 1)] {
            let prefix: Ipv4Net = prefix.parse().unwrap();
            let mut backend = backend("10.0.1.11", "10.0.2.21").unwrap();
            backend.spread(ClientHasher::new([7; 16]), Some(prefix));
            backend.set_next_hop(Some(NextHop { mac: [2, 0, 0, 0, 0, 8], mtu: 1500, output: None }));
            let EncapHeader::V4Sources(head) = backend.head() else { panic!("there is a prefix") };
            for client in [0, 5, 0x1234_5678_9abc_def0, u64::MAX] {
                let mut to = [0u8; ENCAP_LEN_V4];
                head.write(&mut to, EncapFields { inner_len: 100, inner_ethertype: IPV4.to_be_bytes(), tos: 0xb8, ttl: 7 }, client);
                let ip = Ipv4Packet::new(&to[14..]).unwrap();
                assert_eq!(ip.get_checksum(), checksum(&ip), "{prefix} {client:#x}");
                assert_eq!(ip.get_source().to_bits(), prefix.network().to_bits() | client as u32 & hosts);
                assert_eq!((&to[..6], ip.get_destination().octets()), (&[2, 0, 0, 0, 0, 8][..], [10, 0, 2, 21]));
            }
            assert_eq!((backend.outer_len(), backend.inner_mtu()), (24, 1476));
        }
    }

    #[test]
    fn families_must_match() {
        assert!(backend("10.0.1.11", "2001:db8::21").is_none());
    }
}
