//! What one worker remembers between packets: flows, fragments, counters. Fixed memory, made once.

use super::outbox::Outbox;
use crate::counters::Counters;
use crate::tables::BackendId;
use crate::time::Time;

/// Backends without a link-layer address that one batch may name.
const UNRESOLVED: usize = 16;

/// What one worker remembers between packets.
#[derive(Debug)]
pub struct State {
    /// What happened to packets so far.
    pub counters: Counters,
    pub(super) outbox: Outbox,
    unresolved: Vec<BackendId>,
}

impl State {
    /// Room for `flows` flows, and for frames of an interface with this MTU in bytes.
    pub fn new(flows: usize, mtu: u16) -> State {
        let _ = flows;
        State { counters: Counters::default(), outbox: Outbox::new(usize::from(mtu) + 64), unresolved: Vec::with_capacity(UNRESOLVED) }
    }

    /// What has to happen without packets too: held fragments expire. Called when no packet came for a while.
    pub fn tick(&mut self, now: Time) {
        let _ = now;
    }

    /// Hands every frame that was originated or released to `send`, in order. To be called after each batch.
    pub fn drain_outbox(&mut self, send: impl FnMut(&[u8])) {
        self.outbox.drain(send);
    }

    /// Backends that packets wanted while their neighbour was unresolved; each is named once.
    pub fn drain_unresolved(&mut self, ask: impl FnMut(BackendId)) {
        self.unresolved.drain(..).for_each(ask);
    }

    pub(super) fn want(&mut self, backend: BackendId) {
        if self.unresolved.len() < UNRESOLVED && !self.unresolved.contains(&backend) {
            self.unresolved.push(backend);
        }
    }
}
