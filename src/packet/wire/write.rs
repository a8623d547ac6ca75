//! Writes IP headers without options or extension headers.

use super::checksum::checksum;
use super::layout::{ipv4, ipv6};
use std::net::IpAddr;

/// Writes `value` in network byte order.
#[inline(always)]
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes an IP header over `head`, which has exactly its length. Both addresses are of one family. Length and checksum stay 0.
pub fn ip_template(head: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8, ttl: u8, tos: u8) {
    head.fill(0);
    match destination {
        IpAddr::V4(destination) => {
            head[ipv4::VERSION_IHL] = ipv4::PLAIN;
            head[ipv4::TOS] = tos;
            head[ipv4::TTL] = ttl;
            head[ipv4::PROTOCOL] = protocol;
            if let IpAddr::V4(source) = source {
                head[ipv4::SOURCE..ipv4::SOURCE + 4].copy_from_slice(&source.octets());
            }
            head[ipv4::DESTINATION..ipv4::DESTINATION + 4].copy_from_slice(&destination.octets());
        }
        IpAddr::V6(destination) => {
            ipv6_version_class_label(head, 0, tos, 0);
            head[ipv6::NEXT_HEADER] = protocol;
            head[ipv6::HOP_LIMIT] = ttl;
            if let IpAddr::V6(source) = source {
                head[ipv6::SOURCE..ipv6::SOURCE + 16].copy_from_slice(&source.octets());
            }
            head[ipv6::DESTINATION..ipv6::DESTINATION + 16].copy_from_slice(&destination.octets());
        }
    }
}

/// Writes the first word of the IPv6 header that starts at `at`. `label` has at most 20 bits.
#[inline(always)]
pub fn ipv6_version_class_label(bytes: &mut [u8], at: usize, class: u8, label: u32) {
    let word = u32::from(ipv6::VERSION) << 28 | u32::from(class) << ipv6::FLOW_LABEL_BITS | label;
    bytes[at + ipv6::VERSION_CLASS_LABEL..][..4].copy_from_slice(&word.to_be_bytes());
}

/// Writes the header of a packet with `payload` bytes behind it.
pub fn ip_header(head: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8, ttl: u8, tos: u8, payload: usize) {
    ip_template(head, source, destination, protocol, ttl, tos);
    if destination.is_ipv4() {
        put16(head, ipv4::TOTAL_LEN, (ipv4::LEN + payload) as u16);
        ipv4_checksum(head);
    } else {
        put16(head, ipv6::PAYLOAD_LEN, payload as u16);
    }
}

/// Makes the checksum of an IPv4 header, which is all of `header`, right.
pub fn ipv4_checksum(header: &mut [u8]) {
    put16(header, ipv4::CHECKSUM, 0);
    let check = checksum(header);
    put16(header, ipv4::CHECKSUM, check);
}

/// Bytes of an IP header without options of this address's family.
#[inline]
pub fn ip_header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { ipv4::LEN } else { ipv6::LEN }
}
