//! Packets that do not fit the MTU after encapsulation: the sender gets an ICMP error (DF, IPv6), or the packet is fragmented (RFC 791).

use super::encap::encapsulate;
use super::icmp::{TTL, back_to_router};
use super::outbox::Outbox;
use super::parse::Packet;
use crate::tables::{Backend, Snapshot};
use guideway_packet::frame::Frame;
use guideway_packet::time::Time;
use guideway_packet::verdict::Reason;
use guideway_packet::wire::checksum::{fold, sum};
use guideway_packet::wire::icmp::Message;
use guideway_packet::wire::ip::{Fragment, ICMP, ICMPV6, Ip};
use guideway_packet::wire::layout::{icmp, ipv4, ipv6};
use guideway_packet::wire::view::Ipv4View;
use guideway_packet::wire::write::{ip_header, ipv4_checksum, put16};
use std::convert::Infallible;

/// ICMP errors a second that one worker sends at most (RFC 4443 section 2.4 (f), RFC 1812 section 4.3.2.8).
const ERRORS_A_SECOND: u64 = 100;
/// Errors that it may send at once after a silence.
const BURST: u64 = 50;
/// Bytes of an ICMP error at most: "the minimum IPv6 MTU" (RFC 4443 section 2.4 (c)), 576 for IPv4 (RFC 1812 section 4.3.2.3).
const ERROR_V6: usize = 1280;
const ERROR_V4: usize = 576;

/// A token bucket for ICMP errors.
#[derive(Debug, Default)]
pub struct Limiter {
    /// Time up to which tokens were spent.
    spent: Time,
}

impl Limiter {
    fn take(&mut self, now: Time) -> bool {
        const ONE: u64 = 1_000_000_000 / ERRORS_A_SECOND;
        let spent = self.spent.0.max(now.0.saturating_sub(ONE * BURST)).saturating_add(ONE);
        let allowed = spent <= now.0.max(ONE * BURST);
        if allowed {
            self.spent = Time(spent);
        }
        allowed
    }
}

/// Tells the sender of `packet` which MTU would fit. Sends nothing when the limit is reached, the outbox is full, or no error may be sent about such a packet
/// (RFC 1122 section 3.2.2). Returns whether it was sent.
pub fn send_too_big(
    frame: &[u8],
    packet: &Packet,
    backend: &Backend,
    tables: &Snapshot,
    limiter: &mut Limiter,
    outbox: &mut Outbox,
    now: Time,
) -> bool {
    let ip = &packet.ip;
    let Some(next_hop) = backend.next_hop() else { return false };
    let about_icmp =
        matches!(ip.protocol, ICMP | ICMPV6) && !matches!(Message::parse(ip.protocol, packet.payload(frame)), Message::EchoRequest);
    if ip.is_later_fragment() || about_icmp || !ip.source_is_one_host() || !limiter.take(now) {
        return false;
    }
    let mtu = next_hop.mtu.saturating_sub(backend.outer_len() as u16);
    let (header, limit) = (ip.base_len(), if ip.source.is_ipv4() { ERROR_V4 } else { ERROR_V6 });
    let quoted = packet.bytes(frame);
    let quoted = &quoted[..quoted.len().min(limit - header - icmp::LEN)];
    let source = tables.address.same_family(ip.source).unwrap_or(ip.destination);
    let made = outbox.originate(packet.l2 + header + icmp::LEN + quoted.len(), |error| {
        let to = error.bytes_mut();
        back_to_router(&mut to[..packet.l2], frame, packet, tables);
        let (head, message) = to[packet.l2..].split_at_mut(header);
        message[icmp::LEN..].copy_from_slice(quoted);
        let protocol = if ip.source.is_ipv4() { ICMP } else { ICMPV6 };
        ip_header(head, source, ip.source, protocol, TTL, 0, message.len());
        write_error(head, message, ip.source.is_ipv4(), mtu);
        Ok::<(), Infallible>(())
    });
    made.is_some()
}

