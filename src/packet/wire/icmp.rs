//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo requests, and errors with the packet that they quote.

use super::ip::walk_extensions;
use super::layout::ethernet::{IPV4, IPV6};
use super::layout::icmp::{self, LEN, TYPE};
use super::layout::protocol::{ICMP, ICMPV6};
use super::layout::{ipv4, ipv6};
use super::view::{Ipv4View, Ipv6View, PortsView};
use std::net::IpAddr;

/// An ICMP message, as far as the packet path needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An echo request.
    EchoRequest,
    /// An error about the quoted packet.
    Error(Option<Quoted>),
    /// A host on the link looks for its neighbours or routers (RFC 4861: types 133 to 137).
    NeighbourDiscovery,
    /// Anything else, and anything too short to be a message.
    Other,
}

/// The packet that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
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
        // Every message begins with type, code, checksum and a word more (RFC 792, RFC 4443 section 2.1).
        let Some(head) = payload.first_chunk::<LEN>() else { return Message::Other };
        match (protocol, head[TYPE]) {
            (ICMP, icmp::ECHO_REQUEST) | (ICMPV6, icmp::V6_ECHO_REQUEST) => Message::EchoRequest,
            (ICMP, icmp::UNREACHABLE | icmp::SOURCE_QUENCH | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM) => {
                Message::Error(quoted(IPV4, payload))
            }
            (ICMPV6, kind) if icmp::V6_ERRORS.contains(&kind) => Message::Error(quoted(IPV6, payload)),
            (ICMPV6, kind) if icmp::V6_NEIGHBOUR_DISCOVERY.contains(&kind) => Message::NeighbourDiscovery,
            _ => Message::Other,
        }
    }
}

/// Reads the packet that an error quotes. Its own lengths usually exceed the quoted bytes, so only the fields needed here are checked.
fn quoted(ethertype: u16, payload: &[u8]) -> Option<Quoted> {
    let packet = payload.get(LEN..)?;
    let (source, destination, protocol, transport) = match ethertype {
        IPV4 => {
            let ip = Ipv4View::new(packet)?;
            let header = usize::from(ip.header_len());
            if ip.version() != ipv4::VERSION || header < ipv4::LEN || ip.fragment_offset() != 0 {
                return None;
            }
            (ip.source().into(), ip.destination().into(), ip.protocol(), packet.get(header..)?)
        }
        _ => {
            let ip = Ipv6View::new(packet)?;
            // A server's packet may carry options or come in fragments, of which the first shows the ports.
            let (protocol, header_len, fragment) = walk_extensions(packet, ip.next_header()).ok()?;
            if ip.version() != ipv6::VERSION || fragment.is_some_and(|fragment| fragment.offset != 0) {
                return None;
            }
            let transport = packet.get(usize::from(header_len)..)?;
            (ip.source().into(), ip.destination().into(), protocol, transport)
        }
    };
    let ports = PortsView::new(transport)?;
    Some(Quoted { source, destination, protocol, source_port: ports.source_port(), destination_port: ports.destination_port() })
}
