//! A packet that no backend here takes goes to a director of the other site, once: one that came from there is not sent on.
//!
//! Nothing is remembered of it. A transfer's acknowledgements come the same way as its request, or find it by their server port, which lies in no
//! range of a backend here: so the two sites' ranges must be disjoint.

use super::select::{self, By, Choice, Flow};
use crate::tables::{Service, Snapshot};

/// The director of the other site that gets a packet of this flow: of those that can be reached the next one from where the flow's hash falls. When
/// none can be, that one, so that its neighbour is asked for.
pub(super) fn choose(flow: &Flow, hopped: bool, tables: &Snapshot) -> Option<Choice> {
    if hopped || tables.sites.is_empty() {
        return None;
    }
    let first = (select::hash(flow, tables) % tables.sites.len() as u64) as usize;
    let (before, from) = tables.sites.split_at(first);
    let mut in_turn = from.iter().chain(before);
    let reached = in_turn.clone().find(|id| tables.backend(**id).is_some_and(|director| director.next_hop().is_some()));
    reached.or_else(|| in_turn.next()).map(|id| Choice { backend: *id, by: By::Site })
}

/// The same for a packet to a server port that is nobody's here.
pub(super) fn stray(flow: &Flow, service: &Service, hopped: bool, tables: &Snapshot) -> Option<Choice> {
    let theirs = service.elsewhere && service.pool.succession.orphaned(flow.server_port).is_none();
    if theirs { choose(flow, hopped, tables) } else { None }
}
