//! Ports of UDP (RFC 768) and TCP (RFC 9293), and the opcode of TFTP (RFC 1350).

use crate::verdict::Reason;
use pnet::packet::tcp::TcpPacket;
use pnet::packet::udp::UdpPacket;

/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of TCP.
pub const TCP: u8 = 6;

/// What the packet path reads of a transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// First 16 bits of a UDP payload, when there are so many: TFTP's opcode.
    pub opcode: Option<u16>,
}

impl Ports {
    /// Reads the transport header at the start of `payload`, which ends where the IP packet ends. `first_fragment` says that the datagram
    /// goes on in other packets, so that its own length may exceed `payload`. `None` for a protocol without ports.
    #[inline]
    pub fn parse(protocol: u8, payload: &[u8], first_fragment: bool) -> Option<Result<Ports, Reason>> {
        let short = if first_fragment { Reason::FragmentTiny } else { Reason::Truncated };
        match protocol {
            UDP => Some(UdpPacket::new(payload).ok_or(short).and_then(|udp| {
                let len = usize::from(udp.get_length());
                if len < 8 {
                    return Err(Reason::BadHeader);
                }
                if len > payload.len() && !first_fragment {
                    return Err(Reason::Truncated);
                }
                let data = &payload[8..len.min(payload.len())];
                let opcode = data.first_chunk().map(|b| u16::from_be_bytes(*b));
                Ok(Ports { source: udp.get_source(), destination: udp.get_destination(), opcode })
            })),
            TCP => Some(TcpPacket::new(payload).ok_or(short).and_then(|tcp| {
                if tcp.get_data_offset() < 5 {
                    return Err(Reason::BadHeader);
                }
                Ok(Ports { source: tcp.get_source(), destination: tcp.get_destination(), opcode: None })
            })),
            _ => None,
        }
    }
}
