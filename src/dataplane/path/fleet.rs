//! All fragments of a datagram go through one director: the owner of (source, destination, protocol), by Maglev over the directors of the fleet.
//!
//! Routers that hash ports send a first fragment elsewhere than the later ones. So a director hands a fragment of another owner's on to it, in GRE, once: a
//! fragment from an address of the fleet has hopped. Nor does one leave that the remote site sent: there, all of its datagram was sent to this director.

use super::parse::Packet;
use crate::tables::{BackendId, Snapshot};

/// The other director that this packet goes to. `None` when it is not in fragments, has hopped, is ours, or its owner's next hop is not known: then it is handled
/// here, for the whole datagram may be here.
pub(super) fn owner(packet: &Packet, tables: &Snapshot) -> Option<BackendId> {
    let protocol = packet.ip.fragment?.protocol;
    if packet.from_fleet || packet.from_remote_site {
        return None;
    }
    let owner = tables.fleet.owner(tables.hash.hosts(protocol, packet.ip.source, packet.ip.destination))?;
    tables.backend(owner)?.next_hop().map(|_| owner)
}
