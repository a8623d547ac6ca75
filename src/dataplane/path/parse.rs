//! First stage: from a frame to the client's packet inside it. Verifies every length and checksum on the way.

use crate::tables::Snapshot;
use guideway_hash::ClientHasher;
use guideway_hash::successors::fmix64;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::ethernet::{Ethernet, IPV4, IPV6};
use guideway_packet::wire::gre::{self, Gre};
use guideway_packet::wire::ip::{self, Ip};
use guideway_packet::wire::l4::{TCP, UDP};
use guideway_packet::wire::view::PortsView;
use std::net::IpAddr;

/// A packet from a client to one of our addresses or VIPs, still in its frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Bytes of the Ethernet header: 14, or 18 with a VLAN tag.
    pub l2: usize,
    /// Where the client's packet starts in the frame.
    pub inner: usize,
    /// Whether it came in GRE, or without ("plain").
    pub in_gre: bool,
    /// A director of the remote site sent it. It must not go back there.
    pub from_remote_site: bool,
    /// Another director of the fleet sent it. It must not hop again.
    pub from_fleet: bool,
    /// No router sent it: it is for the server of this host, unless it is a fragment of a datagram that this director owns.
    pub for_local_server: bool,
    /// TTL of the outermost header.
    pub ttl: u8,
    /// DSCP and ECN of the outermost header.
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

    /// The payload of its IP header.
    #[inline]
    pub fn payload<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        &self.bytes(frame)[usize::from(self.ip.header_len)..]
    }

    /// A hash of its client, or of the client's address alone where not all fragments of a packet show the port, so that all have the same.
    pub fn entropy(&self, frame: &[u8], hasher: &ClientHasher) -> u64 {
        let whole = self.ip.fragment.is_none() && matches!(self.ip.protocol, UDP | TCP);
        let port = PortsView::new(self.payload(frame)).filter(|_| whole).map_or(0, PortsView::source_port_bytes);
        fmix64(match self.ip.source {
            IpAddr::V4(client) => hasher.v4(u32::from_ne_bytes(client.octets()), port),
            IpAddr::V6(client) => hasher.v6(u128::from_ne_bytes(client.octets()), port),
        })
    }

    /// Hash of the fields that all fragments of a packet share.
    pub fn fragment_key(&self, tables: &Snapshot) -> u64 {
        let ip = &self.ip;
        let (protocol, id) = ip.fragment.map_or((ip.protocol, 0), |f| (f.protocol, f.id));
        tables.hash.fragment(protocol, ip.source, ip.destination, id)
    }
}

/// Unwraps `frame`. A packet that is neither GRE to one of our addresses nor to a VIP belongs to the host.
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
    let from_fleet = tables.fleet.contains(outer.source);
    let allowed = tables.routers.contains(outer.source);
    let for_local_server = tables.local_server.is_some() && (from_fleet || !allowed);
    if !allowed && !for_local_server {
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
    let from_remote_site = tables.remote_site_addresses.contains(outer.source);
    Ok(Packet { l2: ethernet.len, inner, in_gre: true, from_remote_site, from_fleet, for_local_server, ttl: outer.ttl, tos: outer.tos, ip })
}

/// A packet that a router sent to a VIP without GRE.
fn plain(ethernet: &Ethernet, packet: &[u8], tables: &Snapshot) -> Result<Packet, Verdict> {
    // A switch floods broadcasts and unknown destinations. Without this check, every director on the link would forward a copy.
    if ethernet.destination != tables.mac {
        return Err(Verdict::ToHost);
    }
    let ip = Ip::parse(ethernet.ethertype, packet).map_err(Verdict::Drop)?;
    if !ip.checksum_ok(packet) {
        return Err(Verdict::Drop(Reason::BadInnerChecksum));
    }
    Ok(Packet {
        l2: ethernet.len,
        inner: ethernet.len,
        in_gre: false,
        from_remote_site: false,
        from_fleet: false,
        for_local_server: false,
        ttl: ip.ttl,
        tos: ip.tos,
        ip,
    })
}
