//! Second stage: (destination, protocol, port) → service, and what kind of packet this is.

use super::flow::Flow;
use super::keepalive;
use super::parse::Packet;
use crate::tables::Unmatched;
use crate::tables::{Snapshot, Vip};
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::icmp::Message;
use guideway_packet::wire::ip::{ICMP, ICMPV6};
use guideway_packet::wire::l4::Ports;

/// The kinds of packets to a VIP.
#[derive(Clone, Copy, Debug)]
pub enum PacketKind<'t> {
    /// A packet of a service's flow that shows its ports.
    Flow(Flow),
    /// ICMP: an error about a flow, an echo request, or something to ignore.
    Icmp(&'t Vip),
    /// A fragment that does not show its ports.
    LaterFragment,
    /// A router's GRE keepalive.
    Keepalive,
}

/// Tells the kind of `packet`, whose bytes are in `frame`.
#[inline]
pub fn find<'t>(packet: &Packet, frame: &[u8], tables: &'t Snapshot) -> Result<PacketKind<'t>, Verdict> {
    let ip = &packet.ip;
    let Some(vip) = tables.vips.get(ip.destination) else {
        if keepalive::is_keepalive(packet, frame, tables) {
            return Ok(PacketKind::Keepalive);
        }
        return Err(match tables.unmatched {
            Unmatched::Host => Verdict::ToHost,
            Unmatched::Drop => Verdict::Drop(Reason::NotVip),
        });
    };
    if ip.is_later_fragment() {
        return Ok(PacketKind::LaterFragment);
    }
    if (ip.protocol == ICMP && ip.source.is_ipv4()) || (ip.protocol == ICMPV6 && ip.source.is_ipv6()) {
        // A neighbour on the link asks the host, as with ARP. A packet through a tunnel comes from no neighbour.
        if !packet.in_gre && Message::parse(ip.protocol, packet.payload(frame)) == Message::NeighbourDiscovery {
            return Err(Verdict::ToHost);
        }
        return Ok(PacketKind::Icmp(vip));
    }
    let ports = Ports::parse(ip.protocol, packet.payload(frame), ip.fragment.is_some()).ok_or(Verdict::Drop(Reason::NoService))?;
    let ports = ports.map_err(Verdict::Drop)?;
    let service = vip.service(ip.protocol, ports.destination).ok_or(Verdict::Drop(Reason::NoService))?;
    Ok(PacketKind::Flow(Flow::new(service, ip.protocol, ip.source, ip.destination, ports)))
}
