//! Packets without DF that do not fit the MTU after encapsulation are fragmented (RFC 791).

use super::encap::encapsulate;
use super::outbox::Outbox;
use super::parse::Packet;
use crate::tables::Backend;
use guideway_packet::frame::Frame;
use guideway_packet::verdict::Reason;
use guideway_packet::wire::ip::{Fragment, Ip};
use guideway_packet::wire::layout::ipv4;
use guideway_packet::wire::view::Ipv4View;
use guideway_packet::wire::write::{ipv4_checksum, put16};

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
            encapsulate(out, &(&cut).into(), backend, |frame, hasher| cut.entropy(frame.bytes(), hasher))
        });
        made.ok_or(Reason::OutboxFull)??;
    }
    let first = write_fragment_header(&mut frame.bytes_mut()[packet.inner..], packet, 0, room, true);
    encapsulate(frame, &(&first).into(), backend, |frame, hasher| first.entropy(frame.bytes(), hasher))?;
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
