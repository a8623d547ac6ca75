//! A packet of a transfer whose backend is down, or gone from the tables, goes to the best heir that is not.

use super::select::{By, Choice, Flow};
use crate::tables::{BackendId, Service, Snapshot};

/// Who takes a packet to a server port that belongs to no backend that is up. Without an heir that is up the owner keeps it; without an owner, `None`.
pub(super) fn stand_in(flow: &Flow, service: &Service, tables: &Snapshot) -> Option<Choice> {
    let succession = &service.pool.succession;
    if !succession.takeover {
        return None;
    }
    let owner = succession.orphaned(flow.server_port);
    let heir = succession.heirs(flow.vip, flow.client, flow.client_port, owner).map(|member| member.id).find(|id| is_up(*id, tables));
    match (heir, owner) {
        (Some(backend), _) => Some(Choice { backend, by: By::Heir }),
        (None, Some(backend)) => Some(Choice { backend, by: By::TidRange }),
        (None, None) => None,
    }
}

/// Who is asked next when `first` leaves a request unanswered: `again` times already another was asked. `None` when nobody else takes requests.
pub(super) fn next(flow: &Flow, service: &Service, first: BackendId, again: usize, tables: &Snapshot) -> Option<BackendId> {
    let able = service.pool.succession.heirs(flow.vip, flow.client, flow.client_port, Some(first));
    let mut able = able.filter(|member| member.open && is_up(member.id, tables)).map(|member| member.id);
    let best = able.next();
    if again == 0 { best } else { able.next().or(best) }
}

/// Whether a backend gets new flows.
pub(super) fn takes_requests(id: BackendId, service: &Service, tables: &Snapshot) -> bool {
    service.pool.succession.members().iter().any(|member| member.id == id && member.open) && is_up(id, tables)
}

fn is_up(id: BackendId, tables: &Snapshot) -> bool {
    tables.backend(id).is_some_and(|backend| !backend.down)
}
