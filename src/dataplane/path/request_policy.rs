//! The checks that a request must pass before it goes to a backend: client and kind. They read only the packet and the tables.

use super::flow::Flow;
use crate::tables::{Service, Snapshot, is_bogus_source};
use guideway_packet::verdict::Reason;
use guideway_packet::wire::layout::tftp::WRITE_REQUEST;

/// Checks a request. Acknowledgements are not checked, because the transfer was accepted when it began.
pub(super) fn check(flow: &Flow, service: &Service, tables: &Snapshot) -> Result<(), Reason> {
    // A VIP or a backend as client would answer the answer without end, and an address that no host has gets none.
    if is_bogus_source(flow.client) || tables.internal_addresses.contains(flow.client) || tables.vips.get(flow.client).is_some() {
        return Err(Reason::BogusSource);
    }
    if service.request_policy.clients.as_ref().is_some_and(|clients| !clients.contains(flow.client)) {
        return Err(Reason::ClientNotAllowed);
    }
    if flow.opcode == Some(WRITE_REQUEST) && !service.request_policy.writes {
        return Err(Reason::WriteRefused);
    }
    Ok(())
}
