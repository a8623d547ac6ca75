//! Ports of UDP (RFC 768) and TCP (RFC 9293), and the opcode of TFTP (RFC 1350).

use super::layout::{tcp, udp};
use super::view::{TcpView, UdpView};
use crate::verdict::Reason;

pub use super::layout::protocol::{TCP, UDP};

/// The fields of a transport header that the packet path reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// First 16 bits of a UDP payload, if there are so many: TFTP's opcode.
    pub opcode: Option<u16>,
    /// A client opens a TCP connection with it.
    pub opens_connection: bool,
}

impl Ports {
    /// Reads the transport header at the start of `payload`, which ends where the IP packet ends. In a first fragment the datagram continues in other
    /// packets, so its own length may exceed `payload`. `None` for a protocol without ports.
    #[inline]
    pub fn parse(protocol: u8, payload: &[u8], first_fragment: bool) -> Option<Result<Ports, Reason>> {
        let short = if first_fragment { Reason::FragmentTiny } else { Reason::Truncated };
        match protocol {
            UDP => Some(UdpView::new(payload).ok_or(short).and_then(|udp| {
                let len = usize::from(udp.length());
                if len < udp::LEN {
                    return Err(Reason::BadHeader);
                }
                if len > payload.len() && !first_fragment {
                    return Err(Reason::Truncated);
                }
                let opcode = payload[udp::LEN..len.min(payload.len())].first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
                Ok(Ports { source: udp.source_port(), destination: udp.destination_port(), opcode, opens_connection: false })
            })),
            TCP => Some(TcpView::new(payload).ok_or(short).and_then(|tcp| {
                if tcp.header_len() < tcp::LEN {
                    return Err(Reason::BadHeader);
                }
                let (source, destination) = (tcp.source_port(), tcp.destination_port());
                Ok(Ports { source, destination, opcode: None, opens_connection: tcp.opens_connection() })
            })),
            _ => None,
        }
    }
}
