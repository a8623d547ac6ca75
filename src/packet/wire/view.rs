//! Views of the fixed part of each header: the field accessors and checks that every reader shares.
//!
//! Each view has one constructor, which fails when the bytes end before the header does. Nothing else can fail or panic. A view checks no value; the
//! readers beside it ([`super::ip`], [`super::gre`], …) do, and so does the fast path of `guideway-dataplane`.

use super::layout::{ethernet, gre, ipv4, ipv6, ports, tcp, udp};
use std::net::{Ipv4Addr, Ipv6Addr};

#[inline(always)]
fn take<const WIDTH: usize, const N: usize>(bytes: &[u8; N], at: usize) -> [u8; WIDTH] {
    // Every offset is a constant within the header, so the compiler drops the check.
    bytes[at..].first_chunk().copied().unwrap_or([0; WIDTH])
}

#[inline(always)]
fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes(take(bytes, at))
}

macro_rules! views {
    ($( $(#[$doc:meta])* $name:ident: $len:expr; )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'p>(&'p [u8; $len]);

        impl<'p> $name<'p> {
            /// The header at the start of `bytes`; `None` when they end before it does.
            #[inline(always)]
            pub fn new(bytes: &'p [u8]) -> Option<Self> {
                bytes.first_chunk().map($name)
            }
        }
    )* };
}

views! {
    /// Ethernet II, without its tag.
    EthernetView: ethernet::LEN;
    /// IPv4 without its options.
    Ipv4View: ipv4::LEN;
    /// IPv6 without its extension headers.
    Ipv6View: ipv6::LEN;
    /// An IPv6 extension header, as far as all have it.
    ExtensionView: ipv6::extension::LEN;
    /// GRE without its optional fields.
    GreView: gre::LEN;
    /// The ports of UDP or TCP.
    PortsView: ports::LEN;
    /// UDP.
    UdpView: udp::LEN;
    /// TCP without its options.
    TcpView: tcp::LEN;
}

impl EthernetView<'_> {
    /// Destination address.
    #[inline(always)]
    pub fn destination(self) -> [u8; 6] {
        take(self.0, ethernet::DESTINATION)
    }

    /// Source address.
    #[inline(always)]
    pub fn source(self) -> [u8; 6] {
        take(self.0, ethernet::SOURCE)
    }

    /// EtherType: of the payload, or of a tag.
    #[inline(always)]
    pub fn ethertype(self) -> u16 {
        be16(self.0, ethernet::ETHERTYPE)
    }
}

impl Ipv4View<'_> {
    /// Version.
    #[inline(always)]
    pub fn version(self) -> u8 {
        self.0[ipv4::VERSION_IHL] >> 4
    }

    /// Header length in bytes, options included.
    #[inline(always)]
    pub fn header_len(self) -> u16 {
        u16::from(self.0[ipv4::VERSION_IHL] & ipv4::IHL_MASK) * 4
    }

    /// Whether this is version 4 without options.
    #[inline(always)]
    pub fn is_plain(self) -> bool {
        self.0[ipv4::VERSION_IHL] == ipv4::PLAIN
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub fn tos(self) -> u8 {
        self.0[ipv4::TOS]
    }

    /// Bytes of the packet, header included.
    #[inline(always)]
    pub fn total_len(self) -> u16 {
        be16(self.0, ipv4::TOTAL_LEN)
    }

    /// Identification.
    #[inline(always)]
    pub fn identification(self) -> u16 {
        be16(self.0, ipv4::IDENTIFICATION)
    }

    #[inline(always)]
    fn flags_and_offset(self) -> u16 {
        be16(self.0, ipv4::FLAGS_AND_OFFSET)
    }

    /// Don't Fragment.
    #[inline(always)]
    pub fn dont_fragment(self) -> bool {
        self.flags_and_offset() & ipv4::DONT_FRAGMENT != 0
    }

    /// More Fragments.
    #[inline(always)]
    pub fn more_fragments(self) -> bool {
        self.flags_and_offset() & ipv4::MORE_FRAGMENTS != 0
    }

    /// Offset of this fragment in bytes.
    #[inline(always)]
    pub fn fragment_offset(self) -> u16 {
        (self.flags_and_offset() & ipv4::OFFSET_MASK) * 8
    }

    /// Whether this is one fragment of several.
    #[inline(always)]
    pub fn is_fragment(self) -> bool {
        self.flags_and_offset() & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) != 0
    }

    /// TTL.
    #[inline(always)]
    pub fn ttl(self) -> u8 {
        self.0[ipv4::TTL]
    }

    /// Protocol of the payload.
    #[inline(always)]
    pub fn protocol(self) -> u8 {
        self.0[ipv4::PROTOCOL]
    }

    /// Source address.
    #[inline(always)]
    pub fn source(self) -> Ipv4Addr {
        take::<4, _>(self.0, ipv4::SOURCE).into()
    }

    /// Destination address.
    #[inline(always)]
    pub fn destination(self) -> Ipv4Addr {
        take::<4, _>(self.0, ipv4::DESTINATION).into()
    }

    /// Whether the checksum of a header without options ([`Ipv4View::is_plain`]) is right.
    #[inline(always)]
    pub fn plain_checksum_ok(self) -> bool {
        // RFC 1071 section 2 (B): the sum may be taken in any byte order; and (A): in words of any size. It is then a multiple of 0xffff, as 2^16 leaves
        // a remainder of 1; and not 0, as the first byte is not.
        let words = [u64::from_le_bytes(take(self.0, 0)), u64::from_le_bytes(take(self.0, 8)), u32::from_le_bytes(take(self.0, 16)).into()];
        let sum = add(add(words[0], words[1]), words[2]);
        // `sum.is_multiple_of(0xffff)`, without the division that the compiler does not always see to be unnecessary: times the inverse of 0xffff modulo
        // 2^64, multiples become their quotients, and no other number one so small (Warren, Hacker's Delight, section 10-17).
        sum.wrapping_mul(0xfffe_fffe_fffe_ffff) <= u64::MAX / 0xffff
    }
}

