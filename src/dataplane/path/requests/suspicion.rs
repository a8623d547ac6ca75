//! Backends that seem to leave their clients unanswered: several clients of one repeat their requests and acknowledge nothing.
//!
//! A suspicion is a reason for a health check, never a verdict. Fixed memory.

use crate::tables::{BackendId, NO_BACKEND, Pool};
use guideway_packet::time::Time;
use std::time::Duration;

/// Different clients that have to retransmit.
pub const MIN_CLIENTS: usize = 3;
/// The time within which they must retransmit.
pub const WINDOW: Duration = Duration::from_secs(5);
/// How long a suspicion lasts.
pub const SUSPICION_TIMEOUT: Duration = Duration::from_secs(10);
/// One in so many requests has to be a retransmission. Where packets are lost now and then, some client always retransmits.
const MIN_SHARE_DIVISOR: u32 = 4;
/// Backends that are watched at once. Numbers are dense, so this limit matters only in very large fleets.
const SLOTS: usize = 1024;
/// Suspicions that one batch may raise.
const MAX_RAISED: usize = 16;

/// A backend that several clients wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// The backend.
    pub backend: BackendId,
    /// Requests sent to it in the last seconds, retransmissions included.
    pub requests: u32,
    /// Those of them that were retransmitted, by at least [`MIN_CLIENTS`] different clients.
    pub retransmitted: u32,
}

impl std::fmt::Display for Suspicion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (requests, retransmitted, within) = (self.requests, self.retransmitted, WINDOW.as_secs());
        write!(
            f,
            "at least {MIN_CLIENTS} clients repeat requests and acknowledge nothing ({retransmitted} of {requests} sendings within {within} s)"
        )
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    backend: BackendId,
    clients: [u64; MIN_CLIENTS],
    distinct: usize,
    requests: u32,
    retransmitted: u32,
    since: Time,
    /// The end of the suspicion.
    until: Time,
}

const EMPTY: Slot =
    Slot { backend: NO_BACKEND, clients: [0; MIN_CLIENTS], distinct: 0, requests: 0, retransmitted: 0, since: Time(0), until: Time(0) };

/// Requests to the backends in the last seconds.
#[derive(Debug)]
pub struct Suspicions {
    slots: Box<[Slot]>,
    raised: Vec<Suspicion>,
    uncounted: u64,
}

impl Default for Suspicions {
    fn default() -> Self {
        Suspicions { slots: vec![EMPTY; SLOTS].into_boxed_slice(), raised: Vec::with_capacity(MAX_RAISED), uncounted: 0 }
    }
}

impl Suspicions {
    /// Records a request to `backend`.
    pub fn record_request(&mut self, backend: BackendId, now: Time) {
        match self.slot(backend, now) {
            Some(slot) => slot.requests = slot.requests.saturating_add(1),
            None => self.uncounted += 1,
        }
    }

    /// Records that `client`, a hash, retransmits a request that `backend` already has.
    pub fn record_retransmission(&mut self, backend: BackendId, client: u64, now: Time) {
        let Some(slot) = self.slot(backend, now) else { return };
        slot.retransmitted = slot.retransmitted.saturating_add(1);
        if slot.distinct < MIN_CLIENTS && !slot.clients[..slot.distinct].contains(&client) {
            slot.clients[slot.distinct] = client;
            slot.distinct += 1;
        }
        if slot.distinct == MIN_CLIENTS && slot.retransmitted.saturating_mul(MIN_SHARE_DIVISOR) >= slot.requests {
            let known = slot.until > now.plus(SUSPICION_TIMEOUT - WINDOW);
            slot.until = now.plus(SUSPICION_TIMEOUT);
            let suspicion = Suspicion { backend, requests: slot.requests, retransmitted: slot.retransmitted };
            if !known && self.raised.len() < MAX_RAISED {
                self.raised.push(suspicion);
            }
        }
    }

    /// Whether most backends of `pool` that get new flows are suspected. Then the cause is behind them, and another backend would do no better.
    pub fn most_suspected(&self, pool: &Pool, now: Time) -> bool {
        let accepts_new = pool.successors.members().iter().filter(|member| member.accepts_new);
        let (mut all, mut suspected) = (0, 0);
        for member in accepts_new {
            all += 1;
            suspected += usize::from(self.is_suspected(member.id, now));
        }
        2 * suspected > all
    }

    fn is_suspected(&self, backend: BackendId, now: Time) -> bool {
        let slot = &self.slots[usize::from(backend) % SLOTS];
        slot.backend == backend && slot.until > now
    }

    /// How many requests were not counted, because another backend had the slot.
    pub fn uncounted(&self) -> u64 {
        self.uncounted
    }

    /// Hands over the suspicions raised since the last call.
    pub fn drain(&mut self, tell: impl FnMut(Suspicion)) {
        self.raised.drain(..).for_each(tell);
    }

    /// The slot of `backend`, at the start of a window if the last is over. `None` while another needs it.
    fn slot(&mut self, backend: BackendId, now: Time) -> Option<&mut Slot> {
        let slot = &mut self.slots[usize::from(backend) % SLOTS];
        if now - slot.since >= WINDOW || slot.backend == NO_BACKEND {
            let until = if slot.backend == backend { slot.until } else { Time(0) };
            *slot = Slot { backend, since: now, until, ..EMPTY };
        }
        (slot.backend == backend).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(suspicions: &mut Suspicions) -> Vec<BackendId> {
        let mut raised = Vec::new();
        suspicions.drain(|suspicion| raised.push(suspicion.backend));
        raised
    }

    #[test]
    fn three_different_clients_raise_a_suspicion_and_one_alone_does_not() {
        let mut suspicions = Suspicions::default();
        let now = Time(0).plus(WINDOW);
        (0..20).for_each(|_| suspicions.record_retransmission(4, 1, now));
        suspicions.record_retransmission(4, 2, now);
        assert!(raised(&mut suspicions).is_empty());
        suspicions.record_retransmission(4, 3, now);
        suspicions.record_retransmission(4, 4, now);
        assert_eq!(raised(&mut suspicions), [4], "once");
        assert!(suspicions.is_suspected(4, now) && !suspicions.is_suspected(4, now.plus(SUSPICION_TIMEOUT)));
        for client in 1..4 {
            suspicions.record_retransmission(4, client, now.plus(WINDOW));
        }
        assert_eq!(raised(&mut suspicions), [4], "again while it lasts");
    }

    #[test]
    fn clients_that_are_far_apart_or_few_among_many_are_no_reason() {
        let mut suspicions = Suspicions::default();
        for client in 0..10 {
            suspicions.record_retransmission(4, client, Time(0).plus(WINDOW * (client as u32 + 1)));
        }
        let now = Time(0).plus(WINDOW * 20);
        (0..100).for_each(|_| suspicions.record_request(5, now));
        (0..24).for_each(|client| suspicions.record_retransmission(5, client, now));
        assert!(raised(&mut suspicions).is_empty());
        suspicions.record_retransmission(5, 24, now);
        assert_eq!(raised(&mut suspicions), [5], "a quarter of them");
    }
}
