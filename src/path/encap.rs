//! Last stage: the client's packet, untouched, into GRE to its backend, in place.

use super::parse::Packet;
use crate::frame::Frame;
use crate::tables::{Backend, Snapshot};
use crate::verdict::Reason;

/// Wraps the packet in `frame`. Nothing is changed when it fails.
#[inline]
pub fn wrap(frame: &mut Frame<'_>, packet: &Packet, backend: &Backend, tables: &Snapshot) -> Result<(), Reason> {
    // A packet that goes round in circles must end.
    let ttl = packet.ttl.checked_sub(1).filter(|ttl| *ttl > 0).ok_or(Reason::TtlExpired)?;
    let next_hop = backend.next_hop.ok_or(Reason::NeighbourUnresolved)?;
    if usize::from(packet.ip.total_len) + backend.outer_len() > usize::from(next_hop.mtu) {
        return Err(Reason::TooBig);
    }
    let mut tag = [0u8; 4];
    let tagged = packet.l2 == 18;
    if tagged {
        tag.copy_from_slice(&frame.bytes()[12..16]);
    }
    let head_len = packet.l2 + backend.outer_len();
    // Every io leaves headroom for the largest header that we write.
    let head = frame.replace_front(packet.inner, head_len).ok_or(Reason::TooBig)?;
    head[..6].copy_from_slice(&next_hop.mac);
    head[6..12].copy_from_slice(&tables.mac);
    if tagged {
        head[12..16].copy_from_slice(&tag);
    }
    let (link, outer) = head.split_at_mut(packet.l2);
    link[packet.l2 - 2..].copy_from_slice(&backend.ethertype().to_be_bytes());
    backend.write_outer(outer, packet.ip.total_len, packet.ip.ethertype(), packet.tos, ttl);
    // Whatever padding the link had put behind the packet goes.
    frame.truncate(head_len + usize::from(packet.ip.total_len));
    Ok(())
}
