//! All fragments of a datagram go through one director: the owner of (source, destination, protocol), by Maglev over the directors of the fleet.
//!
//! Routers that hash ports send a first fragment elsewhere than the later ones. So a director hands a fragment of another owner's on to it, in GRE, once: a
//! fragment from an address of the fleet has hopped. Nor does one leave that the remote site sent: there, all of its datagram was sent to this director.
//!
//! A director may have a server on its host. Another director that chose this server sends it packets in GRE, to the address of this director. They were
//! balanced once and are not balanced again. Only fragments of datagrams that this director owns were handed on.

use super::parse::Packet;
use crate::tables::{BackendId, Snapshot};
use guideway_packet::wire::ip::Fragment;

/// The other director that this packet goes to. `None` when it is not in fragments, has hopped, is ours, or its owner's next hop is not known: then it is handled
/// here, for the whole datagram may be here.
pub(super) fn owner(packet: &Packet, tables: &Snapshot) -> Option<BackendId> {
    let protocol = packet.ip.fragment?.protocol;
    if packet.from_fleet || packet.from_remote_site {
        return None;
    }
    let owner = owner_of(protocol, packet, tables)?;
    tables.backend(owner)?.next_hop().map(|_| owner)
}

/// The server of this host, if another director chose it for this packet, or whoever else sends GRE to backends: a health controller.
pub(super) fn local_server(packet: &Packet, tables: &Snapshot) -> Option<BackendId> {
    let handed_on = |fragment: Fragment| packet.from_fleet && owner_of(fragment.protocol, packet, tables).is_none();
    tables.local_server.filter(|_| packet.for_local_server && !packet.ip.fragment.is_some_and(handed_on))
}

fn owner_of(protocol: u8, packet: &Packet, tables: &Snapshot) -> Option<BackendId> {
    tables.fleet.owner(tables.hash.hosts(protocol, packet.ip.source, packet.ip.destination))
}
