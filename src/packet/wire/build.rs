//! Builds packets from the inside out: for tests, benchmarks, the lab's router and load tools. Allocates; not for the packet path.

use super::checksum::{checksum, fold, sum};
use super::ethernet::{IPV4, IPV6};
use super::gre::PROTOCOL as GRE;
use super::ip::{ICMP, ICMPV6};
use super::l4::{TCP, UDP};
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
    let len = (payload.len() + 8) as u16;
    let mut l4 = Vec::with_capacity(payload.len() + 8);
    l4.extend(source.port().to_be_bytes());
    l4.extend(destination.port().to_be_bytes());
    l4.extend(len.to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    let check = transport_checksum(source.ip(), destination.ip(), UDP, &l4);
    // "An all zero transmitted checksum value means that the transmitter generated no checksum" (RFC 768).
    l4[6..8].copy_from_slice(&if check == 0 { 0xffff } else { check }.to_be_bytes());
    ip(source.ip(), destination.ip(), UDP, &l4)
}

/// A TCP segment without options, with these flags (0x02 is SYN).
pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8, payload: &[u8]) -> Packet {
    let mut l4 = vec![0; 20];
    l4[..2].copy_from_slice(&source.port().to_be_bytes());
    l4[2..4].copy_from_slice(&destination.port().to_be_bytes());
    (l4[12], l4[13]) = (5 << 4, flags);
    l4.extend(payload);
    let check = transport_checksum(source.ip(), destination.ip(), TCP, &l4);
    l4[16..18].copy_from_slice(&check.to_be_bytes());
    ip(source.ip(), destination.ip(), TCP, &l4)
}

/// An ICMP or ICMPv6 message by the family of the addresses. `rest` is what follows the checksum.
pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Packet {
    let mut l4 = vec![kind, code, 0, 0];
    l4.extend(rest);
    let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
    // ICMPv6 covers a pseudo-header, ICMP does not (RFC 4443 section 2.3).
    let check = if source.is_ipv4() { checksum(&l4) } else { transport_checksum(source, destination, protocol, &l4) };
    l4[2..4].copy_from_slice(&check.to_be_bytes());
    ip(source, destination, protocol, &l4)
}

