//! What a request must pass before a backend hears of it: who asks, and for what. Reads only the packet and the tables.

use super::select::{Flow, WRITE_REQUEST};
use crate::tables::{Service, Snapshot, nobody};
use guideway_packet::verdict::Reason;

/// Whether a request may go on. Acknowledgements are never asked: whom a transfer belongs to was decided when it began.
pub(super) fn check(flow: &Flow, service: &Service, tables: &Snapshot) -> Result<(), Reason> {
    // A VIP or a backend that asked another VIP would be answered without end, and what no host has is answered into nowhere.
    if nobody(flow.client) || tables.inside.contains(flow.client) || tables.vips.get(flow.client).is_some() {
        return Err(Reason::BogusSource);
    }
    if service.guard.clients.as_ref().is_some_and(|clients| !clients.contains(flow.client)) {
        return Err(Reason::ClientNotAllowed);
    }
    if flow.opcode == Some(WRITE_REQUEST) && !service.guard.writes {
        return Err(Reason::WriteRefused);
    }
    Ok(())
}
