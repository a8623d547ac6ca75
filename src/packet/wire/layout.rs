//! Where each field of a header stands. Nothing else in the workspace knows an offset, a length or a mask of these headers.
//!
//! [`super::view`] reads the fields, [`super::write`] writes them, and the XDP program of `guideway-io` is assembled from the same numbers. Offsets and
//! lengths are in bytes, from the start of the header they belong to. Tests compare every field with the `pnet_packet` crate.
#![allow(missing_docs)] // The names are those of the RFCs.

/// Ethernet II, with the tags of IEEE 802.1Q.
pub mod ethernet {
    pub const DESTINATION: usize = 0;
    pub const SOURCE: usize = 6;
    pub const ETHERTYPE: usize = 12;
    pub const LEN: usize = 14;
    /// A tag stands before the EtherType and starts with an EtherType of its own.
    pub const TAG_LEN: usize = 4;
    pub const TAGGED_LEN: usize = LEN + TAG_LEN;

    pub const IPV4: u16 = 0x0800;
    pub const IPV6: u16 = 0x86dd;
    /// A customer tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A service tag (802.1ad).
    pub const VLAN_SERVICE: u16 = 0x88a8;
}

/// IPv4 (RFC 791 section 3.1).
pub mod ipv4 {
    /// Version in the upper half, header length in words of 4 bytes in the lower.
    pub const VERSION_IHL: usize = 0;
    pub const TOS: usize = 1;
    pub const TOTAL_LEN: usize = 2;
    pub const IDENTIFICATION: usize = 4;
    pub const FLAGS_AND_OFFSET: usize = 6;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const SOURCE: usize = 12;
    pub const DESTINATION: usize = 16;
    /// Bytes of a header without options.
    pub const LEN: usize = 20;

    pub const VERSION: u8 = 4;
    pub const IHL_MASK: u8 = 0x0f;
    /// [`VERSION_IHL`] of a header without options.
    pub const PLAIN: u8 = VERSION << 4 | (LEN / 4) as u8;
    pub const DONT_FRAGMENT: u16 = 0x4000;
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// The fragment's offset, in units of 8 bytes.
    pub const OFFSET_MASK: u16 = 0x1fff;
}

/// IPv6 (RFC 8200 section 3), and its extension headers (section 4).
pub mod ipv6 {
    /// Version in the upper half of the first byte, then 8 bits of traffic class, then 20 of flow label.
    pub const VERSION_CLASS_LABEL: usize = 0;
    pub const PAYLOAD_LEN: usize = 4;
    pub const NEXT_HEADER: usize = 6;
    pub const HOP_LIMIT: usize = 7;
    pub const SOURCE: usize = 8;
    pub const DESTINATION: usize = 24;
    pub const LEN: usize = 40;

    pub const VERSION: u8 = 6;
    pub const FLOW_LABEL_BITS: u32 = 20;

    /// Offsets in an extension header.
    pub mod extension {
        use super::super::protocol::{AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING};

        /// The protocol numbers that are extension headers which everybody can walk (RFC 8200 section 4.1, RFC 4302).
        pub const KINDS: [u8; 5] = [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS];
        pub const NEXT_HEADER: usize = 0;
        /// In units of 8 bytes without the first 8; of an authentication header in units of 4 bytes without the first 8 (RFC 4302 section 2.2).
        pub const HEADER_LEN: usize = 1;
        pub const FRAGMENT_OFFSET: usize = 2;
        pub const FRAGMENT_IDENTIFICATION: usize = 4;
        /// Bytes of the shortest extension header, and of a fragment header.
        pub const LEN: usize = 8;
        /// The fragment's offset in bytes.
        pub const OFFSET_MASK: u16 = 0xfff8;
        pub const MORE_FRAGMENTS: u16 = 1;
    }
}

