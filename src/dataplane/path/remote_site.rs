//! If no local backend can take a packet, it goes once to a director of the remote site. A packet that came from there is not forwarded again.
//!
//! No state is kept of it. A transfer's acknowledgements come the same way as its request, or are recognised by their server port, which lies in no range of
//! a backend here. So the two sites' ranges must be disjoint.

use super::choice::{Choice, SelectedBy};
use super::flow::Flow;
use crate::tables::{Service, Snapshot};

/// Chooses the director of the remote site that gets a packet of this flow: from the one that the flow's hash selects, the next that can be reached. When none
/// can be, the selected one, so that its neighbour is resolved.
pub(super) fn choose(flow: &Flow, from_remote_site: bool, tables: &Snapshot) -> Option<Choice> {
    if from_remote_site || tables.remote_site_directors.is_empty() {
        return None;
    }
    let first = (flow.hash(tables) % tables.remote_site_directors.len() as u64) as usize;
    let (before, from) = tables.remote_site_directors.split_at(first);
    let mut rotation = from.iter().chain(before);
    let reached = rotation.clone().find(|id| tables.backend(**id).is_some_and(|director| director.next_hop().is_some()));
    reached.or_else(|| rotation.next()).map(|id| Choice { backend: *id, by: SelectedBy::RemoteSite })
}

/// The same for a packet to a server port that belongs to no backend here.
pub(super) fn choose_for_unknown_tid(flow: &Flow, service: &Service, from_remote_site: bool, tables: &Snapshot) -> Option<Choice> {
    let theirs = service.has_remote_site && service.pool.successors.orphaned(flow.server_port).is_none();
    if theirs { choose(flow, from_remote_site, tables) } else { None }
}
