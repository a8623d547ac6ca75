//! What does not fit the MTU once wrapped: its sender is told (DF, IPv6), or it is cut into fragments that fit (RFC 791).

use super::encap::wrap;
use super::icmp::{back_to_router, write_ip};
use super::outbox::Outbox;
use super::parse::Packet;
use crate::tables::{Backend, Snapshot};
use guideway_packet::frame::Frame;
use guideway_packet::time::Time;
use guideway_packet::verdict::Reason;
use guideway_packet::wire::checksum::{checksum, fold, sum};
use guideway_packet::wire::icmp::Message;
use guideway_packet::wire::ip::{Fragment, ICMP, ICMPV6, Ip};
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

/// Tells the sender of `packet` which MTU would fit. Nothing is sent when the limit is reached, the outbox is full, or the packet is one
/// about which no error may be sent (RFC 1122 section 3.2.2). Returns whether it was.
pub fn tell(
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
    let quoted = &quoted[..quoted.len().min(limit - header - 8)];
    let source = tables.address.same_family(ip.source).unwrap_or(ip.destination);
    let made = outbox.originate(packet.l2 + header + 8 + quoted.len(), |error| {
        let to = error.bytes_mut();
        back_to_router(&mut to[..packet.l2], frame, packet, tables);
        let (head, message) = to[packet.l2..].split_at_mut(header);
        message[8..].copy_from_slice(quoted);
        write_ip(head, source, ip.source, message.len(), 0);
        write_error(head, message, ip.source.is_ipv4(), mtu);
        Ok::<(), Infallible>(())
    });
    made.is_some()
}

/// Writes the first 8 bytes, the quoted packet behind them, of "fragmentation needed" (RFC 1191 section 4) or "packet too big"
/// (RFC 4443 section 3.2). `head` is the IP header before it.
fn write_error(head: &[u8], message: &mut [u8], v4: bool, mtu: u16) {
    message[..8].fill(0);
    message[6..8].copy_from_slice(&mtu.to_be_bytes());
    let pseudo = if v4 {
        (message[0], message[1]) = (3, 4);
        0
    } else {
        message[0] = 2;
        u64::from(sum(&head[8..40])) + u64::from(ICMPV6) + message.len() as u64
    };
    let check = !fold(pseudo + u64::from(sum(message)));
    message[2..4].copy_from_slice(&check.to_be_bytes());
}

/// Cuts the IPv4 packet in `frame` into fragments that fit once wrapped. The first stays in the frame; the others go to the outbox.
/// Returns how many went there.
pub fn split(frame: &mut Frame<'_>, packet: &Packet, backend: &Backend, outbox: &mut Outbox) -> Result<u64, Reason> {
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
    // Further pieces need nothing of what the packet came in but the link's header.
    let bare = Packet { inner: packet.l2, ..*packet };
    // All or nothing: a part of the pieces would be of no use to anybody.
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
            let cut = cut(ip, &bare, piece * room, len, piece + 1 < pieces);
            wrap(out, &(&cut).into(), backend)
        });
        made.ok_or(Reason::OutboxFull)??;
    }
    let first = cut(&mut frame.bytes_mut()[packet.inner..], packet, 0, room, true);
    wrap(frame, &(&first).into(), backend)?;
    Ok(pieces as u64 - 1)
}

/// Turns the header at the start of `ip`, a copy of the whole packet's, into that of the piece of `len` bytes at `offset`.
fn cut(ip: &mut [u8], packet: &Packet, offset: usize, len: usize, more: bool) -> Packet {
    let header = usize::from(packet.ip.header_len);
    let base = packet.ip.fragment.map_or(0, |f| usize::from(f.offset));
    let more = more || packet.ip.fragment.is_some_and(|f| f.more);
    let total_len = (header + len) as u16;
    ip[2..4].copy_from_slice(&total_len.to_be_bytes());
    let field = ((base + offset) / 8) as u16 | if more { 0x2000 } else { 0 };
    ip[6..8].copy_from_slice(&field.to_be_bytes());
    if offset > 0 {
        blank_options(&mut ip[20..header]);
    }
    ip[10..12].fill(0);
    let check = checksum(&ip[..header]);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let id = u32::from(u16::from_be_bytes([ip[4], ip[5]]));
    let fragment = Some(Fragment { id, offset: (base + offset) as u16, more, protocol: packet.ip.protocol });
    Packet { ip: Ip { total_len, fragment, ..packet.ip }, ..*packet }
}

/// Turns options that stand in the first fragment only (copied flag clear, RFC 791 section 3.1) into no-operations.
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
