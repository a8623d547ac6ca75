//! IPv4 (RFC 791) with options and IPv6 (RFC 8200) with extension headers, as one type.

use super::checksum;
use super::layout::ethernet::{IPV4, IPV6};
use super::layout::protocol::{AUTHENTICATION, FRAGMENT};
use super::layout::{ipv4, ipv6};
use super::view::{ExtensionView, Ipv4View, Ipv6View};
use super::write::ip_header_len;
use crate::verdict::Reason;
use std::net::IpAddr;

pub use super::layout::protocol::{ICMP, ICMPV6};

/// Most IPv6 extension headers that are walked.
pub const MAX_EXTENSIONS: usize = 8;

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
    /// Bytes of the whole packet as its header says, at most those given.
    pub total_len: u16,
    /// IPv4's Don't Fragment; always true of IPv6, which routers never fragment.
    pub df: bool,
    /// Present when the packet is one fragment of several.
    pub fragment: Option<Fragment>,
}

/// The fields that identify a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification.
    pub id: u32,
    /// Offset in bytes.
    pub offset: u16,
    /// Whether more fragments follow this one.
    pub more: bool,
    /// Protocol that identifies the fragments together with `id`: IPv4's own (RFC 791 section 3.2), for IPv6 always 44, because "the Next Header values
    /// in the Fragment headers of different fragments of the same original packet may differ" (RFC 8200 section 4.5).
    pub protocol: u8,
}

/// Returns the destination of an IP packet before any check of it; `None` when the header is cut off or of another version.
#[inline]
pub fn destination(ethertype: u16, packet: &[u8]) -> Option<IpAddr> {
    match ethertype {
        IPV4 => Ipv4View::new(packet).map(|ip| ip.destination().into()),
        IPV6 => Ipv6View::new(packet).map(|ip| ip.destination().into()),
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
        let view = Ipv4View::new(packet).ok_or(Reason::Truncated)?;
        let (header_len, total_len) = (view.header_len(), view.total_len());
        if view.version() != ipv4::VERSION || usize::from(header_len) < ipv4::LEN || total_len < header_len {
            return Err(Reason::BadHeader);
        }
        if usize::from(total_len) > packet.len() {
            return Err(Reason::Truncated);
        }
        let protocol = view.protocol();
        let fragment = view.is_fragment().then(|| Fragment {
            id: view.identification().into(),
            offset: view.fragment_offset(),
            more: view.more_fragments(),
            protocol,
        });
        Ok(Ip {
            source: view.source().into(),
            destination: view.destination().into(),
            protocol,
            ttl: view.ttl(),
            tos: view.tos(),
            header_len,
            total_len,
            df: view.dont_fragment(),
            fragment,
        })
    }

    fn parse_v6(packet: &[u8]) -> Result<Ip, Reason> {
        let view = Ipv6View::new(packet).ok_or(Reason::Truncated)?;
        if view.version() != ipv6::VERSION {
            return Err(Reason::BadHeader);
        }
        let total_len = view.total_len().ok_or(Reason::BadHeader)?;
        let whole = packet.get(..usize::from(total_len)).ok_or(Reason::Truncated)?;
        let (protocol, header_len, fragment) = walk_extensions(whole, view.next_header())?;
        Ok(Ip {
            source: view.source().into(),
            destination: view.destination().into(),
            protocol,
            ttl: view.hop_limit(),
            tos: view.traffic_class(),
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

    /// Whether the source names one host, so that an answer may be sent to it: "a datagram whose source address does not define a
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
        ip_header_len(self.source)
    }

    /// The EtherType of this version.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        if self.source.is_ipv4() { IPV4 } else { IPV6 }
    }

    /// Whether this is a fragment without the transport header.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|f| f.offset != 0)
    }
}

/// Walks the extension headers of `packet`, which may be cut off behind them (RFC 8200 section 4). Returns the protocol, the bytes before its header, and
/// the fragment.
pub(super) fn walk_extensions(packet: &[u8], mut protocol: u8) -> Result<(u8, u16, Option<Fragment>), Reason> {
    let mut at = ipv6::LEN;
    let mut fragment = None;
    let mut count = 0;
    while ipv6::extension::KINDS.contains(&protocol) {
        count += 1;
        if count > MAX_EXTENSIONS {
            return Err(Reason::ExtensionHeaders);
        }
        let header = packet.get(at..).and_then(ExtensionView::new).ok_or(Reason::Truncated)?;
        at += match protocol {
            FRAGMENT => {
                let (offset, more) = (header.fragment_offset(), header.more_fragments());
                // A fragment that is the whole packet ("atomic", RFC 6946) is no fragment.
                if offset != 0 || more {
                    fragment = Some(Fragment { id: header.identification(), offset, more, protocol: FRAGMENT });
                }
                ipv6::extension::LEN
            }
            AUTHENTICATION => (usize::from(header.header_len()) + 2) * 4,
            _ => (usize::from(header.header_len()) + 1) * 8,
        };
        if at > packet.len() {
            return Err(Reason::Truncated);
        }
        protocol = header.next_header();
        // In a later fragment the next bytes are payload, whatever they look like.
        if fragment.is_some_and(|f| f.offset != 0) {
            break;
        }
    }
    Ok((protocol, at as u16, fragment))
}
