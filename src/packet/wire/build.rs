//! Builds packets from the inside out: for tests, benchmarks, the lab's router and load tools. Allocates; not for the packet path.

use super::checksum::{checksum, fold, sum};
use super::layout::ethernet::{IPV4, IPV6, VLAN};
use super::layout::protocol::{FRAGMENT, GRE, ICMP, ICMPV6, TCP, UDP};
use super::layout::{gre, icmp, ipv4, ipv6, ports, tcp, udp};
use super::write::{ip_header, ip_header_len, ipv4_checksum, ipv6_version_class_label, put16};
use std::net::{IpAddr, SocketAddr};

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    bytes: Vec<u8>,
}

/// The optional fields of a GRE header (RFC 2784, RFC 2890).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GreFields {
    /// Checksum over header and payload.
    pub checksum: bool,
    /// Key.
    pub key: Option<u32>,
    /// Sequence number.
    pub sequence: Option<u32>,
}

/// A UDP datagram.
pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Packet {
    let mut l4 = vec![0; udp::LEN];
    put16(&mut l4, ports::SOURCE, source.port());
    put16(&mut l4, ports::DESTINATION, destination.port());
    put16(&mut l4, udp::LENGTH, (udp::LEN + payload.len()) as u16);
    l4.extend(payload);
    let check = transport_checksum(source.ip(), destination.ip(), UDP, &l4);
    // "An all zero transmitted checksum value means that the transmitter generated no checksum" (RFC 768).
    put16(&mut l4, udp::CHECKSUM, if check == 0 { 0xffff } else { check });
    ip(source.ip(), destination.ip(), UDP, &l4)
}

/// A TCP segment without options, with these flags (0x02 is SYN).
pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8, payload: &[u8]) -> Packet {
    let mut l4 = vec![0; tcp::LEN];
    put16(&mut l4, ports::SOURCE, source.port());
    put16(&mut l4, ports::DESTINATION, destination.port());
    l4[tcp::DATA_OFFSET] = (tcp::LEN as u8 / 4) << 4;
    l4[tcp::FLAGS] = flags;
    l4.extend(payload);
    let check = transport_checksum(source.ip(), destination.ip(), TCP, &l4);
    put16(&mut l4, tcp::CHECKSUM, check);
    ip(source.ip(), destination.ip(), TCP, &l4)
}

/// An ICMP or ICMPv6 message, by the family of the addresses. `rest` follows the checksum.
pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Packet {
    let mut l4 = vec![kind, code, 0, 0];
    l4.extend(rest);
    let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
    // ICMPv6 covers a pseudo-header, ICMP does not (RFC 4443 section 2.3).
    let check = if source.is_ipv4() { checksum(&l4) } else { transport_checksum(source, destination, protocol, &l4) };
    put16(&mut l4, icmp::CHECKSUM, check);
    ip(source, destination, protocol, &l4)
}

/// An IP packet of any protocol: TTL 64, not fragmented, DF clear. Both addresses are of one family; the destination's counts.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Packet {
    let mut bytes = vec![0; ip_header_len(destination)];
    ip_header(&mut bytes, source, destination, protocol, 64, 0, payload.len());
    bytes.extend(payload);
    Packet { bytes }
}

/// Checksum of UDP, TCP and ICMPv6: over the pseudo-header and `l4`, whose checksum field is zero.
pub fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, l4: &[u8]) -> u16 {
    let address = |a| match a {
        IpAddr::V4(a) => u64::from(sum(&a.octets())),
        IpAddr::V6(a) => u64::from(sum(&a.octets())),
    };
    !fold(address(source) + address(destination) + u64::from(protocol) + l4.len() as u64 + u64::from(sum(l4)))
}

impl Packet {
    /// The packet from its IP header on.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// EtherType of the packet.
    pub fn ethertype(&self) -> u16 {
        if self.is_v4() { IPV4 } else { IPV6 }
    }

    fn is_v4(&self) -> bool {
        self.bytes[ipv4::VERSION_IHL] >> 4 == ipv4::VERSION
    }

    /// Bytes of the IPv4 header with its options, or of the IPv6 header.
    fn header_len(&self) -> usize {
        if self.is_v4() { usize::from(self.bytes[ipv4::VERSION_IHL] & ipv4::IHL_MASK) * 4 } else { ipv6::LEN }
    }

    /// With the length field set to what the packet now has.
    fn with_length(mut self) -> Packet {
        let len = self.bytes.len();
        if self.is_v4() {
            put16(&mut self.bytes, ipv4::TOTAL_LEN, len as u16);
        } else {
            put16(&mut self.bytes, ipv6::PAYLOAD_LEN, (len - ipv6::LEN) as u16);
        }
        self.with_checksum()
    }

    /// With the IPv4 header checksum made right again.
    pub fn with_checksum(mut self) -> Packet {
        if self.is_v4() {
            let header = self.header_len();
            ipv4_checksum(&mut self.bytes[..header]);
        }
        self
    }

