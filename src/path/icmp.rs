//! Third stage: an ICMP error goes to the backend that owns the flow it quotes; an echo request is answered or forwarded.

use super::outbox::Outbox;
use super::parse::Packet;
use super::select::Flow;
use crate::config::Echo;
use crate::tables::{Snapshot, Vip};
use crate::verdict::Reason;
use crate::wire::checksum::fold;
use crate::wire::icmp::{Message, Quoted};
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
            // An answer to a piece would have to wait for the others.
            Echo::Answer if packet.ip.fragment.is_none() => Ok(Action::Answer),
            Echo::Answer | Echo::Drop => Err(Reason::IcmpEcho),
        },
        Message::Other => Err(Reason::IcmpIgnored),
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

/// Makes the echo reply to the request in `packet` and puts it into the outbox, back to the router that brought it. `false`: no room.
pub fn answer(packet: &Packet, frame: &[u8], tables: &Snapshot, outbox: &mut Outbox) -> bool {
    let end = packet.inner + usize::from(packet.ip.total_len);
    let reply = outbox.originate(packet.l2 + usize::from(packet.ip.total_len), |reply| {
        let to = reply.bytes_mut();
        to[..6].copy_from_slice(&frame[6..12]);
        to[6..12].copy_from_slice(&tables.mac);
        to[12..packet.l2].copy_from_slice(&frame[12..packet.l2]);
        to[packet.l2 - 2..packet.l2].copy_from_slice(&packet.ip.ethertype().to_be_bytes());
        let ip = &mut to[packet.l2..];
        ip.copy_from_slice(&frame[packet.inner..end]);
        let (addresses, ttl, kinds) = match packet.ip.source {
            IpAddr::V4(_) => (12..20, 8, [8u8, 0]),
            IpAddr::V6(_) => (8..40, 7, [128, 129]),
        };
        // Swapped addresses leave both checksums as they are; TTL and type are put in by RFC 1624's rule.
        ip[addresses.clone()].rotate_left(addresses.len() / 2);
        let old_ttl = std::mem::replace(&mut ip[ttl], 64);
        if packet.ip.source.is_ipv4() {
            adjust(&mut ip[10..12], u16::from(old_ttl) << 8, 64 << 8);
        }
        let icmp = &mut ip[usize::from(packet.ip.header_len)..];
        icmp[0] = kinds[1];
        adjust(&mut icmp[2..4], u16::from(kinds[0]) << 8, u16::from(kinds[1]) << 8);
        Ok::<(), Infallible>(())
    });
    reply.is_some()
}

/// Corrects a checksum for one changed word: "HC' = ~(~HC + ~m + m')" (RFC 1624 section 3).
fn adjust(check: &mut [u8], old: u16, new: u16) {
    let before = u16::from_be_bytes([check[0], check[1]]);
    let after = !fold(u64::from(!before) + u64::from(!old) + u64::from(new));
    check.copy_from_slice(&after.to_be_bytes());
}
