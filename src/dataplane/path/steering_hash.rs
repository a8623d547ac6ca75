//! The hash by which software spreads packets over workers: a keyed hash of the client's flow inside the tunnel, not of the tunnel.
//!
//! Packets that share state must reach the same worker. So the hash of a flow leaves out the server's port of a `tftp` service, an ICMP error has the hash of
//! the flow that it quotes, and all fragments of a packet, the first included, have the hash of the fields that they share.

use super::lookup::LastLookups;
use super::parse::{self, Packet};
use super::select::Plan;
use super::{fast_path, icmp, vip};
use crate::tables::Snapshot;
use guideway_packet::verdict::Verdict;

/// Hash of the flow that the packet in `frame` belongs to. `last` is kept for the frames of one batch.
///
/// # Errors
/// The verdict of the path, when packet and tables alone decide it: such a packet needs no worker.
#[inline]
pub fn steering_hash<'t>(frame: &[u8], tables: &'t Snapshot, last: &mut LastLookups<'t>) -> Result<u64, Verdict> {
    let mut found = None;
    fast_path::classify(frame, tables, last, &mut found);
    match found {
        Some(fast_path::FastPathPacket { plan: Plan::Tables { hash, .. }, .. }) => Ok(hash),
        Some(packet) => packet.flow(frame, tables).map_or_else(|| slow_path_hash(frame, tables), |flow| Ok(flow.hash(tables))),
        None => slow_path_hash(frame, tables),
    }
}

/// The same by all stages that need no state.
#[cold]
fn slow_path_hash(frame: &[u8], tables: &Snapshot) -> Result<u64, Verdict> {
    let packet = parse::parse(frame, tables)?;
    let kind = vip::find(&packet, frame, tables)?;
    if packet.ip.fragment.is_some() {
        return Ok(packet.fragment_key(tables));
    }
    match kind {
        vip::PacketKind::Flow(flow) => Ok(flow.hash(tables)),
        vip::PacketKind::LaterFragment => Ok(packet.fragment_key(tables)),
        vip::PacketKind::Keepalive => Ok(address_hash(&packet, tables)),
        vip::PacketKind::Icmp(vip) => match icmp::decide(&packet, vip, frame, tables).map_err(Verdict::Drop)? {
            icmp::Action::Forward(flow) => Ok(flow.hash(tables)),
            icmp::Action::EchoReply => Ok(address_hash(&packet, tables)),
        },
    }
}

fn address_hash(packet: &Packet, tables: &Snapshot) -> u64 {
    tables.hash.client(packet.ip.source, packet.ip.destination)
}

/// Which of `count` workers takes the flow with this hash.
///
/// The flow table and the Maglev table use the upper bits of the hash. Chosen by these, every worker would use only a part of its flow table. An odd
/// multiplier (2^64 divided by the golden ratio) brings all lower bits into the upper half.
#[inline]
pub fn select_worker(hash: u64, count: usize) -> usize {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((mixed * count as u64) >> 32) as usize
}
