//! Third stage: an ICMP error goes to the backend that owns the flow it quotes; an echo request is answered or forwarded.

use super::flow::Flow;
use super::outbox::Outbox;
use super::parse::Packet;
use crate::tables::Echo;
use crate::tables::{Snapshot, Vip};
use guideway_packet::verdict::Reason;
use guideway_packet::wire::checksum::{fold, sum};
use guideway_packet::wire::icmp::{Message, Quoted};
use guideway_packet::wire::layout::ethernet::{DESTINATION, ETHERTYPE, SOURCE};
use guideway_packet::wire::layout::icmp;
use guideway_packet::wire::layout::protocol::{ICMP, ICMPV6};
use guideway_packet::wire::write::{ip_header, put16};
use std::convert::Infallible;
use std::net::IpAddr;

/// TTL of the packets that we originate.
pub const TTL: u8 = 64;

/// The action for an ICMP message to a VIP.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Forward it to the backend of this flow.
    Forward(Flow),
    /// An echo request that we answer ourselves.
    EchoReply,
}

/// Decides about the ICMP message in `packet`, whose bytes are in `frame`.
pub fn decide(packet: &Packet, vip: &Vip, frame: &[u8], tables: &Snapshot) -> Result<Action, Reason> {
    match Message::parse(packet.ip.protocol, packet.payload(frame)) {
        Message::Error(quoted) => quoted
            .filter(|quoted| quoted.source == packet.ip.destination)
            .and_then(|quoted| Some(Action::Forward(related_flow(&quoted, vip)?)))
            .ok_or(Reason::IcmpUnrelated),
        Message::EchoRequest => match tables.icmp_echo {
            Echo::Forward => {
                let service = vip.first().ok_or(Reason::NoService)?;
                let (protocol, client, destination) = (packet.ip.protocol, packet.ip.source, packet.ip.destination);
                Ok(Action::Forward(Flow {
                    service,
                    protocol,
                    client,
                    vip: destination,
                    client_port: 0,
                    server_port: 0,
                    opcode: None,
                    opens_connection: false,
                    related: true,
                }))
            }
            // An answer to a fragment would have to wait for the others; an answer to many hosts would amplify an attacker's packets.
            Echo::Answer if packet.ip.fragment.is_none() && packet.ip.source_is_one_host() => {
                if intact(packet, frame) {
                    Ok(Action::EchoReply)
                } else {
                    Err(Reason::IcmpIgnored)
                }
            }
            Echo::Answer | Echo::Drop => Err(Reason::IcmpEcho),
        },
        Message::NeighbourDiscovery | Message::Other => Err(Reason::IcmpIgnored),
    }
}

/// The flow that a packet quoted by an error belongs to: the server sent it, so that its source is the VIP.
fn related_flow(quoted: &Quoted, vip: &Vip) -> Option<Flow> {
    Some(Flow {
        service: vip.service(quoted.protocol, quoted.source_port)?,
        protocol: quoted.protocol,
        client: quoted.destination,
        vip: quoted.source,
        client_port: quoted.destination_port,
        server_port: quoted.source_port,
        opcode: None,
        opens_connection: false,
        related: true,
    })
}

/// Whether the ICMP checksum is right. The backend verifies it for forwarded messages, we for those that we answer.
fn intact(packet: &Packet, frame: &[u8]) -> bool {
    let message = packet.payload(frame);
    // ICMPv6 covers a pseudo-header, ICMP does not (RFC 4443 section 2.3).
    let pseudo = match (packet.ip.source, packet.ip.destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            u64::from(sum(&source.octets())) + u64::from(sum(&destination.octets())) + u64::from(ICMPV6) + message.len() as u64
        }
        _ => 0,
    };
    fold(pseudo + u64::from(sum(message))) == 0xffff
}

/// Puts the echo reply to the request in `packet` into the outbox, addressed to the router that sent it. `false` when there is no room.
///
/// The reply has neither options nor extension headers: those of the request are about its way, not about the way back.
pub fn reply_to_echo(packet: &Packet, frame: &[u8], tables: &Snapshot, outbox: &mut Outbox) -> bool {
    let message = packet.payload(frame);
    let header = packet.ip.base_len();
    let reply = outbox.originate(packet.l2 + header + message.len(), |reply| {
        let to = reply.bytes_mut();
        back_to_router(&mut to[..packet.l2], frame, packet, tables);
        let (head, answer) = to[packet.l2..].split_at_mut(header);
        answer.copy_from_slice(message);
        let (request, reply, protocol) = match packet.ip.source {
            IpAddr::V4(_) => (icmp::ECHO_REQUEST, icmp::ECHO_REPLY, ICMP),
            IpAddr::V6(_) => (icmp::V6_ECHO_REQUEST, icmp::V6_ECHO_REPLY, ICMPV6),
        };
        answer[icmp::TYPE] = reply;
        // Swapped addresses do not change the pseudo-header's sum, so only the type does (RFC 1624).
        adjust(&mut answer[icmp::CHECKSUM..icmp::CHECKSUM + 2], u16::from(request) << 8, u16::from(reply) << 8);
        ip_header(head, packet.ip.destination, packet.ip.source, protocol, TTL, packet.ip.tos, message.len());
        Ok::<(), Infallible>(())
    });
    reply.is_some()
}

/// Writes the Ethernet header of a frame to the router that sent `packet`: it knows the way to the client.
pub fn back_to_router(link: &mut [u8], frame: &[u8], packet: &Packet, tables: &Snapshot) {
    link[DESTINATION..SOURCE].copy_from_slice(&frame[SOURCE..ETHERTYPE]);
    link[SOURCE..ETHERTYPE].copy_from_slice(&tables.mac);
    link[ETHERTYPE..].copy_from_slice(&frame[ETHERTYPE..packet.l2]);
    put16(link, packet.l2 - 2, packet.ip.ethertype());
}

/// Corrects a checksum for one changed word: "HC' = ~(~HC + ~m + m')" (RFC 1624 section 3).
fn adjust(check: &mut [u8], old: u16, new: u16) {
    let before = u16::from_be_bytes([check[0], check[1]]);
    let after = !fold(u64::from(!before) + u64::from(!old) + u64::from(new));
    check.copy_from_slice(&after.to_be_bytes());
}
