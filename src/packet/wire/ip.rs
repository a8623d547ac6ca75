//! IPv4 (RFC 791) with options and IPv6 (RFC 8200) with extension headers, as one view.

use super::checksum;
use super::ethernet::{IPV4, IPV6};
use crate::verdict::Reason;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use std::net::IpAddr;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Most IPv6 extension headers that are walked.
const MAX_EXTENSIONS: usize = 8;

/// An IP header whose lengths fit the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol of what follows the header and its extensions.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN: the TOS byte or the traffic class.
    pub tos: u8,
    /// Bytes before the payload, options and extension headers included.
    pub header_len: u16,
    /// Bytes of the whole packet by its own account, at most those given.
    pub total_len: u16,
    /// IPv4's Don't Fragment; always true of IPv6, which routers never fragment.
    pub df: bool,
    /// Present when the packet is one piece of several.
    pub fragment: Option<Fragment>,
}

/// What tells the pieces of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification.
    pub id: u32,
    /// Offset in bytes.
    pub offset: u16,
    /// Whether more pieces follow this one.
    pub more: bool,
    /// For IPv4 the protocol, which belongs to the identification (RFC 791 section 3.2). For IPv6 always 44: "the Next Header values in the
    /// Fragment headers of different fragments of the same original packet may differ" (RFC 8200 section 4.5).
    pub protocol: u8,
}

/// The destination of an IP packet, before anything of it is checked: `None` when it is cut off or of another version.
#[inline]
pub fn destination(ethertype: u16, packet: &[u8]) -> Option<IpAddr> {
    match ethertype {
        IPV4 => Ipv4Packet::new(packet).map(|ip| IpAddr::V4(ip.get_destination())),
        IPV6 => Ipv6Packet::new(packet).map(|ip| IpAddr::V6(ip.get_destination())),
        _ => None,
    }
}

impl Ip {
    /// Reads the header at the start of `packet`, of the version that `ethertype` says. The IPv4 header checksum is not verified here.
    #[inline]
    pub fn parse(ethertype: u16, packet: &[u8]) -> Result<Ip, Reason> {
        match ethertype {
            IPV4 => Self::parse_v4(packet),
            _ => Self::parse_v6(packet),
        }
    }

    #[inline]
    fn parse_v4(packet: &[u8]) -> Result<Ip, Reason> {
        let view = Ipv4Packet::new(packet).ok_or(Reason::Truncated)?;
        let header_len = u16::from(view.get_header_length()) * 4;
        let total_len = view.get_total_length();
        if view.get_version() != 4 || header_len < 20 || total_len < header_len {
            return Err(Reason::BadHeader);
        }
        if usize::from(total_len) > packet.len() {
            return Err(Reason::Truncated);
        }
        let (offset, more) = (view.get_fragment_offset() * 8, view.get_flags() & 1 != 0);
        let protocol = view.get_next_level_protocol().0;
        let fragment = (offset != 0 || more).then(|| Fragment { id: view.get_identification().into(), offset, more, protocol });
        Ok(Ip {
            source: IpAddr::V4(view.get_source()),
            destination: IpAddr::V4(view.get_destination()),
            protocol,
            ttl: view.get_ttl(),
            tos: packet[1],
            header_len,
            total_len,
            df: view.get_flags() & 2 != 0,
            fragment,
        })
    }

    fn parse_v6(packet: &[u8]) -> Result<Ip, Reason> {
        let view = Ipv6Packet::new(packet).ok_or(Reason::Truncated)?;
        if view.get_version() != 6 {
            return Err(Reason::BadHeader);
        }
        let total_len = view.get_payload_length().checked_add(40).ok_or(Reason::BadHeader)?;
        let whole = packet.get(..usize::from(total_len)).ok_or(Reason::Truncated)?;
        let (protocol, header_len, fragment) = walk(whole, view.get_next_header().0)?;
        Ok(Ip {
            source: IpAddr::V6(view.get_source()),
            destination: IpAddr::V6(view.get_destination()),
            protocol,
            ttl: view.get_hop_limit(),
            tos: view.get_traffic_class(),
            header_len,
            total_len,
            df: true,
            fragment,
        })
    }

    /// Whether the header checksum is right; IPv6 has none. `packet` is what the header was read from.
    #[inline]
    pub fn checksum_ok(&self, packet: &[u8]) -> bool {
        // An IPv4 header has no extensions, so that `header_len` is IHL × 4, which `parse` has checked.
        self.source.is_ipv6() || packet.get(..usize::from(self.header_len)).is_some_and(checksum::intact)
    }

    /// Whether the source names one host, so that something may be sent back to it: "a datagram whose source address does not define a
    /// single host -- e.g., a zero address, a loopback address, a broadcast address, a multicast address, or a Class E address" gets no
    /// ICMP error (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e.6)).
    pub fn source_is_one_host(&self) -> bool {
        match self.source {
            IpAddr::V4(a) => !matches!(a.octets()[0], 0 | 127 | 224..=255),
            IpAddr::V6(a) => !(a.is_unspecified() || a.is_loopback() || a.is_multicast()),
        }
    }

    /// Bytes of a header of this version without options or extension headers.
    pub fn base_len(&self) -> usize {
        if self.source.is_ipv4() { 20 } else { 40 }
    }

    /// The EtherType of this version.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        if self.source.is_ipv4() { IPV4 } else { IPV6 }
    }

    /// Whether this is a piece that does not hold the transport header.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|f| f.offset != 0)
    }
}

/// Walks the extension headers of `packet` (RFC 8200 section 4): protocol, bytes before its header, fragment.
fn walk(packet: &[u8], mut protocol: u8) -> Result<(u8, u16, Option<Fragment>), Reason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION_OPTIONS: u8 = 60;

    let mut at = 40;
    let mut fragment = None;
    for _ in 0..=MAX_EXTENSIONS {
        if !matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) {
            return Ok((protocol, at as u16, fragment));
        }
        let header = packet.get(at..at + 8).ok_or(Reason::Truncated)?;
        let next = header[0];
        at += match protocol {
            FRAGMENT => {
                let field = u16::from_be_bytes([header[2], header[3]]);
                let (offset, more) = (field & 0xfff8, field & 1 != 0);
                // A piece that is the whole packet ("atomic", RFC 6946) is no fragment.
                if offset != 0 || more {
                    let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                    fragment = Some(Fragment { id, offset, more, protocol: FRAGMENT });
                }
                8
            }
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if at > packet.len() {
            return Err(Reason::Truncated);
        }
        protocol = next;
        // What follows in a later piece is payload, whatever its first bytes look like.
        if fragment.is_some_and(|f| f.offset != 0) {
            return Ok((protocol, at as u16, fragment));
        }
    }
    Err(Reason::ExtensionHeaders)
}
