//! First stage: from a frame to the client's packet inside it, every length and checksum on the way verified.

use crate::tables::Snapshot;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::ethernet::{Ethernet, IPV4, IPV6};
use guideway_packet::wire::gre::{self, Gre};
use guideway_packet::wire::ip::{self, Ip};

/// A packet from a client to one of our addresses or VIPs, still in its frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Bytes of the Ethernet header: 14, or 18 with a VLAN tag.
    pub l2: usize,
    /// Where the client's packet starts in the frame.
    pub inner: usize,
    /// Whether it came in GRE, or as it is ("plain").
    pub in_gre: bool,
    /// A director of the other site sent it here, where the way ends.
    pub hopped: bool,
    /// TTL of the outermost header that it came with.
    pub ttl: u8,
    /// DSCP and ECN of the outermost header that it came with.
    pub tos: u8,
    /// The header of the client's packet.
    pub ip: Ip,
}

impl Packet {
    /// The client's packet in its frame.
    #[inline]
    pub fn bytes<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        &frame[self.inner..self.inner + usize::from(self.ip.total_len)]
    }

    /// What follows its IP header.
    #[inline]
    pub fn payload<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        &self.bytes(frame)[usize::from(self.ip.header_len)..]
    }
}

/// Unwraps `frame`. What is neither GRE to one of our addresses nor a packet to a VIP belongs to the host.
#[inline]
pub fn parse(frame: &[u8], tables: &Snapshot) -> Result<Packet, Verdict> {
    let ethernet = Ethernet::parse(frame).map_err(Verdict::Drop)?;
    if !matches!(ethernet.ethertype, IPV4 | IPV6) {
        return Err(Verdict::ToHost);
    }
    let packet = &frame[ethernet.len..];
    let destination = ip::destination(ethernet.ethertype, packet).ok_or(Verdict::Drop(Reason::Truncated))?;
    if tables.address.contains(destination) {
        in_gre(&ethernet, packet, tables)
    } else if tables.vips.get(destination).is_some() {
        plain(&ethernet, packet, tables)
    } else {
        Err(Verdict::ToHost)
    }
}

/// A packet to one of our own addresses: GRE from a router, or something for the host.
#[inline]
fn in_gre(ethernet: &Ethernet, packet: &[u8], tables: &Snapshot) -> Result<Packet, Verdict> {
    let outer = Ip::parse(ethernet.ethertype, packet).map_err(Verdict::Drop)?;
    if !outer.checksum_ok(packet) {
        return Err(Verdict::Drop(Reason::BadOuterChecksum));
    }
    if outer.protocol != gre::PROTOCOL {
        return Err(Verdict::ToHost);
    }
    if !tables.routers.contains(outer.source) {
        return Err(Verdict::Drop(Reason::RouterNotAllowed));
    }
    if outer.fragment.is_some() {
        return Err(Verdict::Drop(Reason::OuterFragment));
    }
    let payload = &packet[usize::from(outer.header_len)..usize::from(outer.total_len)];
    let gre = Gre::parse(payload).map_err(Verdict::Drop)?;
    if !matches!(gre.protocol, IPV4 | IPV6) {
        return Err(Verdict::Drop(Reason::GreProtocol));
    }
    let inner = &payload[gre.len..];
    let ip = Ip::parse(gre.protocol, inner).map_err(Verdict::Drop)?;
    if !ip.checksum_ok(inner) {
        return Err(Verdict::Drop(Reason::BadInnerChecksum));
    }
    let inner = ethernet.len + usize::from(outer.header_len) + gre.len;
    let hopped = tables.site_addresses.contains(outer.source);
    Ok(Packet { l2: ethernet.len, inner, in_gre: true, hopped, ttl: outer.ttl, tos: outer.tos, ip })
}

/// A packet that a router sent to a VIP without GRE.
fn plain(ethernet: &Ethernet, packet: &[u8], tables: &Snapshot) -> Result<Packet, Verdict> {
    // A switch floods broadcasts and what it has not learned yet: without this, every director on the link would forward a copy.
    if ethernet.destination != tables.mac {
        return Err(Verdict::ToHost);
    }
    let ip = Ip::parse(ethernet.ethertype, packet).map_err(Verdict::Drop)?;
    if !ip.checksum_ok(packet) {
        return Err(Verdict::Drop(Reason::BadInnerChecksum));
    }
    Ok(Packet { l2: ethernet.len, inner: ethernet.len, in_gre: false, hopped: false, ttl: ip.ttl, tos: ip.tos, ip })
}
