//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo requests, and errors with the packet that they quote.

use super::ethernet::{IPV4, IPV6};
use super::ip::{ICMP, ICMPV6};
use std::net::IpAddr;

/// An ICMP message, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Somebody asks whether we live.
    EchoRequest,
    /// Something went wrong with the quoted packet.
    Error(Option<Quoted>),
    /// A host on the link looks for its neighbours or routers (RFC 4861: types 133 to 137).
    NeighbourDiscovery,
    /// Anything else, and what is too short to be a message.
    Other,
}

/// The start of the packet that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Who sent it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Its transport protocol.
    pub protocol: u8,
    /// Its source port.
    pub source_port: u16,
    /// Its destination port.
    pub destination_port: u16,
}

impl Message {
    /// Reads the message at the start of `payload`, of the protocol `protocol` (1 or 58).
    pub fn parse(protocol: u8, payload: &[u8]) -> Message {
        // "Every ICMP message" begins with type, code, checksum and a word more (RFC 792, RFC 4443 section 2.1).
        let Some([kind, ..]) = payload.first_chunk::<8>() else { return Message::Other };
        // Unreachable, source quench, time exceeded, parameter problem; all ICMPv6 types below 128 are errors (RFC 4443 section 2.1).
        match (protocol, kind) {
            (ICMP, 8) | (ICMPV6, 128) => Message::EchoRequest,
            (ICMP, 3 | 4 | 11 | 12) => Message::Error(quoted(IPV4, payload)),
            (ICMPV6, 1..=127) => Message::Error(quoted(IPV6, payload)),
            (ICMPV6, 133..=137) => Message::NeighbourDiscovery,
            _ => Message::Other,
        }
    }
}

/// Reads what an error quotes: a header whose own lengths exceed what is quoted, as a rule, so only what is needed is checked.
fn quoted(ethertype: u16, payload: &[u8]) -> Option<Quoted> {
    let packet = payload.get(8..)?;
    let (source, destination, protocol, ports) = match ethertype {
        IPV4 => {
            let ip = pnet::packet::ipv4::Ipv4Packet::new(packet)?;
            let header = usize::from(ip.get_header_length()) * 4;
            if ip.get_version() != 4 || header < 20 || ip.get_fragment_offset() != 0 {
                return None;
            }
            (ip.get_source().into(), ip.get_destination().into(), ip.get_next_level_protocol().0, packet.get(header..header + 4)?)
        }
        _ => {
            let ip = pnet::packet::ipv6::Ipv6Packet::new(packet)?;
            let next = ip.get_next_header().0;
            // Servers behind a VIP send plain packets, or fragments of which the first shows the ports.
            let (protocol, at) = match next {
                44 if u16::from_be_bytes([*packet.get(42)?, *packet.get(43)?]) & 0xfff8 == 0 => (*packet.get(40)?, 48),
                _ => (next, 40),
            };
            if ip.get_version() != 6 {
                return None;
            }
            (ip.get_source().into(), ip.get_destination().into(), protocol, packet.get(at..at + 4)?)
        }
    };
    Some(Quoted {
        source,
        destination,
        protocol,
        source_port: u16::from_be_bytes([ports[0], ports[1]]),
        destination_port: u16::from_be_bytes([ports[2], ports[3]]),
    })
}