/// One's complement sum.
#[inline(always)]
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

impl Ipv6View<'_> {
    /// Version.
    #[inline(always)]
    pub fn version(self) -> u8 {
        self.0[ipv6::VERSION_CLASS_LABEL] >> 4
    }

    /// Traffic class: DSCP and ECN.
    #[inline(always)]
    pub fn traffic_class(self) -> u8 {
        (be16(self.0, ipv6::VERSION_CLASS_LABEL) >> 4) as u8
    }

    /// Flow label.
    #[inline(always)]
    pub fn flow_label(self) -> u32 {
        u32::from_be_bytes(take(self.0, ipv6::VERSION_CLASS_LABEL)) & ((1 << ipv6::FLOW_LABEL_BITS) - 1)
    }

    /// Bytes after this header.
    #[inline(always)]
    pub fn payload_len(self) -> u16 {
        be16(self.0, ipv6::PAYLOAD_LEN)
    }

    /// Bytes of the packet, header included; `None` when they are more than 65,535.
    #[inline(always)]
    pub fn total_len(self) -> Option<u16> {
        self.payload_len().checked_add(ipv6::LEN as u16)
    }

    /// Protocol of the payload, or kind of the first extension header.
    #[inline(always)]
    pub fn next_header(self) -> u8 {
        self.0[ipv6::NEXT_HEADER]
    }

    /// Hop limit.
    #[inline(always)]
    pub fn hop_limit(self) -> u8 {
        self.0[ipv6::HOP_LIMIT]
    }

    /// Source address.
    #[inline(always)]
    pub fn source(self) -> Ipv6Addr {
        take::<16, _>(self.0, ipv6::SOURCE).into()
    }

    /// Destination address.
    #[inline(always)]
    pub fn destination(self) -> Ipv6Addr {
        take::<16, _>(self.0, ipv6::DESTINATION).into()
    }
}

impl ExtensionView<'_> {
    /// Protocol of what follows, or kind of the next extension header.
    pub fn next_header(self) -> u8 {
        self.0[ipv6::extension::NEXT_HEADER]
    }

    /// The length field, whose unit depends on the kind.
    pub fn header_len(self) -> u8 {
        self.0[ipv6::extension::HEADER_LEN]
    }

    /// Of a fragment header: offset in bytes.
    pub fn fragment_offset(self) -> u16 {
        be16(self.0, ipv6::extension::FRAGMENT_OFFSET) & ipv6::extension::OFFSET_MASK
    }

    /// Of a fragment header: whether more fragments follow.
    pub fn more_fragments(self) -> bool {
        be16(self.0, ipv6::extension::FRAGMENT_OFFSET) & ipv6::extension::MORE_FRAGMENTS != 0
    }

    /// Of a fragment header: identification.
    pub fn identification(self) -> u32 {
        u32::from_be_bytes(take(self.0, ipv6::extension::FRAGMENT_IDENTIFICATION))
    }
}

impl GreView<'_> {
    /// Flags: which optional fields follow.
    #[inline(always)]
    pub fn flags(self) -> u8 {
        self.0[gre::FLAGS]
    }

    /// Version.
    #[inline(always)]
    pub fn version(self) -> u8 {
        self.0[gre::VERSION] & gre::VERSION_MASK
    }

    /// EtherType of the payload.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        be16(self.0, gre::PROTOCOL)
    }

    /// Whether this is a header of version 0 without optional fields, before a payload of this EtherType.
    #[inline(always)]
    pub fn is_plain(self, ethertype: u16) -> bool {
        u32::from_be_bytes(*self.0) == u32::from(ethertype)
    }
}

