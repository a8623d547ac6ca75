//! GRE keepalives. A router that checks its tunnel sends GRE which contains another GRE packet, from us to itself, without a payload (Cisco, "How GRE
//! Keepalives Work"). An endpoint that forwards what is inside answers without knowing of keepalives; without an answer the router takes the tunnel down.

use super::icmp::back_to_router;
use super::outbox::Outbox;
use super::parse::Packet;
use crate::tables::Snapshot;
use guideway_packet::verdict::Reason;
use guideway_packet::wire::layout::protocol::GRE;
use guideway_packet::wire::layout::{gre, ipv4};
use guideway_packet::wire::view::GreView;
use guideway_packet::wire::write::ipv4_checksum;
use std::net::IpAddr;

/// Whether `packet` is a router's keepalive. The kernel filter of `guideway-io` takes exactly these, too.
pub fn is_keepalive(packet: &Packet, frame: &[u8], tables: &Snapshot) -> bool {
    let ip = &packet.ip;
    let ours = matches!(ip.source, IpAddr::V4(source) if tables.address.v4 == Some(source));
    packet.in_gre
        && ours
        && ip.protocol == GRE
        && ip.fragment.is_none()
        && usize::from(ip.header_len) == ipv4::LEN
        && GreView::new(packet.payload(frame)).is_some_and(|view| view.protocol() == gre::KEEPALIVE)
}

/// Sends the packet inside the keepalive back to its router, one hop older. Returns why the keepalive itself ends here.
pub fn reply(packet: &Packet, frame: &[u8], tables: &Snapshot, outbox: &mut Outbox) -> Reason {
    if !tables.routers.contains(packet.ip.destination) {
        return Reason::RouterNotAllowed;
    }
    if packet.ip.ttl < 2 {
        return Reason::TtlExpired;
    }
    let inner = packet.bytes(frame);
    let sent = outbox.originate(packet.l2 + inner.len(), |reply| {
        let (link, bytes) = reply.bytes_mut().split_at_mut(packet.l2);
        back_to_router(link, frame, packet, tables);
        bytes.copy_from_slice(inner);
        bytes[ipv4::TTL] -= 1;
        ipv4_checksum(&mut bytes[..ipv4::LEN]);
        Ok::<(), std::convert::Infallible>(())
    });
    if sent.is_some() { Reason::KeepaliveAnswered } else { Reason::OutboxFull }
}
