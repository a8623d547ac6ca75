//! The flow of a packet, and the packet inside GRE, for programs beside the packet path: the lab, `decap`, load tools.

use crate::verdict::Reason;
use crate::wire::ethernet::{IPV4, IPV6};
use crate::wire::gre::Gre;
use crate::wire::ip::Ip;
use crate::wire::l4::{Ports, UDP};
use crate::wire::layout::{ipv4, ipv6, udp};
use std::net::IpAddr;

/// The fields that ECMP hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol behind the IP header and its extensions; in a fragment the one that all fragments of its packet share.
    pub protocol: u8,
    /// Source and destination port of UDP and TCP. A fragment has none, not even the first one, so that all fragments of a packet hash alike.
    pub ports: Option<(u16, u16)>,
    /// The same as a router sees them that looks at each packet by itself: a first fragment has some, later ones have none.
    pub visible_ports: Option<(u16, u16)>,
    /// Bytes before the transport header.
    pub payload: usize,
}

/// Reads the flow of an IPv4 or IPv6 packet; `None` when it is neither, or cut short.
pub fn flow(packet: &[u8]) -> Option<Flow> {
    let ip = Ip::parse(ethertype(*packet.first()?)?, packet).ok()?;
    let (payload, end) = (usize::from(ip.header_len), usize::from(ip.total_len));
    let visible_ports = match ip.is_later_fragment() {
        true => None,
        false => Ports::parse(ip.protocol, &packet[payload..end], ip.fragment.is_some()).and_then(Result::ok),
    };
    let visible_ports = visible_ports.map(|p| (p.source, p.destination));
    Some(Flow {
        source: ip.source,
        destination: ip.destination,
        protocol: ip.fragment.map_or(ip.protocol, |f| f.protocol),
        ports: visible_ports.filter(|_| ip.fragment.is_none()),
        visible_ports,
        payload,
    })
}

/// The TTL (IPv6: hop limit) of an IP packet.
pub fn ttl(packet: &[u8]) -> Option<u8> {
    match ethertype(*packet.first()?)? {
        IPV4 => packet.get(ipv4::TTL).copied(),
        _ => packet.get(ipv6::HOP_LIMIT).copied(),
    }
}

/// EtherType of an IP packet that starts with this byte.
fn ethertype(first: u8) -> Option<u16> {
    match first >> 4 {
        ipv4::VERSION => Some(IPV4),
        ipv6::VERSION => Some(IPV6),
        _ => None,
    }
}

/// Returns the GRE header (RFC 2784, no optional fields) for a packet that starts with `first`; `None` when that is no IP packet.
pub fn gre_header(first: u8) -> Option<[u8; 4]> {
    let [high, low] = ethertype(first)?.to_be_bytes();
    Some([0, 0, high, low])
}

/// Returns the IP packet inside GRE. Verifies the checksum and skips key and sequence number (RFC 2784, RFC 2890).
///
/// # Errors
/// The reason for which a director would drop the packet too. [`Reason::GreProtocol`] also when the packet inside is not of the announced version.
pub fn strip_gre(bytes: &[u8]) -> Result<&[u8], Reason> {
    let gre = Gre::parse(bytes)?;
    let inner = &bytes[gre.len..];
    let found = ethertype(*inner.first().ok_or(Reason::Truncated)?);
    if found == Some(gre.protocol) { Ok(inner) } else { Err(Reason::GreProtocol) }
}

