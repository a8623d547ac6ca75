//! Third stage: an ICMP error goes to the backend that owns the flow it quotes; an echo request is answered or forwarded.

use super::outbox::Outbox;
use super::parse::Packet;
use super::select::Flow;
use crate::tables::Echo;
use crate::tables::{Snapshot, Vip};
use guideway_packet::verdict::Reason;
use guideway_packet::wire::checksum::{checksum, fold, sum};
use guideway_packet::wire::icmp::{Message, Quoted};
use guideway_packet::wire::ip::{ICMP, ICMPV6};
use std::convert::Infallible;
use std::net::IpAddr;

/// What is to be done with an ICMP message to a VIP.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// It goes where this flow goes.
    Forward(Flow),
    /// An echo request that we answer ourselves.
    Answer,
}

/// Decides about the ICMP message in `packet`, whose bytes are in `frame`.
pub fn decide(packet: &Packet, vip: &Vip, frame: &[u8], tables: &Snapshot) -> Result<Action, Reason> {
    match Message::parse(packet.ip.protocol, packet.payload(frame)) {
        Message::Error(quoted) => quoted
            .filter(|quoted| quoted.source == packet.ip.destination)
            .and_then(|quoted| Some(Action::Forward(about(&quoted, vip)?)))
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
                    about: true,
                }))
            }
            // An answer to a piece would have to wait for the others; one to many hosts would multiply what a stranger sends.
            Echo::Answer if packet.ip.fragment.is_none() && packet.ip.source_is_one_host() => {
                if intact(packet, frame) {
                    Ok(Action::Answer)
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
fn about(quoted: &Quoted, vip: &Vip) -> Option<Flow> {
    Some(Flow {
        service: vip.service(quoted.protocol, quoted.source_port)?,
        protocol: quoted.protocol,
        client: quoted.destination,
        vip: quoted.source,
        client_port: quoted.destination_port,
        server_port: quoted.source_port,
        opcode: None,
        about: true,
    })
}

/// Whether the ICMP checksum is right. What is forwarded is the backend's to verify; what we answer is ours.
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

/// Makes the echo reply to the request in `packet` and puts it into the outbox, back to the router that brought it. `false`: no room.
///
/// The reply carries neither options nor extension headers: those of the request spoke about its way, not about the way back.
pub fn answer(packet: &Packet, frame: &[u8], tables: &Snapshot, outbox: &mut Outbox) -> bool {
    let message = packet.payload(frame);
    let header = packet.ip.base_len();
    let reply = outbox.originate(packet.l2 + header + message.len(), |reply| {
        let to = reply.bytes_mut();
        back_to_router(&mut to[..packet.l2], frame, packet, tables);
        let (head, answer) = to[packet.l2..].split_at_mut(header);
        answer.copy_from_slice(message);
        let kinds = if packet.ip.source.is_ipv4() { [8u8, 0] } else { [128, 129] };
        answer[0] = kinds[1];
        // The pseudo-header's sum does not change with swapped addresses, so that the type is all that does (RFC 1624).
        adjust(&mut answer[2..4], u16::from(kinds[0]) << 8, u16::from(kinds[1]) << 8);
        write_ip(head, packet.ip.destination, packet.ip.source, message.len(), packet.ip.tos);
        Ok::<(), Infallible>(())
    });
    reply.is_some()
}

/// Writes the Ethernet header of a frame that goes back to the router that brought `packet`: it knows the way to the client.
pub fn back_to_router(link: &mut [u8], frame: &[u8], packet: &Packet, tables: &Snapshot) {
    link[..6].copy_from_slice(&frame[6..12]);
    link[6..12].copy_from_slice(&tables.mac);
    link[12..packet.l2].copy_from_slice(&frame[12..packet.l2]);
    link[packet.l2 - 2..packet.l2].copy_from_slice(&packet.ip.ethertype().to_be_bytes());
}

/// Writes the header, without options, of an ICMP packet of `payload` bytes that we originate.
pub fn write_ip(head: &mut [u8], source: IpAddr, destination: IpAddr, payload: usize, tos: u8) {
    head.fill(0);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            (head[0], head[1]) = (0x45, tos);
            head[2..4].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
            (head[8], head[9]) = (64, ICMP);
            head[12..16].copy_from_slice(&source.octets());
            head[16..20].copy_from_slice(&destination.octets());
            let check = checksum(head);
            head[10..12].copy_from_slice(&check.to_be_bytes());
        }
        (source, destination) => {
            let octets = |address| match address {
                IpAddr::V4(a) => std::net::Ipv4Addr::to_ipv6_mapped(&a).octets(),
                IpAddr::V6(a) => a.octets(),
            };
            (head[0], head[1]) = (0x60 | tos >> 4, tos << 4);
            head[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
            (head[6], head[7]) = (ICMPV6, 64);
            head[8..24].copy_from_slice(&octets(source));
            head[24..40].copy_from_slice(&octets(destination));
        }
    }
}

/// Corrects a checksum for one changed word: "HC' = ~(~HC + ~m + m')" (RFC 1624 section 3).
fn adjust(check: &mut [u8], old: u16, new: u16) {
    let before = u16::from_be_bytes([check[0], check[1]]);
    let after = !fold(u64::from(!before) + u64::from(!old) + u64::from(new));
    check.copy_from_slice(&after.to_be_bytes());
}
