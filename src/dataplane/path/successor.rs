//! A packet of a transfer whose backend is down, or gone from the tables, goes to the best successor that is up.

use super::choice::{Choice, SelectedBy};
use super::flow::Flow;
use crate::tables::{BackendId, Service, Snapshot};

/// Chooses the backend for a server port that belongs to no backend that is up. Without a successor that is up, the owner keeps the packet; without an owner,
/// `None`.
pub(super) fn choose_successor(flow: &Flow, service: &Service, tables: &Snapshot) -> Option<Choice> {
    let successors = &service.pool.successors;
    if !successors.takeover {
        return None;
    }
    let owner = successors.orphaned(flow.server_port);
    let successor =
        successors.candidates(flow.vip, flow.client, flow.client_port, owner).map(|member| member.id).find(|id| is_up(*id, tables));
    match (successor, owner) {
        (Some(backend), _) => Some(Choice { backend, by: SelectedBy::Successor }),
        (None, Some(backend)) => Some(Choice { backend, by: SelectedBy::TidRange }),
        (None, None) => None,
    }
}

/// Chooses the next backend for a request that `first` leaves unanswered, after `again` other attempts elsewhere. `None` when no other takes requests.
pub(super) fn next_successor(flow: &Flow, service: &Service, first: BackendId, again: usize, tables: &Snapshot) -> Option<BackendId> {
    let candidates = service.pool.successors.candidates(flow.vip, flow.client, flow.client_port, Some(first));
    let mut candidates = candidates.filter(|member| member.accepts_new && is_up(member.id, tables)).map(|member| member.id);
    let best = candidates.next();
    if again == 0 { best } else { candidates.next().or(best) }
}

/// Whether a backend gets new flows.
pub(super) fn accepts_requests(id: BackendId, service: &Service, tables: &Snapshot) -> bool {
    service.pool.successors.members().iter().any(|member| member.id == id && member.accepts_new) && is_up(id, tables)
}

fn is_up(id: BackendId, tables: &Snapshot) -> bool {
    tables.backend(id).is_some_and(|backend| !backend.down)
}
