//! What the lab needs to know of a packet: its flow, and what is inside GRE. Checked reads only; any bytes are safe.

use std::net::IpAddr;

/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of GRE.
pub const GRE: u8 = 47;

/// What ECMP hashes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The protocol above IP and its extension headers.
    pub protocol: u8,
    /// Source and destination port; none in a fragment (the first included, so that all fragments of a packet hash alike) and in protocols without ports.
    pub ports: Option<(u16, u16)>,
    /// Where the protocol above IP starts, in bytes.
    pub payload: usize,
}

/// Reads the flow of an IPv4 or IPv6 packet; `None` when it is neither, or cut short.
pub fn flow(packet: &[u8]) -> Option<Flow> {
    match packet.first()? >> 4 {
        4 => flow_v4(packet),
        6 => flow_v6(packet),
        _ => None,
    }
}

fn flow_v4(packet: &[u8]) -> Option<Flow> {
    let head: &[u8; 20] = packet.first_chunk()?;
    let payload = usize::from(head[0] & 15) * 4;
    if payload < 20 || payload > packet.len() {
        return None;
    }
    // RFC 791: more fragments, or an offset.
    let fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0;
    let protocol = head[9];
    let source = IpAddr::from([head[12], head[13], head[14], head[15]]);
    let destination = IpAddr::from([head[16], head[17], head[18], head[19]]);
    let ports = if fragment { None } else { ports(packet, protocol, payload) };
    Some(Flow { source, destination, protocol, ports, payload })
}

fn flow_v6(packet: &[u8]) -> Option<Flow> {
    let head: &[u8; 40] = packet.first_chunk()?;
    let source = IpAddr::from(<[u8; 16]>::try_from(&head[8..24]).ok()?);
    let destination = IpAddr::from(<[u8; 16]>::try_from(&head[24..40]).ok()?);
    let (mut protocol, mut payload, mut fragment) = (head[6], 40, false);
    loop {
        let rest = packet.get(payload..)?;
        match protocol {
            // RFC 8200: hop-by-hop options, routing, destination options: length in units of 8 bytes, the first 8 not counted.
            0 | 43 | 60 => {
                let extension: &[u8; 2] = rest.first_chunk()?;
                (protocol, payload) = (extension[0], payload + 8 * (usize::from(extension[1]) + 1));
            }
            // RFC 8200 section 4.5: the fragment header.
            44 => {
                let extension: &[u8; 8] = rest.first_chunk()?;
                fragment |= u16::from_be_bytes([extension[2], extension[3]]) & 0xfff9 != 0;
                (protocol, payload) = (extension[0], payload + 8);
            }
            _ => break,
        }
    }
    let ports = if fragment { None } else { ports(packet, protocol, payload) };
    Some(Flow { source, destination, protocol, ports, payload })
}

fn ports(packet: &[u8], protocol: u8, payload: usize) -> Option<(u16, u16)> {
    // TCP, UDP, SCTP and UDP-Lite begin with the two ports.
    if !matches!(protocol, 6 | UDP | 132 | 136) {
        return None;
    }
    let head: &[u8; 4] = packet.get(payload..)?.first_chunk()?;
    Some((u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]])))
}

/// The GRE header (RFC 2784, no options) before a packet that starts with `first`; `None` when that is no IP packet.
pub fn gre_header(first: u8) -> Option<[u8; 4]> {
    match first >> 4 {
        4 => Some([0, 0, 0x08, 0x00]),
        6 => Some([0, 0, 0x86, 0xdd]),
        _ => None,
    }
}

/// Why something after a GRE header is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreError {
    /// The header does not fit.
    #[error("cut short")]
    Truncated,
    /// RFC 2784: "the version number field MUST contain the value zero"; RFC 1701's routing is not supported.
    #[error("version or flags that RFC 2784 and 2890 do not have")]
    Version,
    /// Neither IPv4 nor IPv6, or not the one that the header promises.
    #[error("neither IPv4 nor IPv6 inside")]
    Protocol,
    /// The GRE checksum is wrong.
    #[error("wrong GRE checksum")]
    Checksum,
}

