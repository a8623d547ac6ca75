//! The mark at the end of every UDP payload that pkt-gen sends: a sequence number, when it was sent, and what makes it recognisable.
//!
//! Its seven words always have the same one's complement sum. So the UDP checksum of a frame does not change when the tag does, and that sum is what a
//! receiver knows it by.

use guideway_packet::wire::checksum::{fold, sum};
use guideway_packet::wire::ethernet::{Ethernet, IPV4, IPV6};
use guideway_packet::wire::gre::{self, Gre};
use guideway_packet::wire::ip::Ip;
use guideway_packet::wire::l4::UDP;

/// Bytes of a tag. It stands at an even place of its datagram.
pub const LEN: usize = 14;
/// What the words of every tag add up to.
const SUM: u16 = 0x9c5a;

/// What a tag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The lower 32 bits of the number of the frame, from 0.
    pub seq: u32,
    /// When it was sent, in nanoseconds of the monotonic clock of the sending machine.
    pub sent: u64,
}

impl Tag {
    /// Its bytes.
    pub fn bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&self.seq.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.sent.to_be_bytes());
        let check = fold(u64::from(SUM) + u64::from(!sum(&bytes[..12])));
        bytes[12..].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    /// The tag at the end of `payload`, if there is one.
    pub fn read(payload: &[u8]) -> Option<Tag> {
        let bytes = payload.last_chunk::<LEN>()?;
        let (seq, rest) = bytes.split_first_chunk::<4>()?;
        let (sent, _) = rest.split_first_chunk::<8>()?;
        (sum(bytes) == SUM).then(|| Tag { seq: u32::from_be_bytes(*seq), sent: u64::from_be_bytes(*sent) })
    }

    /// The tag of the UDP datagram in `frame`, in GRE or as it is.
    pub fn in_frame(frame: &[u8]) -> Option<Tag> {
        let ethernet = Ethernet::parse(frame).ok()?;
        if !matches!(ethernet.ethertype, IPV4 | IPV6) {
            return None;
        }
        let packet = &frame[ethernet.len..];
        let outer = Ip::parse(ethernet.ethertype, packet).ok()?;
        let payload = &packet[usize::from(outer.header_len)..usize::from(outer.total_len)];
        if outer.protocol != gre::PROTOCOL {
            return datagram(&outer, payload);
        }
        let gre = Gre::parse(payload).ok().filter(|gre| matches!(gre.protocol, IPV4 | IPV6))?;
        let inner = &payload[gre.len..];
        let ip = Ip::parse(gre.protocol, inner).ok()?;
        datagram(&ip, &inner[usize::from(ip.header_len)..usize::from(ip.total_len)])
    }
}

fn datagram(ip: &Ip, payload: &[u8]) -> Option<Tag> {
    (ip.protocol == UDP && ip.fragment.is_none()).then(|| Tag::read(payload.get(8..)?)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::build;
    use guideway_packet::wire::checksum;

    #[test]
    fn what_is_written_is_read_and_the_sum_is_always_the_same() {
        for (seq, sent) in [(0, 0), (1, u64::MAX), (u32::MAX, 1 << 40), (0xdead_beef, 123_456_789)] {
            let tag = Tag { seq, sent };
            assert_eq!(checksum::sum(&tag.bytes()), SUM);
            assert_eq!(Tag::read(&[&b"before it"[..], &tag.bytes()].concat()), Some(tag));
            let mut spoilt = tag.bytes();
            spoilt[3] ^= 4;
            assert_eq!(Tag::read(&spoilt), None);
        }
        assert_eq!(Tag::read(&[0; 13]), None);
    }

    #[test]
    fn it_is_found_in_gre_and_without() {
        let tag = Tag { seq: 7, sent: 8 };
        let packet = build::udp("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:53".parse().unwrap(), &tag.bytes());
        let wrapped = packet.gre([10, 1, 1, 1].into(), [10, 1, 1, 2].into());
        for frame in [packet.frame([2; 6], [4; 6]), wrapped.frame([2; 6], [4; 6])] {
            assert_eq!(Tag::in_frame(&frame), Some(tag));
            (0..frame.len()).for_each(|len| assert_eq!(Tag::in_frame(&frame[..len]), None, "cut to {len} bytes"));
        }
    }
}
