//! The fast reader: IP without options or extension headers, whole packets, right checksums, UDP with an opcode. Nearly every packet is like that.
//!
//! It returns `None` for anything else, right or wrong; [`super::ip`] and [`super::l4`] then decide which. All of them read through [`super::view`].
//!
//! A reader is given more bytes than its header belongs to, usually all of the frame that are left. So it also gets the end of the packet around it: the
//! header lies `before` bytes behind the start of a packet of `limit` bytes, and its own length must fit there. When every header in a frame was read, each
//! length lies within the one around it.

use super::l4::Ports;
use super::layout::{ethernet, ipv4, ipv6, ports, udp};
use super::view::{Ipv4View, Ipv6View, PortsView, UdpView};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The header of a whole IP packet without options or extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainIp<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Protocol of the payload.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Bytes of the packet by its own account: too few for the header only if they are too few for anything behind it.
    pub total_len: u16,
}

/// An IPv4 or an IPv6 address, and the header that it stands in.
pub trait Address: Copy + Eq {
    /// Bytes of the header.
    const HEADER_LEN: usize;
    /// EtherType of a packet between such addresses.
    const ETHERTYPE: u16;

    /// Returns source, destination and protocol in the header at the start of `bytes`, before any check.
    fn peek(bytes: &[u8]) -> Option<(Self, Self, u8)>;

    /// Returns the source and the source port, as its two bytes stand, of the UDP or TCP packet at the start of `bytes`, before any check.
    fn client(bytes: &[u8]) -> Option<(Self, u16)>;

    /// Reads the header at the start of `bytes`.
    fn read(bytes: &[u8], before: usize, limit: usize) -> Option<PlainIp<Self>>;
}

/// Bytes of IPv4 header and ports.
pub const V4_WITH_PORTS: usize = ipv4::LEN + ports::LEN;
/// Bytes of IPv6 header and ports.
pub const V6_WITH_PORTS: usize = ipv6::LEN + ports::LEN;

impl Address for Ipv4Addr {
    const HEADER_LEN: usize = ipv4::LEN;
    const ETHERTYPE: u16 = ethernet::IPV4;

    #[inline(always)]
    fn peek(bytes: &[u8]) -> Option<(Self, Self, u8)> {
        Ipv4View::new(bytes).map(|ip| (ip.source(), ip.destination(), ip.protocol()))
    }

    #[inline(always)]
    fn client(bytes: &[u8]) -> Option<(Self, u16)> {
        let bytes = bytes.first_chunk::<V4_WITH_PORTS>()?;
        Some((Ipv4View::new(bytes)?.source(), PortsView::new(&bytes[ipv4::LEN..])?.source_port_bytes()))
    }

    #[inline(always)]
    fn read(bytes: &[u8], before: usize, limit: usize) -> Option<PlainIp<Self>> {
        let ip = Ipv4View::new(bytes)?;
        let total_len = ip.total_len();
        if !ip.is_plain() || ip.is_fragment() || before + usize::from(total_len) > limit || !ip.plain_checksum_ok() {
            return None;
        }
        let (source, destination) = (ip.source(), ip.destination());
        Some(PlainIp { source, destination, protocol: ip.protocol(), ttl: ip.ttl(), tos: ip.tos(), total_len })
    }
}

impl Address for Ipv6Addr {
    const HEADER_LEN: usize = ipv6::LEN;
    const ETHERTYPE: u16 = ethernet::IPV6;

    #[inline(always)]
    fn peek(bytes: &[u8]) -> Option<(Self, Self, u8)> {
        Ipv6View::new(bytes).map(|ip| (ip.source(), ip.destination(), ip.next_header()))
    }

    #[inline(always)]
    fn client(bytes: &[u8]) -> Option<(Self, u16)> {
        let bytes = bytes.first_chunk::<V6_WITH_PORTS>()?;
        Some((Ipv6View::new(bytes)?.source(), PortsView::new(&bytes[ipv6::LEN..])?.source_port_bytes()))
    }

