//! Takes apart what a director sent, without the code that made it, and checks every header on the way.

use super::language::DIRECTOR_MAC;
use std::net::IpAddr;

/// An IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    pub df: bool,
    /// Bytes before what follows; extension headers follow.
    pub header: usize,
    /// Identification, offset in bytes and whether more follow; zeros for IPv6.
    pub piece: (u16, usize, bool),
}

/// A frame that came out.
#[derive(Clone, Debug)]
pub struct Output {
    pub to: [u8; 6],
    pub vlan: Option<u16>,
    pub outer: Ip,
    pub what: Payload,
}

#[derive(Clone, Debug)]
pub enum Payload {
    /// GRE to a backend, with this packet in it.
    Gre(Vec<u8>),
    /// ICMP to a client: type, code, what follows the checksum.
    Icmp(u8, u8, Vec<u8>),
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// One's complement sum (RFC 1071), the plain way.
fn sum(bytes: &[u8]) -> u32 {
    let mut sum = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn ensure(good: bool, what: &str) -> Result<(), String> {
    if good { Ok(()) } else { Err(what.to_owned()) }
}

/// Reads the header at the start of `packet`, which must end where the header says.
pub fn ip(packet: &[u8]) -> Result<Ip, String> {
    match packet.first().map(|b| b >> 4) {
        Some(4) => {
            let header = usize::from(packet[0] & 15) * 4;
            ensure(header >= 20 && packet.len() >= header, "IPv4 header length")?;
            ensure(usize::from(word(packet, 2)) == packet.len(), "IPv4 total length")?;
            ensure(sum(&packet[..header]) == 0xffff, "IPv4 header checksum")?;
            let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
            let flags = word(packet, 6);
            Ok(Ip {
                source: address(12),
                destination: address(16),
                protocol: packet[9],
                ttl: packet[8],
                tos: packet[1],
                df: flags & 0x4000 != 0,
                header,
                piece: (word(packet, 4), usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0),
            })
        }
        Some(6) => {
            ensure(packet.len() >= 40 && usize::from(word(packet, 4)) + 40 == packet.len(), "IPv6 payload length")?;
            let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
            Ok(Ip {
                source: address(8),
                destination: address(24),
                protocol: packet[6],
                ttl: packet[7],
                tos: packet[0] << 4 | packet[1] >> 4,
                df: true,
                header: 40,
                piece: (0, 0, false),
            })
        }
        _ => Err("IP version".to_owned()),
    }
}

/// Reads a frame from its Ethernet header on.
pub fn output(frame: &[u8]) -> Result<Output, String> {
    ensure(frame.len() > 18, "frame length")?;
    ensure(frame[6..12] == DIRECTOR_MAC, "link-layer source")?;
    let vlan = matches!(word(frame, 12), 0x8100 | 0x88a8).then(|| word(frame, 14) & 0xfff);
    let link = if vlan.is_some() { 18 } else { 14 };
    let packet = &frame[link..];
    let outer = ip(packet)?;
    ensure(word(frame, link - 2) == if outer.source.is_ipv4() { 0x0800 } else { 0x86dd }, "EtherType")?;
    ensure(outer.piece.1 == 0 && !outer.piece.2, "outer fragment")?;
    let rest = &packet[outer.header..];
    let what = match outer.protocol {
        47 => {
            ensure(outer.df, "outer DF")?;
            ensure(rest.len() > 4 && rest[..2] == [0, 0], "GRE header")?;
            let expected = if rest[4] >> 4 == 4 { 0x0800 } else { 0x86dd };
            ensure(word(rest, 2) == expected, "GRE protocol")?;
            ip(&rest[4..])?;
            Payload::Gre(rest[4..].to_vec())
        }
        protocol @ (1 | 58) => {
            ensure(rest.len() >= 8, "ICMP length")?;
            let pseudo = if protocol == 58 { sum(&packet[8..40]) + 58 + rest.len() as u32 } else { 0 };
            let total = pseudo + sum(rest);
            ensure((total & 0xffff) + (total >> 16) == 0xffff, "ICMP checksum")?;
            Payload::Icmp(rest[0], rest[1], rest[4..].to_vec())
        }
        other => return Err(format!("protocol {other}")),
    };
    Ok(Output { to: frame[..6].try_into().unwrap(), vlan, outer, what })
}