/// An IP packet of any protocol; TTL 64, not fragmented, DF clear. Both addresses are of one family; the destination's counts.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Packet {
    let mut bytes;
    match destination {
        IpAddr::V4(destination) => {
            bytes = vec![0; 20];
            bytes[0] = 0x45;
            bytes[2..4].copy_from_slice(&((payload.len() + 20) as u16).to_be_bytes());
            (bytes[8], bytes[9]) = (64, protocol);
            if let IpAddr::V4(source) = source {
                bytes[12..16].copy_from_slice(&source.octets());
            }
            bytes[16..20].copy_from_slice(&destination.octets());
        }
        IpAddr::V6(destination) => {
            bytes = vec![0; 40];
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            (bytes[6], bytes[7]) = (protocol, 64);
            if let IpAddr::V6(source) = source {
                bytes[8..24].copy_from_slice(&source.octets());
            }
            bytes[24..40].copy_from_slice(&destination.octets());
        }
    }
    bytes.extend(payload);
    Packet { bytes }.fixed()
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
        self.bytes[0] >> 4 == 4
    }

    /// With the IPv4 header checksum made right again.
    pub fn fixed(mut self) -> Packet {
        if self.is_v4() {
            let header = usize::from(self.bytes[0] & 15) * 4;
            self.bytes[10..12].fill(0);
            let check = checksum(&self.bytes[..header]);
            self.bytes[10..12].copy_from_slice(&check.to_be_bytes());
        }
        self
    }

    /// With this TTL or hop limit.
    pub fn ttl(mut self, ttl: u8) -> Packet {
        let at = if self.is_v4() { 8 } else { 7 };
        self.bytes[at] = ttl;
        self.fixed()
    }

    /// With this TOS byte or traffic class.
    pub fn tos(mut self, tos: u8) -> Packet {
        if self.is_v4() {
            self.bytes[1] = tos;
        } else {
            self.bytes[0] = 0x60 | tos >> 4;
            self.bytes[1] = tos << 4 | self.bytes[1] & 15;
        }
        self.fixed()
    }

    /// IPv4 with Don't Fragment set.
    pub fn df(mut self) -> Packet {
        if self.is_v4() {
            self.bytes[6] |= 0x40;
        }
        self.fixed()
    }

    /// IPv4 with these options (a multiple of 4 bytes, at most 40).
    pub fn options(mut self, options: &[u8]) -> Packet {
        if self.is_v4() {
            self.bytes.splice(20..20, options.iter().copied());
            self.bytes[0] = 0x40 | (5 + options.len() / 4) as u8;
            let len = self.bytes.len() as u16;
            self.bytes[2..4].copy_from_slice(&len.to_be_bytes());
        }
        self.fixed()
    }

    /// IPv6 with an extension header of this kind before what is there; `body` is what follows its next-header byte.
    pub fn extension(mut self, kind: u8, body: &[u8]) -> Packet {
        if !self.is_v4() {
            let next = std::mem::replace(&mut self.bytes[6], kind);
            self.bytes.splice(40..40, std::iter::once(next).chain(body.iter().copied()));
            let len = (self.bytes.len() - 40) as u16;
            self.bytes[4..6].copy_from_slice(&len.to_be_bytes());
        }
        self
    }

    /// The pieces of the packet with at most `size` bytes of payload each (rounded down to a multiple of 8), under this identification.
    pub fn fragments(&self, id: u32, size: usize) -> Vec<Packet> {
        let size = (size & !7).max(8);
        let header = if self.is_v4() { usize::from(self.bytes[0] & 15) * 4 } else { 40 };
        let payload = &self.bytes[header..];
        let pieces = payload.chunks(size).enumerate().map(|(index, piece)| {
            let (offset, more) = (index * size, (index + 1) * size < payload.len());
            let mut bytes = self.bytes[..header].to_vec();
            if self.is_v4() {
                bytes[2..4].copy_from_slice(&((header + piece.len()) as u16).to_be_bytes());
                bytes[4..6].copy_from_slice(&(id as u16).to_be_bytes());
                bytes[6..8].copy_from_slice(&((offset / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
            } else {
                let next = std::mem::replace(&mut bytes[6], 44);
                bytes[4..6].copy_from_slice(&((8 + piece.len()) as u16).to_be_bytes());
                bytes.extend([next, 0]);
                bytes.extend((offset as u16 | u16::from(more)).to_be_bytes());
                bytes.extend(id.to_be_bytes());
            }
            bytes.extend(piece);
            Packet { bytes }.fixed()
        });
        pieces.collect()
    }

    /// The packet in GRE from `source` to `destination`.
    pub fn gre(&self, source: IpAddr, destination: IpAddr) -> Packet {
        self.gre_with(source, destination, GreFields::default())
    }

    /// The packet in GRE with optional fields.
    pub fn gre_with(&self, source: IpAddr, destination: IpAddr, fields: GreFields) -> Packet {
        let flags = u8::from(fields.checksum) << 7 | u8::from(fields.key.is_some()) << 5 | u8::from(fields.sequence.is_some()) << 4;
        let mut gre = vec![flags, 0];
        gre.extend(self.ethertype().to_be_bytes());
        if fields.checksum {
            gre.extend([0; 4]);
        }
        gre.extend(fields.key.iter().chain(&fields.sequence).flat_map(|field| field.to_be_bytes()));
        gre.extend(&self.bytes);
        if fields.checksum {
            let check = checksum(&gre);
            gre[4..6].copy_from_slice(&check.to_be_bytes());
        }
        ip(source, destination, GRE, &gre)
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
        frame.extend(0x8100u16.to_be_bytes());
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
