//! By what packets are spread over workers when software does it: a keyed hash of the client's flow inside the tunnel, not of the tunnel.
//!
//! What one worker remembers for another packet must come to that worker: the hash of a flow leaves out the server's port of a `tftp` service, ICMP errors
//! have the hash of the flow that they quote, and fragments that of what all pieces of their packet have in common, the first one too.

use super::parse::{self, Packet};
use super::select::{self, Plan};
use super::{fragment_key, icmp, quick, vip};
use crate::tables::Snapshot;
use guideway_packet::verdict::Verdict;

/// Hash of the flow that the packet in `frame` belongs to.
///
/// # Errors
/// The verdict of the path, when the packet and the tables alone decide it: such a packet needs no worker.
#[inline]
pub fn spread(frame: &[u8], tables: &Snapshot) -> Result<u64, Verdict> {
    let mut found = None;
    quick::look(frame, tables, &mut found);
    match found {
        Some(quick::Quick { plan: Plan::Tables { hash, .. }, .. }) => Ok(hash),
        Some(quick) => quick::flow_hash(frame, &quick, tables).map_or_else(|| in_full(frame, tables), Ok),
        None => in_full(frame, tables),
    }
}

/// By every stage that needs no state.
#[cold]
fn in_full(frame: &[u8], tables: &Snapshot) -> Result<u64, Verdict> {
    let packet = parse::parse(frame, tables)?;
    let kind = vip::find(&packet, frame, tables)?;
    if packet.ip.fragment.is_some() {
        return Ok(fragment_key(&packet, tables));
    }
    match kind {
        vip::Kind::Flow(flow) => Ok(select::hash(&flow, tables)),
        vip::Kind::LaterFragment => Ok(fragment_key(&packet, tables)),
        vip::Kind::Icmp(vip) => match icmp::decide(&packet, vip, frame, tables).map_err(Verdict::Drop)? {
            icmp::Action::Forward(flow) => Ok(select::hash(&flow, tables)),
            icmp::Action::Answer => Ok(ends(&packet, tables)),
        },
    }
}

fn ends(packet: &Packet, tables: &Snapshot) -> u64 {
    tables.hash.client(packet.ip.source, packet.ip.destination)
}

/// Which of `count` workers takes the flow with this hash.
///
/// The flow table finds its line by the upper bits of the hash and the Maglev table its row, so the choice must not be by these: every worker would use a
/// part of its table only. An odd multiplier (2^64 divided by the golden ratio) brings all lower bits into the upper half.
#[inline]
pub fn worker(hash: u64, count: usize) -> usize {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((mixed * count as u64) >> 32) as usize
}