/// Returns client address, client port and file name of a TFTP read request (RFC 1350); `None` for any other packet.
pub fn read_request(packet: &[u8]) -> Option<(IpAddr, u16, String)> {
    let flow = flow(packet)?;
    let (from, 69) = flow.ports? else { return None };
    if flow.protocol != UDP {
        return None;
    }
    let request = packet.get(flow.payload + udp::LEN..)?;
    let name = request.strip_prefix(&[0, 1])?;
    let end = name.iter().position(|b| *b == 0)?;
    Some((flow.source, from, String::from_utf8_lossy(&name[..end]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::build;
    use crate::wire::checksum::checksum;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn packet(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
        build::ip(source.parse().unwrap(), destination.parse().unwrap(), protocol, payload).bytes().to_vec()
    }

    /// An IPv4 packet 198.51.100.10 → 192.0.2.69 with this fragment field and UDP payload.
    fn v4(fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = packet("198.51.100.10", "192.0.2.69", UDP, payload);
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        packet("2001:db8::10", "2001:db8:69::69", next, payload)
    }

    const RRQ: &[u8] = b"\x9c\x40\x00\x45\x00\x14\x00\x00\x00\x01boot\0octet\0";

    #[test]
    fn a_flow_has_its_ports_and_a_fragment_has_none() {
        let whole = flow(&v4(0x4000, RRQ)).unwrap();
        assert_eq!((whole.ports, whole.protocol, whole.payload), (Some((40000, 69)), UDP, 20));
        assert_eq!(whole.destination, IpAddr::from(Ipv4Addr::new(192, 0, 2, 69)));
        assert_eq!((ttl(&v4(0, RRQ)), ttl(&v6(17, RRQ)), ttl(&[])), (Some(64), Some(64), None));
        assert_eq!(flow(&v4(0x2000, RRQ)).unwrap().ports, None, "the first fragment hashes as the later ones");
        assert_eq!([0x2000, 0x0010].map(|fragment| flow(&v4(fragment, RRQ)).unwrap().visible_ports), [Some((40000, 69)), None]);
        assert_eq!(flow(&v4(0x0010, RRQ)).unwrap().ports, None);
    }

    #[test]
    fn extension_headers_are_skipped() {
        let mut payload = vec![44, 0, 0, 0, 0, 0, 0, 0];
        payload.extend_from_slice(&[17, 0, 0, 0, 0, 0, 0, 7]);
        payload.extend_from_slice(RRQ);
        assert_eq!(flow(&v6(60, &payload)).unwrap().ports, Some((40000, 69)), "an atomic fragment is a whole packet");
        payload[11] = 1;
        assert_eq!(flow(&v6(60, &payload)).unwrap().ports, None);
    }

    #[test]
    fn a_read_request_names_its_file() {
        let found = read_request(&v4(0, RRQ)).unwrap();
        assert_eq!((found.1, found.2.as_str()), (40000, "boot"));
        let mut ack = RRQ.to_vec();
        ack[9] = 4;
        assert_eq!(read_request(&v4(0, &ack)), None);
    }

    #[test]
    fn every_combination_of_options_is_taken_off() {
        let inner = v4(0, RRQ);
        for flags in 0u8..8 {
            let (c, k, s) = (flags & 4 != 0, flags & 2 != 0, flags & 1 != 0);
            let mut gre = vec![u8::from(c) << 7 | u8::from(k) << 5 | u8::from(s) << 4, 0, 8, 0];
            gre.resize(4 + 4 * flags.count_ones() as usize, 0);
            gre.extend_from_slice(&inner);
            if c {
                let sum = checksum(&gre);
                gre[4..6].copy_from_slice(&sum.to_be_bytes());
            }
            assert_eq!(strip_gre(&gre), Ok(inner.as_slice()), "flags {flags:03b}");
            if c {
                *gre.last_mut().unwrap() ^= 1;
                assert_eq!(strip_gre(&gre), Err(Reason::BadGreChecksum));
            }
        }
    }

    #[test]
    fn what_is_no_gre_of_ours_is_refused() {
        let inner = v4(0, RRQ);
        let with = |head: [u8; 4]| [&head[..], &inner].concat();
        assert_eq!(strip_gre(&with([0, 1, 8, 0])), Err(Reason::GreVersion));
        assert_eq!(strip_gre(&with([0x40, 0, 8, 0])), Err(Reason::GreVersion), "routing");
        assert_eq!(strip_gre(&with([0, 0, 0x86, 0xdd])), Err(Reason::GreProtocol), "IPv4 announced as IPv6");
        assert_eq!(strip_gre(&with([0, 0, 0x65, 0x58])), Err(Reason::GreProtocol));
        assert_eq!(strip_gre(&[0, 0, 8]), Err(Reason::Truncated));
        assert_eq!(strip_gre(&[0x20, 0, 8, 0, 1, 2]), Err(Reason::Truncated));
        assert_eq!(strip_gre(&[0, 0, 8, 0]), Err(Reason::Truncated), "nothing inside");
    }

    #[test]
    fn header_and_strip_are_inverse() {
        for inner in [v4(0, RRQ), v6(17, RRQ)] {
            let gre = [&gre_header(inner[0]).unwrap()[..], &inner].concat();
            assert_eq!(strip_gre(&gre), Ok(inner.as_slice()));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()]) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = version; }
            if let Some(flow) = flow(&bytes) { prop_assert!(flow.payload <= bytes.len()); }
            let _ = read_request(&bytes);
            if let Ok(inner) = strip_gre(&bytes) { prop_assert!(bytes.ends_with(inner)); }
        }
    }
}