/// GRE (RFC 2784) with key and sequence number (RFC 2890).
pub mod gre {
    pub const FLAGS: usize = 0;
    pub const VERSION: usize = 1;
    pub const PROTOCOL: usize = 2;
    /// Bytes of a header without optional fields.
    pub const LEN: usize = 4;
    /// Bytes of each optional field.
    pub const FIELD_LEN: usize = 4;
    /// The optional field that comes first, if it is there.
    pub const CHECKSUM: usize = 4;

    pub const HAS_CHECKSUM: u8 = 0x80;
    pub const HAS_KEY: u8 = 0x20;
    pub const HAS_SEQUENCE: u8 = 0x10;
    /// Bits 1, 4 and 5: "a receiver MUST discard a packet where any of bits 1-5 are non-zero, unless that receiver implements RFC 1701"
    /// (RFC 2784 section 2.3); bits 2 and 3 became key and sequence number (RFC 2890).
    pub const MUST_BE_ZERO: u8 = 0x4c;
    pub const VERSION_MASK: u8 = 0x07;

    /// [`PROTOCOL`] of a keepalive: nothing follows. A router sends one inside GRE, addressed to itself, and expects to get it back.
    pub const KEEPALIVE: u16 = 0;
}

/// The start of both UDP and TCP.
pub mod ports {
    pub const SOURCE: usize = 0;
    pub const DESTINATION: usize = 2;
    pub const LEN: usize = 4;
}

/// UDP (RFC 768), behind its [`ports`].
pub mod udp {
    pub const LENGTH: usize = 4;
    pub const CHECKSUM: usize = 6;
    pub const LEN: usize = 8;
}

/// TCP (RFC 9293 section 3.1), behind its [`ports`].
pub mod tcp {
    /// Header length in words of 4 bytes, in the upper half.
    pub const DATA_OFFSET: usize = 12;
    pub const FLAGS: usize = 13;
    pub const SYN: u8 = 0x02;
    pub const ACK: u8 = 0x10;
    pub const CHECKSUM: usize = 16;
    /// Bytes of a header without options.
    pub const LEN: usize = 20;
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443).
pub mod icmp {
    use std::ops::RangeInclusive;

    pub const TYPE: usize = 0;
    pub const CODE: usize = 1;
    pub const CHECKSUM: usize = 2;
    /// The MTU in "fragmentation needed" (RFC 1191 section 4).
    pub const MTU_V4: usize = 6;
    /// The MTU in "packet too big" (RFC 4443 section 3.2), 4 bytes.
    pub const MTU_V6: usize = 4;
    /// Bytes before the quoted packet of an error, or the data of an echo.
    pub const LEN: usize = 8;

    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    /// Code of [`UNREACHABLE`].
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    pub const SOURCE_QUENCH: u8 = 4;
    pub const ECHO_REQUEST: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;

    pub const V6_PACKET_TOO_BIG: u8 = 2;
    pub const V6_TIME_EXCEEDED: u8 = 3;
    /// "ICMPv6 error messages" (RFC 4443 section 2.1).
    pub const V6_ERRORS: RangeInclusive<u8> = 1..=127;
    pub const V6_ECHO_REQUEST: u8 = 128;
    pub const V6_ECHO_REPLY: u8 = 129;
    /// Neighbour and router discovery, redirects (RFC 4861).
    pub const V6_NEIGHBOUR_DISCOVERY: RangeInclusive<u8> = 133..=137;
}

/// Protocol numbers (IANA), in IPv4's protocol and IPv6's next-header field.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const GRE: u8 = 47;
    pub const ICMPV6: u8 = 58;

    // IPv6 extension headers.
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// TFTP (RFC 1350 section 5, RFC 2347): its opcodes.
pub mod tftp {
    pub const READ_REQUEST: u16 = 1;
    pub const WRITE_REQUEST: u16 = 2;
    pub const DATA: u16 = 3;
    pub const ACKNOWLEDGEMENT: u16 = 4;
    pub const ERROR: u16 = 5;
    pub const OPTION_ACKNOWLEDGEMENT: u16 = 6;
}
