//! The state of one worker: flows, fragments, counters. Fixed memory, made once.

use super::draining::DrainingFlows;
use super::first_fragments::FirstFragments;
use super::fragment::FragmentTable;
use super::icmp_error::Limiters;
use super::outbox::Outbox;
use super::requests::Requests;
use super::requests::suspicion::Suspicion;
use crate::counters::{BoundedTable, Counters, PacketCounter};
use crate::flow::{FlowTable, Peers};
use crate::tables::BackendId;
use guideway_packet::frame::Output;
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use std::sync::Arc;

/// Backends without a link-layer address that one batch may name.
const MAX_UNRESOLVED: usize = 16;
/// Bytes of Ethernet header with a VLAN tag and of the largest outer header: what a frame may have beyond the MTU.
const BEYOND_MTU: usize = 18 + 44;
/// Buckets of the flow table that are looked over with every batch.
const SWEEP: usize = 4;

/// The state that one worker keeps between packets.
#[derive(Debug)]
pub struct State {
    /// Counters of packets.
    pub counters: Counters,
    /// The flow table.
    pub flows: FlowTable,
    /// Flows that still run on backends that get nothing new.
    pub draining_flows: Arc<DrainingFlows>,
    /// More than a quarter of the last batch opened flows.
    pub(super) many_new_flows: bool,
    pub(super) fragments: FragmentTable,
    pub(super) requests: Requests,
    pub(super) out: Out,
}

/// The state that the workers of a director share, so that a flow stays one flow by whatever receive queues its packets, its fragments and the ICMP errors about it
/// come. Nobody waits for anybody.
#[derive(Clone, Debug)]
pub struct Shared {
    first_fragments: Arc<FirstFragments>,
    flows: Arc<Peers>,
}

impl Shared {
    /// For this number of workers.
    pub fn new(workers: usize) -> Shared {
        Shared { first_fragments: Arc::default(), flows: Arc::new(Peers::new(workers)) }
    }
}

/// Frames that leave besides the received ones, and neighbours to be resolved.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) outbox: Outbox,
    pub(super) limiters: Limiters,
    unresolved: Vec<BackendId>,
}

impl State {
    /// Room for `flows` flows, and for frames of an interface with this MTU in bytes.
    pub fn new(flows: usize, mtu: u16) -> State {
        let frame = usize::from(mtu) + BEYOND_MTU;
        State {
            counters: Counters::default(),
            flows: FlowTable::new(flows),
            draining_flows: Arc::default(),
            many_new_flows: false,
            fragments: FragmentTable::new(frame),
            requests: Requests::default(),
            out: Out { outbox: Outbox::new(frame), limiters: Limiters::default(), unresolved: Vec::with_capacity(MAX_UNRESOLVED) },
        }
    }

    /// Makes room for frames of an interface whose MTU was raised to `mtu` bytes. It allocates then: to be called between batches.
    pub fn make_room(&mut self, mtu: u16) {
        let frame = usize::from(mtu) + BEYOND_MTU;
        self.fragments.make_room(frame);
        self.out.outbox.make_room(frame);
    }

    /// Expires held fragments and forgets old flows. Part of every batch; without packets the caller calls it.
    #[inline]
    pub fn tick(&mut self, now: Time) {
        for _ in 0..self.fragments.expire(now) {
            self.counters.release_held(Verdict::Drop(Reason::FragmentHoldExpired));
        }
        self.flows.sweep(now, SWEEP);
        self.draining_flows.tick(now);
        self.requests.tick(now);
    }

    /// Makes it the state of `worker`, from 0, among those that have `shared`. Once, before the first packet.
    pub fn share(&mut self, worker: usize, shared: &Shared) {
        self.fragments.share(&shared.first_fragments);
        self.flows.join(worker, &shared.flows);
    }

    /// Whether early fragments are held, which another worker may release: then the next call of [`super::run`] or [`super::release_known`] should come soon.
    pub fn holds_fragments(&self) -> bool {
        self.fragments.holds()
    }

    /// Divides the limits on requests by the number of workers that share them.
    pub fn divide_limits(&mut self, workers: usize) {
        self.requests.admission.set_workers(workers);
    }

    /// Brings the counters of evictions up to date. To be called before counters are shown.
    pub fn count_evictions(&mut self) {
        let State { counters, flows, fragments, draining_flows, requests, .. } = self;
        let flows = flows.statistics();
        counters.set_evicted(BoundedTable::Flows, flows.evicted + flows.refused);
        counters.set_evicted(BoundedTable::FirstFragments, fragments.evicted());
        counters.set_evicted(BoundedTable::Requests, requests.evicted());
        counters.set_evicted(BoundedTable::Prefixes, requests.admission.shared());
        counters.set_evicted(BoundedTable::DrainingFlows, draining_flows.evicted());
    }

    /// Hands over the backends that became suspected since the last call.
    pub fn drain_suspicions(&mut self, tell: impl FnMut(Suspicion)) {
        self.requests.suspicions.drain(tell);
    }

    /// Hands every frame that was originated or released, and where it leaves, to `send`, in order; `false` from it means that there was no room.
    /// To be called after each batch.
    pub fn drain_outbox(&mut self, mut send: impl FnMut(&[u8], Output) -> bool) {
        let State { out, counters, .. } = self;
        out.outbox.drain(|frame, output, originated| match (send(frame, output), originated) {
            (true, _) => {}
            (false, true) => counters.cancel_originated(),
            (false, false) => counters.transmit_full(1),
        });
    }

    /// Hands over the backends whose next hop was unresolved when a packet needed it, each once.
    pub fn drain_unresolved(&mut self, ask: impl FnMut(BackendId)) {
        self.out.unresolved.drain(..).for_each(ask);
    }

    /// Counts a packet that the path decided to transmit and that found no room in the transmit ring.
    pub fn transmit_full(&mut self, packets: usize) {
        self.counters.transmit_full(packets as u64);
        debug_assert!(self.counters.balanced(), "{:?}", self.counters.get(PacketCounter::Received));
    }
}

impl Out {
    pub(super) fn request_resolution(&mut self, backend: BackendId) {
        if self.unresolved.len() < MAX_UNRESOLVED && !self.unresolved.contains(&backend) {
            self.unresolved.push(backend);
        }
    }
}