    #[inline(always)]
    fn read(bytes: &[u8], before: usize, limit: usize) -> Option<PlainIp<Self>> {
        let ip = Ipv6View::new(bytes)?;
        let total_len = ip.total_len()?;
        if ip.version() != ipv6::VERSION || before + usize::from(total_len) > limit {
            return None;
        }
        let (source, destination) = (ip.source(), ip.destination());
        Some(PlainIp { source, destination, protocol: ip.next_header(), ttl: ip.hop_limit(), tos: ip.traffic_class(), total_len })
    }
}

/// The header of a whole UDP datagram, and the start of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainUdp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// First 16 bits of the payload: TFTP's opcode.
    pub opcode: u16,
}

impl PlainUdp {
    /// Bytes of header and opcode.
    pub const LEN: usize = udp::LEN + size_of::<u16>();

    /// Reads the header at the start of `bytes`.
    #[inline(always)]
    pub fn read(bytes: &[u8], before: usize, limit: usize) -> Option<PlainUdp> {
        let [.., high, low] = *bytes.first_chunk::<{ PlainUdp::LEN }>()?;
        let udp = UdpView::new(bytes)?;
        let len = usize::from(udp.length());
        if len < PlainUdp::LEN || before + len > limit {
            return None;
        }
        Some(PlainUdp { source: udp.source_port(), destination: udp.destination_port(), opcode: u16::from_be_bytes([high, low]) })
    }
}

impl From<PlainUdp> for Ports {
    #[inline(always)]
    fn from(udp: PlainUdp) -> Ports {
        Ports { source: udp.source, destination: udp.destination, opcode: Some(udp.opcode), opens_connection: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::Ip;
    use crate::wire::l4::UDP;
    use proptest::prelude::*;

    /// The same by the reader of every IP packet, where the fast one has to agree.
    fn slow<A: Address + Into<std::net::IpAddr>>(bytes: &[u8], plain: PlainIp<A>) {
        if usize::from(plain.total_len) < A::HEADER_LEN {
            return;
        }
        let ip = Ip::parse(A::ETHERTYPE, bytes).unwrap();
        assert!(ip.checksum_ok(bytes));
        assert_eq!((ip.source, ip.destination), (plain.source.into(), plain.destination.into()));
        assert_eq!((ip.ttl, ip.tos, ip.fragment), (plain.ttl, plain.tos, None));
        assert_eq!(ip.total_len, plain.total_len);
        if usize::from(ip.header_len) == A::HEADER_LEN {
            assert_eq!(ip.protocol, plain.protocol);
            let payload = &bytes[A::HEADER_LEN..usize::from(ip.total_len)];
            let slow = Ports::parse(UDP, payload, false).and_then(Result::ok);
            let fast = PlainUdp::read(&bytes[A::HEADER_LEN..], A::HEADER_LEN, plain.total_len.into());
            assert_eq!(fast.map(Ports::from), slow.filter(|ports| ports.opcode.is_some()));
        }
    }

    proptest! {
        #[test]
        fn both_readers_agree(mut bytes in prop::collection::vec(any::<u8>(), 0..80), v4: bool, fix: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if v4 { ipv4::PLAIN } else { ipv6::VERSION << 4 };
            }
            if fix && bytes.len() >= ipv4::LEN {
                let len = bytes.len() as u16;
                if v4 {
                    crate::wire::write::put16(&mut bytes, ipv4::TOTAL_LEN, len);
                    bytes[ipv4::FLAGS_AND_OFFSET] &= 0xc0;
                    bytes[ipv4::FLAGS_AND_OFFSET + 1] = 0;
                    crate::wire::write::ipv4_checksum(&mut bytes[..ipv4::LEN]);
                } else {
                    crate::wire::write::put16(&mut bytes, ipv6::PAYLOAD_LEN, len.saturating_sub(ipv6::LEN as u16));
                }
            }
            if v4 {
                let plain = Ipv4Addr::read(&bytes, 0, bytes.len());
                prop_assert!(plain.is_some() || !fix || bytes.len() < ipv4::LEN);
                plain.into_iter().for_each(|plain| slow(&bytes, plain));
            } else if let Some(plain) = Ipv6Addr::read(&bytes, 0, bytes.len()) && !matches!(plain.protocol, 0 | 43 | 44 | 51 | 60) {
                slow(&bytes, plain);
            }
        }
    }
}