/// What is inside GRE: honours and takes off checksum, key and sequence number (RFC 2784, RFC 2890).
pub fn strip_gre(bytes: &[u8]) -> Result<&[u8], GreError> {
    let head: &[u8; 4] = bytes.first_chunk().ok_or(GreError::Truncated)?;
    // C, R, K, S from the top bit on; then reserved bits and the version. RFC 2784: packets with bits 1 to 5 set are to be discarded
    // unless RFC 1701 is implemented; RFC 2890 gives K and S (bits 2 and 3) back their meaning.
    let flags = u16::from_be_bytes([head[0], head[1]]);
    if flags & 0x4c07 != 0 {
        return Err(GreError::Version);
    }
    let length = 4 + [0x8000, 0x2000, 0x1000].iter().filter(|bit| flags & **bit != 0).count() * 4;
    let inner = bytes.get(length..).ok_or(GreError::Truncated)?;
    let first = inner.first().ok_or(GreError::Truncated)?;
    if gre_header(*first).is_none_or(|expected| expected[2..] != head[2..]) {
        return Err(GreError::Protocol);
    }
    if flags & 0x8000 != 0 && internet_checksum(bytes) != 0 {
        return Err(GreError::Checksum);
    }
    Ok(inner)
}

/// RFC 1071. Zero over bytes that contain their own right checksum.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum: u64 = bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    let mut folded = sum;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    !(folded as u16)
}

/// The client's port and the file name of a TFTP read request (RFC 1350) in an IP packet, if it is one.
pub fn read_request(packet: &[u8]) -> Option<(IpAddr, u16, String)> {
    let flow = flow(packet)?;
    let (from, 69) = flow.ports? else { return None };
    if flow.protocol != UDP {
        return None;
    }
    let request = packet.get(flow.payload + 8..)?;
    let name = request.strip_prefix(&[0, 1])?;
    let end = name.iter().position(|b| *b == 0)?;
    Some((flow.source, from, String::from_utf8_lossy(&name[..end]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// An IPv4 packet 198.51.100.10 → 192.0.2.69 with this fragment field and UDP payload.
    pub(crate) fn v4(fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut p = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 198, 51, 100, 10, 192, 0, 2, 69];
        p[6..8].copy_from_slice(&fragment.to_be_bytes());
        p.extend_from_slice(payload);
        let total = p.len() as u16;
        p[2..4].copy_from_slice(&total.to_be_bytes());
        p
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut p = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
        p.extend_from_slice(&"2001:db8::10".parse::<Ipv6Addr>().unwrap().octets());
        p.extend_from_slice(&"2001:db8:69::69".parse::<Ipv6Addr>().unwrap().octets());
        p.extend_from_slice(payload);
        p
    }

    const RRQ: &[u8] = b"\x9c\x40\x00\x45\x00\x14\x00\x00\x00\x01boot\0octet\0";

    #[test]
    fn a_flow_has_its_ports_and_a_fragment_has_none() {
        let whole = flow(&v4(0x4000, RRQ)).unwrap();
        assert_eq!((whole.ports, whole.protocol, whole.payload), (Some((40000, 69)), UDP, 20));
        assert_eq!(whole.destination, IpAddr::from(Ipv4Addr::new(192, 0, 2, 69)));
        assert_eq!(flow(&v4(0x2000, RRQ)).unwrap().ports, None, "the first fragment hashes as the later ones");
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
                let sum = internet_checksum(&gre);
                gre[4..6].copy_from_slice(&sum.to_be_bytes());
            }
            assert_eq!(strip_gre(&gre), Ok(inner.as_slice()), "flags {flags:03b}");
            if c {
                *gre.last_mut().unwrap() ^= 1;
                assert_eq!(strip_gre(&gre), Err(GreError::Checksum));
            }
        }
    }

    #[test]
    fn what_is_no_gre_of_ours_is_refused() {
        let inner = v4(0, RRQ);
        let with = |head: [u8; 4]| [&head[..], &inner].concat();
        assert_eq!(strip_gre(&with([0, 1, 8, 0])), Err(GreError::Version));
        assert_eq!(strip_gre(&with([0x40, 0, 8, 0])), Err(GreError::Version), "routing");
        assert_eq!(strip_gre(&with([0, 0, 0x86, 0xdd])), Err(GreError::Protocol), "IPv4 announced as IPv6");
        assert_eq!(strip_gre(&with([0, 0, 0x65, 0x58])), Err(GreError::Protocol));
        assert_eq!(strip_gre(&[0, 0, 8]), Err(GreError::Truncated));
        assert_eq!(strip_gre(&[0x20, 0, 8, 0, 1, 2]), Err(GreError::Truncated));
        assert_eq!(strip_gre(&[0, 0, 8, 0]), Err(GreError::Truncated), "nothing inside");
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
