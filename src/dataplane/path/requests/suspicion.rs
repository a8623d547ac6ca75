//! Which backends leave their clients unanswered, as far as this worker can see: several clients of one repeat their requests and are not heard.
//!
//! A suspicion is a reason to look, never a verdict. Fixed memory.

use crate::tables::{BackendId, NO_BACKEND, Pool};
use guideway_packet::time::Time;
use std::time::Duration;

/// Different clients that have to repeat.
pub const CLIENTS: usize = 3;
/// Within so much time.
pub const WINDOW: Duration = Duration::from_secs(5);
/// For so long a suspicion stands.
pub const STANDS: Duration = Duration::from_secs(10);
/// One in so many sendings has to be a repeated one: where packets are lost now and then, some client always repeats.
const PART: u32 = 4;
/// Backends that are watched at once; numbers are dense, so that this is a matter of very large fleets.
const SLOTS: usize = 1024;
/// Suspicions that one batch may raise.
const RAISED: usize = 16;

/// A backend that several clients wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// Which.
    pub backend: BackendId,
    /// Sendings of requests to it in the last seconds.
    pub asked: u32,
    /// Those of them that were repeated, by at least [`CLIENTS`] different clients.
    pub repeated: u32,
}

impl std::fmt::Display for Suspicion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (asked, repeated, within) = (self.asked, self.repeated, WINDOW.as_secs());
        write!(f, "at least {CLIENTS} clients repeat requests and acknowledge nothing ({repeated} of {asked} sendings within {within} s)")
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    backend: BackendId,
    clients: [u64; CLIENTS],
    different: usize,
    asked: u32,
    repeated: u32,
    since: Time,
    /// Until when it is suspected.
    until: Time,
}

const EMPTY: Slot =
    Slot { backend: NO_BACKEND, clients: [0; CLIENTS], different: 0, asked: 0, repeated: 0, since: Time(0), until: Time(0) };

/// What was seen of the backends in the last seconds.
#[derive(Debug)]
pub struct Suspicions {
    slots: Box<[Slot]>,
    raised: Vec<Suspicion>,
}

impl Default for Suspicions {
    fn default() -> Self {
        Suspicions { slots: vec![EMPTY; SLOTS].into_boxed_slice(), raised: Vec::with_capacity(RAISED) }
    }
}

impl Suspicions {
    /// A request goes to `backend`.
    pub fn asked(&mut self, backend: BackendId, now: Time) {
        if let Some(slot) = self.slot(backend, now) {
            slot.asked = slot.asked.saturating_add(1);
        }
    }

    /// A request that `backend` has already comes again from `client`, a hash, which was not heard since.
    pub fn repeated(&mut self, backend: BackendId, client: u64, now: Time) {
        let Some(slot) = self.slot(backend, now) else { return };
        slot.repeated = slot.repeated.saturating_add(1);
        if slot.different < CLIENTS && !slot.clients[..slot.different].contains(&client) {
            slot.clients[slot.different] = client;
            slot.different += 1;
        }
        if slot.different == CLIENTS && slot.repeated.saturating_mul(PART) >= slot.asked {
            let known = slot.until > now.plus(STANDS - WINDOW);
            slot.until = now.plus(STANDS);
            let suspicion = Suspicion { backend, asked: slot.asked, repeated: slot.repeated };
            if !known && self.raised.len() < RAISED {
                self.raised.push(suspicion);
            }
        }
    }

    /// Whether most of the backends of `pool` that get new flows look alike: then the reason is behind them, and another would do no better.
    pub fn most_of(&self, pool: &Pool, now: Time) -> bool {
        let open = pool.succession.members().iter().filter(|member| member.open);
        let (mut all, mut suspected) = (0, 0);
        for member in open {
            all += 1;
            suspected += usize::from(self.is_suspected(member.id, now));
        }
        2 * suspected > all
    }

    fn is_suspected(&self, backend: BackendId, now: Time) -> bool {
        let slot = &self.slots[usize::from(backend) % SLOTS];
        slot.backend == backend && slot.until > now
    }

    /// Hands over what was raised since the last call.
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
        (0..20).for_each(|_| suspicions.repeated(4, 1, now));
        suspicions.repeated(4, 2, now);
        assert!(raised(&mut suspicions).is_empty());
        suspicions.repeated(4, 3, now);
        suspicions.repeated(4, 4, now);
        assert_eq!(raised(&mut suspicions), [4], "once");
        assert!(suspicions.is_suspected(4, now) && !suspicions.is_suspected(4, now.plus(STANDS)));
        for client in 1..4 {
            suspicions.repeated(4, client, now.plus(WINDOW));
        }
        assert_eq!(raised(&mut suspicions), [4], "again while it lasts");
    }

    #[test]
    fn clients_that_are_far_apart_or_few_among_many_are_no_reason() {
        let mut suspicions = Suspicions::default();
        for client in 0..10 {
            suspicions.repeated(4, client, Time(0).plus(WINDOW * (client as u32 + 1)));
        }
        let now = Time(0).plus(WINDOW * 20);
        (0..100).for_each(|_| suspicions.asked(5, now));
        (0..24).for_each(|client| suspicions.repeated(5, client, now));
        assert!(raised(&mut suspicions).is_empty());
        suspicions.repeated(5, 24, now);
        assert_eq!(raised(&mut suspicions), [5], "a quarter of them");
    }
}
