//! What one worker remembers between packets: flows, fragments, counters. Fixed memory, made once.

use super::fragment::Fragments;
use super::lingering::Lingering;
use super::outbox::Outbox;
use super::requests::Requests;
use super::requests::suspicion::Suspicion;
use super::too_big::Limiter;
use crate::counters::{Counters, Number};
use crate::flow::FlowTable;
use crate::tables::BackendId;
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use std::sync::Arc;

/// Backends without a link-layer address that one batch may name.
const UNRESOLVED: usize = 16;
/// Bytes of Ethernet header with a VLAN tag and of the largest outer header: what a frame may have beyond the MTU.
const BEYOND_MTU: usize = 18 + 44;
/// Buckets of the flow table that are looked over with every batch.
const SWEEP: usize = 4;

/// What one worker remembers between packets.
#[derive(Debug)]
pub struct State {
    /// What happened to packets so far.
    pub counters: Counters,
    /// The flow table.
    pub flows: FlowTable,
    /// What still runs on backends that get nothing new.
    pub lingering: Arc<Lingering>,
    /// More than a quarter of the last batch opened flows.
    pub(super) many_new: bool,
    pub(super) fragments: Fragments,
    pub(super) requests: Requests,
    pub(super) out: Out,
}

/// What leaves besides the received frames.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) outbox: Outbox,
    pub(super) limiter: Limiter,
    unresolved: Vec<BackendId>,
}

impl State {
    /// Room for `flows` flows, and for frames of an interface with this MTU in bytes.
    pub fn new(flows: usize, mtu: u16) -> State {
        let frame = usize::from(mtu) + BEYOND_MTU;
        State {
            counters: Counters::default(),
            flows: FlowTable::new(flows),
            lingering: Arc::default(),
            many_new: false,
            fragments: Fragments::new(frame),
            requests: Requests::default(),
            out: Out { outbox: Outbox::new(frame), limiter: Limiter::default(), unresolved: Vec::with_capacity(UNRESOLVED) },
        }
    }

    /// What has to happen without packets too: held fragments expire, old flows are forgotten. Part of every batch.
    #[inline]
    pub fn tick(&mut self, now: Time) {
        for _ in 0..self.fragments.expire(now) {
            self.counters.unhold(Verdict::Drop(Reason::FragmentHoldExpired));
        }
        self.flows.sweep(now, SWEEP);
        self.lingering.tick(now);
        self.requests.tick(now);
    }

    /// This worker is one of so many, each of which keeps to its part of the limits on requests.
    pub fn share_limits(&mut self, workers: usize) {
        self.requests.admission.share(workers);
    }

    /// Backends that several clients wait for, seen since the last call.
    pub fn drain_suspected(&mut self, tell: impl FnMut(Suspicion)) {
        self.requests.suspicions.drain(tell);
    }

    /// Hands every frame that was originated or released to `send`, in order; `false` from it means that there was no room.
    /// To be called after each batch.
    pub fn drain_outbox(&mut self, mut send: impl FnMut(&[u8]) -> bool) {
        let State { out, counters, .. } = self;
        out.outbox.drain(|frame, originated| match (send(frame), originated) {
            (true, _) => {}
            (false, true) => counters.unoriginate(),
            (false, false) => counters.transmit_full(1),
        });
    }

    /// Backends that packets wanted while their neighbour was unresolved; each is named once.
    pub fn drain_unresolved(&mut self, ask: impl FnMut(BackendId)) {
        self.out.unresolved.drain(..).for_each(ask);
    }

    /// Counts a packet that the path decided to transmit and that found no room in the transmit ring.
    pub fn transmit_full(&mut self, packets: usize) {
        self.counters.transmit_full(packets as u64);
        debug_assert!(self.counters.balanced(), "{:?}", self.counters.get(Number::Received));
    }
}

impl Out {
    pub(super) fn want(&mut self, backend: BackendId) {
        if self.unresolved.len() < UNRESOLVED && !self.unresolved.contains(&backend) {
            self.unresolved.push(backend);
        }
    }
}
