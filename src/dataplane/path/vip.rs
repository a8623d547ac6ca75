//! Second stage: (destination, protocol, port) → service, and what kind of packet this is.

use super::parse::Packet;
use super::select::Flow;
use crate::tables::Unmatched;
use crate::tables::{Snapshot, Vip};
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::icmp::Message;
use guideway_packet::wire::ip::{ICMP, ICMPV6};
use guideway_packet::wire::l4::Ports;

/// What a packet to a VIP is.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'t> {
    /// Part of a flow of a service, its ports in it.
    Flow(Flow),
    /// ICMP: an error about a flow, an echo request, or something to ignore.
    Icmp(&'t Vip),
    /// A fragment that does not show its ports.
    LaterFragment,
}

/// Finds what `packet`, whose bytes are in `frame`, is to us.
#[inline]
pub fn find<'t>(packet: &Packet, frame: &[u8], tables: &'t Snapshot) -> Result<Kind<'t>, Verdict> {
    let ip = &packet.ip;
    let Some(vip) = tables.vips.get(ip.destination) else {
        return Err(match tables.unmatched {
            Unmatched::Host => Verdict::ToHost,
            Unmatched::Drop => Verdict::Drop(Reason::NotVip),
        });
    };
    if ip.is_later_fragment() {
        return Ok(Kind::LaterFragment);
    }
    if (ip.protocol == ICMP && ip.source.is_ipv4()) || (ip.protocol == ICMPV6 && ip.source.is_ipv6()) {
        // A neighbour on the link asks the host, as with ARP; what comes through a tunnel is no neighbour.
        if !packet.in_gre && Message::parse(ip.protocol, packet.payload(frame)) == Message::NeighbourDiscovery {
            return Err(Verdict::ToHost);
        }
        return Ok(Kind::Icmp(vip));
    }
    let ports = Ports::parse(ip.protocol, packet.payload(frame), ip.fragment.is_some()).ok_or(Verdict::Drop(Reason::NoService))?;
    let ports = ports.map_err(Verdict::Drop)?;
    let service = vip.service(ip.protocol, ports.destination).ok_or(Verdict::Drop(Reason::NoService))?;
    Ok(Kind::Flow(Flow {
        service,
        protocol: ip.protocol,
        client: ip.source,
        vip: ip.destination,
        client_port: ports.source,
        server_port: ports.destination,
        opcode: ports.opcode,
        about: false,
    }))
}