/// Writes the first 8 bytes, the quoted packet behind them, of "fragmentation needed" (RFC 1191 section 4) or "packet too big"
/// (RFC 4443 section 3.2). `head` is the IP header before it.
fn write_error(head: &[u8], message: &mut [u8], v4: bool, mtu: u16) {
    message[..icmp::LEN].fill(0);
    let pseudo = if v4 {
        (message[icmp::TYPE], message[icmp::CODE]) = (icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED);
        put16(message, icmp::MTU_V4, mtu);
        0
    } else {
        message[icmp::TYPE] = icmp::V6_PACKET_TOO_BIG;
        // The lower half of 4 bytes.
        put16(message, icmp::MTU_V6 + 2, mtu);
        u64::from(sum(&head[ipv6::SOURCE..ipv6::LEN])) + u64::from(ICMPV6) + message.len() as u64
    };
    let check = !fold(pseudo + u64::from(sum(message)));
    put16(message, icmp::CHECKSUM, check);
}

/// Cuts the IPv4 packet in `frame` into fragments that fit once wrapped. The first stays in the frame; the others go to the outbox.
/// Returns how many went there.
pub fn fragment_packet(frame: &mut Frame<'_>, packet: &Packet, backend: &Backend, outbox: &mut Outbox) -> Result<u64, Reason> {
    let next_hop = backend.next_hop().ok_or(Reason::NeighbourUnresolved)?;
    let header = usize::from(packet.ip.header_len);
    let room = usize::from(next_hop.mtu).checked_sub(backend.outer_len() + header).ok_or(Reason::TooBig)? & !7;
    let payload = usize::from(packet.ip.total_len) - header;
    let pieces = payload.div_ceil(room.max(8));
    if room < 8 {
        return Err(Reason::TooBig);
    }
    let base = packet.ip.fragment.map_or(0, |f| usize::from(f.offset));
    if base + payload > usize::from(u16::MAX) {
        // The offsets of its last bytes could not be written.
        return Err(Reason::BadHeader);
    }
    // Further fragments keep nothing of the outer headers but the link's.
    let bare = Packet { inner: packet.l2, ..*packet };
    // All or nothing: some of the fragments alone would be useless.
    if pieces - 1 > outbox.room() {
        return Err(Reason::OutboxFull);
    }
    for piece in 1..pieces {
        let len = room.min(payload - piece * room);
        let from = frame.bytes();
        let made = outbox.originate(bare.inner + header + len, |out| {
            let (link, ip) = out.bytes_mut().split_at_mut(bare.inner);
            link.copy_from_slice(&from[..bare.inner]);
            ip[..header].copy_from_slice(&from[packet.inner..][..header]);
            ip[header..].copy_from_slice(&from[packet.inner + header + piece * room..][..len]);
            let cut = write_fragment_header(ip, &bare, piece * room, len, piece + 1 < pieces);
            encapsulate(out, &(&cut).into(), backend)
        });
        made.ok_or(Reason::OutboxFull)??;
    }
    let first = write_fragment_header(&mut frame.bytes_mut()[packet.inner..], packet, 0, room, true);
    encapsulate(frame, &(&first).into(), backend)?;
    Ok(pieces as u64 - 1)
}

/// Turns the header at the start of `ip`, a copy of the whole packet's, into that of the fragment of `len` bytes at `offset`.
fn write_fragment_header(ip: &mut [u8], packet: &Packet, offset: usize, len: usize, more: bool) -> Packet {
    let header = usize::from(packet.ip.header_len);
    let base = packet.ip.fragment.map_or(0, |f| usize::from(f.offset));
    let more = more || packet.ip.fragment.is_some_and(|f| f.more);
    let total_len = (header + len) as u16;
    put16(ip, ipv4::TOTAL_LEN, total_len);
    put16(ip, ipv4::FLAGS_AND_OFFSET, ((base + offset) / 8) as u16 | if more { ipv4::MORE_FRAGMENTS } else { 0 });
    if offset > 0 {
        blank_options(&mut ip[ipv4::LEN..header]);
    }
    ipv4_checksum(&mut ip[..header]);
    let id = Ipv4View::new(ip).map_or(0, Ipv4View::identification).into();
    let fragment = Some(Fragment { id, offset: (base + offset) as u16, more, protocol: packet.ip.protocol });
    Packet { ip: Ip { total_len, fragment, ..packet.ip }, ..*packet }
}

/// Replaces options that belong to the first fragment only (copied flag clear, RFC 791 section 3.1) by no-operations.
fn blank_options(options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while at < options.len() && options[at] != END {
        let len = match options[at] {
            NO_OPERATION => 1,
            _ => options.get(at + 1).map_or(1, |len| usize::from(*len).max(2)),
        };
        let end = (at + len).min(options.len());
        if options[at] & COPIED == 0 {
            options[at..end].fill(NO_OPERATION);
        }
        at = end;
    }
}