macro_rules! ports {
    ($($view:ident)*) => { $(
        impl $view<'_> {
            /// Source port.
            #[inline(always)]
            pub fn source_port(self) -> u16 {
                be16(self.0, ports::SOURCE)
            }

            /// Destination port.
            #[inline(always)]
            pub fn destination_port(self) -> u16 {
                be16(self.0, ports::DESTINATION)
            }
        }
    )* };
}

ports! { PortsView UdpView TcpView }

impl PortsView<'_> {
    /// Source port in network byte order, as a number of this machine.
    #[inline(always)]
    pub fn source_port_bytes(self) -> u16 {
        u16::from_ne_bytes(take(self.0, ports::SOURCE))
    }
}

impl UdpView<'_> {
    /// Bytes of the datagram, header included.
    #[inline(always)]
    pub fn length(self) -> u16 {
        be16(self.0, udp::LENGTH)
    }
}

impl TcpView<'_> {
    /// Header length in bytes, options included.
    #[inline(always)]
    pub fn header_len(self) -> usize {
        usize::from(self.0[tcp::DATA_OFFSET] >> 4) * 4
    }

    /// Whether a client opens a connection with it: SYN without ACK.
    #[inline(always)]
    pub fn opens_connection(self) -> bool {
        self.0[tcp::FLAGS] & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::{checksum, intact};
    use pnet_packet::{ethernet::EthernetPacket, ipv4::Ipv4Packet, ipv6::Ipv6Packet, tcp::TcpPacket, udp::UdpPacket};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_field_is_where_pnet_packet_reads_it(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let (ours, theirs) = (EthernetView::new(&bytes), EthernetPacket::new(&bytes));
            prop_assert_eq!(
                ours.map(|e| (e.destination(), e.source(), e.ethertype())),
                theirs.map(|e| (e.get_destination().octets(), e.get_source().octets(), e.get_ethertype().0))
            );
            let (ours, theirs) = (Ipv4View::new(&bytes), Ipv4Packet::new(&bytes));
            prop_assert_eq!(
                ours.map(|ip| (ip.version(), ip.header_len(), ip.tos(), ip.total_len(), ip.identification())),
                theirs.as_ref().map(|ip| {
                    let tos = ip.get_dscp() << 2 | ip.get_ecn();
                    (ip.get_version(), u16::from(ip.get_header_length()) * 4, tos, ip.get_total_length(), ip.get_identification())
                })
            );
            prop_assert_eq!(
                ours.map(|ip| (ip.dont_fragment(), ip.more_fragments(), ip.fragment_offset(), ip.is_fragment())),
                theirs.as_ref().map(|ip| {
                    let (flags, offset) = (ip.get_flags(), ip.get_fragment_offset());
                    (flags & 2 != 0, flags & 1 != 0, offset * 8, flags & 1 != 0 || offset != 0)
                })
            );
            prop_assert_eq!(
                ours.map(|ip| (ip.ttl(), ip.protocol(), ip.source(), ip.destination())),
                theirs.as_ref().map(|ip| (ip.get_ttl(), ip.get_next_level_protocol().0, ip.get_source(), ip.get_destination()))
            );
            let (ours, theirs) = (Ipv6View::new(&bytes), Ipv6Packet::new(&bytes));
            prop_assert_eq!(
                ours.map(|ip| {
                    let first = (ip.version(), ip.traffic_class(), ip.flow_label());
                    (first, ip.payload_len(), ip.next_header(), ip.hop_limit(), ip.source(), ip.destination())
                }),
                theirs.map(|ip| {
                    let first = (ip.get_version(), ip.get_traffic_class(), ip.get_flow_label());
                    let (len, next, hops) = (ip.get_payload_length(), ip.get_next_header().0, ip.get_hop_limit());
                    (first, len, next, hops, ip.get_source(), ip.get_destination())
                })
            );
            prop_assert_eq!(
                UdpView::new(&bytes).map(|udp| (udp.source_port(), udp.destination_port(), udp.length())),
                UdpPacket::new(&bytes).map(|udp| (udp.get_source(), udp.get_destination(), udp.get_length()))
            );
            prop_assert_eq!(
                TcpView::new(&bytes).map(|tcp| (tcp.source_port(), tcp.destination_port(), tcp.header_len(), tcp.opens_connection())),
                TcpPacket::new(&bytes).map(|tcp| {
                    let opens = tcp.get_flags() & 0x12 == 0x02;
                    (tcp.get_source(), tcp.get_destination(), usize::from(tcp.get_data_offset()) * 4, opens)
                })
            );
        }

        #[test]
        fn a_header_is_intact_when_its_checksum_is(mut header: [u8; ipv4::LEN], spoilt: bool) {
            header[ipv4::VERSION_IHL] = ipv4::PLAIN;
            if !spoilt {
                header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].fill(0);
                let check = checksum(&header).to_be_bytes();
                header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&check);
            }
            prop_assert_eq!(Ipv4View::new(&header).map(Ipv4View::plain_checksum_ok), Some(intact(&header)));
        }
    }
}