    /// With this TTL or hop limit.
    pub fn ttl(mut self, ttl: u8) -> Packet {
        let at = if self.is_v4() { ipv4::TTL } else { ipv6::HOP_LIMIT };
        self.bytes[at] = ttl;
        self.with_checksum()
    }

    /// With this TOS byte or traffic class.
    pub fn tos(mut self, tos: u8) -> Packet {
        if self.is_v4() {
            self.bytes[ipv4::TOS] = tos;
        } else {
            ipv6_version_class_label(&mut self.bytes, 0, tos, 0);
        }
        self.with_checksum()
    }

    /// IPv4 with Don't Fragment set.
    pub fn df(mut self) -> Packet {
        if self.is_v4() {
            self.bytes[ipv4::FLAGS_AND_OFFSET] |= (ipv4::DONT_FRAGMENT >> 8) as u8;
        }
        self.with_checksum()
    }

    /// IPv4 with these options (a multiple of 4 bytes, at most 40).
    pub fn options(mut self, options: &[u8]) -> Packet {
        if self.is_v4() {
            self.bytes.splice(ipv4::LEN..ipv4::LEN, options.iter().copied());
            self.bytes[ipv4::VERSION_IHL] = ipv4::PLAIN + (options.len() / 4) as u8;
        }
        self.with_length()
    }

    /// IPv6 with an extension header of this kind before what is there; `body` follows its next-header byte.
    pub fn extension(mut self, kind: u8, body: &[u8]) -> Packet {
        if !self.is_v4() {
            let next = std::mem::replace(&mut self.bytes[ipv6::NEXT_HEADER], kind);
            self.bytes.splice(ipv6::LEN..ipv6::LEN, std::iter::once(next).chain(body.iter().copied()));
        }
        self.with_length()
    }

    /// The fragments of the packet with at most `size` bytes of payload each (rounded down to a multiple of 8), under this identification.
    pub fn fragments(&self, id: u32, size: usize) -> Vec<Packet> {
        let size = (size & !7).max(8);
        let header = self.header_len();
        let payload = &self.bytes[header..];
        let pieces = payload.chunks(size).enumerate().map(|(index, piece)| {
            let (offset, more) = (index * size, (index + 1) * size < payload.len());
            let mut bytes = self.bytes[..header].to_vec();
            if self.is_v4() {
                put16(&mut bytes, ipv4::IDENTIFICATION, id as u16);
                put16(&mut bytes, ipv4::FLAGS_AND_OFFSET, (offset / 8) as u16 | if more { ipv4::MORE_FRAGMENTS } else { 0 });
            } else {
                let next = std::mem::replace(&mut bytes[ipv6::NEXT_HEADER], FRAGMENT);
                bytes.extend([next, 0]);
                bytes.extend((offset as u16 | if more { ipv6::extension::MORE_FRAGMENTS } else { 0 }).to_be_bytes());
                bytes.extend(id.to_be_bytes());
            }
            bytes.extend(piece);
            Packet { bytes }.with_length()
        });
        pieces.collect()
    }

    /// The packet in GRE from `source` to `destination`.
    pub fn gre(&self, source: IpAddr, destination: IpAddr) -> Packet {
        self.gre_with(source, destination, GreFields::default())
    }

    /// The packet in GRE with optional fields.
    pub fn gre_with(&self, source: IpAddr, destination: IpAddr, fields: GreFields) -> Packet {
        let mut bytes = vec![0; gre::LEN];
        put16(&mut bytes, gre::PROTOCOL, self.ethertype());
        let optional =
            [(gre::HAS_CHECKSUM, fields.checksum.then_some(0)), (gre::HAS_KEY, fields.key), (gre::HAS_SEQUENCE, fields.sequence)];
        for (flag, field) in optional.into_iter().filter_map(|(flag, field)| Some((flag, field?))) {
            bytes[gre::FLAGS] |= flag;
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend(&self.bytes);
        if fields.checksum {
            let check = checksum(&bytes);
            put16(&mut bytes, gre::CHECKSUM, check);
        }
        ip(source, destination, GRE, &bytes)
    }

    /// The packet in an Ethernet frame.
    pub fn frame(&self, source: [u8; 6], destination: [u8; 6]) -> Vec<u8> {
        let mut frame = [destination, source].concat();
        frame.extend(self.ethertype().to_be_bytes());
        frame.extend(&self.bytes);
        frame
    }

    /// The packet in an Ethernet frame with a VLAN tag.
    pub fn tagged_frame(&self, source: [u8; 6], destination: [u8; 6], vlan: u16) -> Vec<u8> {
        let mut frame = [destination, source].concat();
        frame.extend(VLAN.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
        frame.extend(self.ethertype().to_be_bytes());
        frame.extend(&self.bytes);
        frame
    }

    /// Bytes of the packet, to be spoilt by a test.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}
