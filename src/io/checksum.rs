//! Finishes UDP and TCP checksums that a local sender left to its card.
//!
//! Containers and virtual machines of this host send frames in which the checksum field holds only the sum over the pseudo-header, for the card to add the rest.
//! No card sees such a frame: it reaches the director as it is, and every backend would drop it.

use guideway_packet::wire::checksum::{fold, sum};
use guideway_packet::wire::ethernet::{Ethernet, IPV4, IPV6};
use guideway_packet::wire::gre;
use guideway_packet::wire::ip::Ip;
use guideway_packet::wire::layout::gre::{FIELD_LEN, HAS_CHECKSUM, HAS_KEY, HAS_SEQUENCE, LEN as GRE_LEN};
use guideway_packet::wire::layout::protocol::{TCP, UDP};
use guideway_packet::wire::layout::{tcp, udp};
use guideway_packet::wire::view::GreView;
use guideway_packet::wire::write::put16;
use std::net::IpAddr;

/// What was found, and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The field holds something else than the sum over the pseudo-header, or there is no field.
    Other,
    /// The checksum was right.
    Right,
    /// The checksum was unfinished, and now is right.
    Finished,
}

/// The checksum field of the innermost UDP or TCP header, and the segment that it covers.
struct Found {
    segment: std::ops::Range<usize>,
    field: usize,
    udp: bool,
    /// Sum over the pseudo-header (RFC 768, RFC 9293 section 3.1, RFC 8200 section 8.1).
    pseudo: u16,
}

/// Finishes the checksum of the UDP or TCP packet in `frame`, plain or in GRE, if it is unfinished.
#[inline]
pub fn finish(frame: &mut [u8]) -> Checksum {
    match find(frame) {
        Some(found) if frame[found.field..found.field + 2] == found.pseudo.to_be_bytes() => finish_found(frame, &found),
        _ => Checksum::Other,
    }
}

#[inline]
fn find(frame: &[u8]) -> Option<Found> {
    let ethernet = Ethernet::parse(frame).ok()?;
    let mut at = ethernet.len;
    let mut ip = read(ethernet.ethertype, frame.get(at..)?)?;
    if ip.protocol == gre::PROTOCOL {
        at += usize::from(ip.header_len);
        // Its own checksum may cover the unfinished one as if it were finished.
        let view = GreView::new(frame.get(at..)?)?;
        at += GRE_LEN + FIELD_LEN * (view.flags() & (HAS_CHECKSUM | HAS_KEY | HAS_SEQUENCE)).count_ones() as usize;
        ip = read(view.protocol(), frame.get(at..)?)?;
    }
    let (offset, len) = match ip.protocol {
        UDP => (udp::CHECKSUM, udp::LEN),
        TCP => (tcp::CHECKSUM, tcp::LEN),
        _ => return None,
    };
    // A fragment was made by somebody who has finished the checksum before.
    if ip.fragment.is_some() {
        return None;
    }
    let segment = at + usize::from(ip.header_len)..at + usize::from(ip.total_len);
    if segment.len() < len {
        return None;
    }
    let addresses = match (ip.source, ip.destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u64::from(sum(&a.octets())) + u64::from(sum(&b.octets())),
        (IpAddr::V6(a), IpAddr::V6(b)) => u64::from(sum(&a.octets())) + u64::from(sum(&b.octets())),
        _ => return None,
    };
    let pseudo = fold(addresses + u64::from(ip.protocol) + segment.len() as u64);
    Some(Found { field: segment.start + offset, segment, udp: ip.protocol == UDP, pseudo })
}

#[inline]
fn read(ethertype: u16, packet: &[u8]) -> Option<Ip> {
    if matches!(ethertype, IPV4 | IPV6) { Ip::parse(ethertype, packet).ok() } else { None }
}

/// One in 65,536 of finished checksums looks unfinished.
#[cold]
fn finish_found(frame: &mut [u8], found: &Found) -> Checksum {
    let all = fold(u64::from(found.pseudo) + u64::from(sum(&frame[found.segment.clone()])));
    if all == 0xffff {
        return Checksum::Right;
    }
    // The field counts among the segment as the pseudo-header that it holds.
    let check = !fold(u64::from(sum(&frame[found.segment.clone()])));
    put16(frame, found.field, if found.udp && check == 0 { 0xffff } else { check });
    Checksum::Finished
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::build::{self, GreFields, Packet};
    use std::net::SocketAddr;

    fn packets() -> Vec<Packet> {
        let pairs = [("198.51.100.7:4000", "192.0.2.69:69"), ("[2001:db8::7]:4000", "[2001:db8::69]:69")];
        let pairs = pairs.map(|(a, b)| (a.parse::<SocketAddr>().unwrap(), b.parse::<SocketAddr>().unwrap()));
        let mut all = Vec::new();
        for (source, destination) in pairs {
            for len in [0, 1, 2, 33, 512] {
                let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
                all.push(build::udp(source, destination, &payload));
                all.push(build::tcp(source, destination, 2, &payload));
            }
        }
        all
    }

    /// The frames that carry `packet`: plain, and in GRE over either family.
    fn carried(packet: &Packet) -> [Vec<u8>; 4] {
        let wrap = |from: &str, to: &str, fields| packet.gre_with(from.parse().unwrap(), to.parse().unwrap(), fields);
        let all = GreFields { checksum: true, key: Some(1), sequence: Some(2) };
        let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        [
            packet.frame(a, b),
            packet.tagged_frame(a, b, 42),
            wrap("10.0.0.1", "10.0.1.11", GreFields::default()).frame(a, b),
            wrap("fd00::1", "fd00::11", all).frame(a, b),
        ]
    }

    #[test]
    fn an_unfinished_checksum_becomes_the_right_one_and_a_right_one_stays() {
        for packet in packets() {
            for frame in carried(&packet) {
                let found = find(&frame).unwrap();
                let mut spoilt = frame.clone();
                put16(&mut spoilt, found.field, found.pseudo);
                assert_eq!(finish(&mut spoilt), Checksum::Finished);
                assert_eq!(spoilt[found.segment.clone()], frame[found.segment.clone()]);
                assert_ne!(finish(&mut spoilt), Checksum::Finished);
                assert_eq!(spoilt[found.segment.clone()], frame[found.segment]);
            }
        }
    }

    #[test]
    fn a_right_checksum_that_looks_unfinished_stays() {
        let (source, destination) = ("198.51.100.7:4000".parse().unwrap(), "192.0.2.69:69".parse().unwrap());
        let right = (0..=u16::MAX).find_map(|payload| {
            let mut frame = build::udp(source, destination, &payload.to_be_bytes()).frame([0; 6], [0; 6]);
            let before = frame.clone();
            (finish(&mut frame) == Checksum::Right).then(|| assert_eq!(frame, before))
        });
        assert!(right.is_some());
    }

    #[test]
    fn fragments_other_protocols_and_any_bytes_are_left_alone() {
        let packet = packets().pop().unwrap();
        for piece in packet.fragments(7, 64) {
            let mut frame = piece.frame([0; 6], [0; 6]);
            let before = frame.clone();
            assert_eq!((finish(&mut frame), frame), (Checksum::Other, before));
        }
        for frame in carried(&packet) {
            for len in 0..frame.len() {
                let mut cut = frame[..len].to_vec();
                assert_ne!(finish(&mut cut), Checksum::Finished);
            }
        }
    }
}
