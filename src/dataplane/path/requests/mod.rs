//! Requests: which backend gets them, also when the first choice is unresponsive, and how many get through. Acknowledgements pay for it with the test of one
//! flag per batch, and with a quick hash while any client repeats a request.
//!
//! Order: the Maglev table names a backend. If it has left this very request unanswered twice, one of its successors gets it, provided that the pool has TID
//! ranges: without, another director that gets the acknowledgements would send them to the first backend. Then comes admission.

pub mod admission;
mod budget;
mod client_filter;
pub mod retransmissions;
pub mod suspicion;
#[cfg(test)]
mod tests;

use super::choice::{Choice, SelectedBy};
use super::fast_path::FastPathPacket;
use super::flow::Flow;
use super::select;
use super::successor;
use crate::counters::{Counters, PacketCounter};
use crate::flow::FlowTable;
use crate::tables::{BackendId, Service, ServiceKind, Snapshot};
use admission::{Admission, AdmissionRequest, Limit};
use budget::RetryBudget;
use guideway_packet::frame::Frame;
use guideway_packet::io::BATCH;
use guideway_packet::time::Time;
use guideway_packet::verdict::Reason;
use guideway_packet::wire::layout::tftp::{ACKNOWLEDGEMENT, ERROR, READ_REQUEST};
use guideway_packet::wire::layout::udp;
use retransmissions::{RequestAttempt, RetransmissionTable};
use suspicion::Suspicions;

/// The attempt of a client from which on another backend gets its request.
const REDISPATCH_ATTEMPT: u8 = 3;

/// A worker's state of requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    retransmissions: RetransmissionTable,
    pub(super) suspicions: Suspicions,
    pub(super) admission: Admission,
    budget: RetryBudget,
}

impl Requests {
    /// Forgets clients that are silent for long.
    #[inline]
    pub(super) fn tick(&mut self, now: Time) {
        self.retransmissions.tick(now);
    }

    /// How many requests were forgotten, or not counted, for want of room.
    pub(super) fn evicted(&self) -> u64 {
        self.retransmissions.evicted() + self.suspicions.uncounted()
    }

    /// Whether any client retransmits requests, so that acknowledgements matter.
    #[inline]
    pub(super) fn watches_acks(&self) -> bool {
        self.retransmissions.any()
    }

    /// Observes a packet that is no request. A client that acknowledges, or sends an error, has received its server's answer.
    pub(super) fn observe_ack(&mut self, flow: &Flow, tables: &Snapshot) {
        if !flow.related && is_ack_or_error(flow.opcode) && self.watches_acks() {
            self.retransmissions.acknowledged(flow.hash(tables));
        }
    }
}

/// TFTP's acknowledgement and error (RFC 1350 section 5).
fn is_ack_or_error(opcode: Option<u16>) -> bool {
    matches!(opcode, Some(ACKNOWLEDGEMENT | ERROR))
}

/// Records the acknowledgements of clients that retransmit requests, among the ordinary packets of a batch. Nearly every batch has none.
#[inline(never)]
pub(super) fn scan_acks(
    classified: &[Option<FastPathPacket<'_>>; BATCH],
    frames: &[Frame<'_>],
    tables: &Snapshot,
    requests: &mut Requests,
) {
    let hasher = tables.hash.clients;
    let mut waiting = 0u64;
    for (at, (packet, frame)) in classified.iter().zip(frames).enumerate() {
        if let Some(packet) = packet
            && let Some(client) = packet.client_hash(frame, &hasher)
            && requests.retransmissions.may_wait(client)
        {
            waiting |= 1 << at;
        }
    }
    while waiting != 0 {
        let at = waiting.trailing_zeros() as usize;
        waiting &= waiting - 1;
        if let (Some(packet), Some(frame)) = (&classified[at], frames.get(at))
            && packet.service.kind != ServiceKind::Flow
            && let Some(flow) = packet.flow(frame.bytes(), tables)
        {
            requests.observe_ack(&flow, tables);
        }
    }
}

/// A request, as the stages before have parsed it.
pub(super) struct Request<'p> {
    pub(super) flow: &'p Flow,
    pub(super) service: &'p Service,
    /// The payload of its IP header.
    pub(super) payload: &'p [u8],
    /// Hash of its flow.
    pub(super) hash: u64,
    /// Whether the flow table shall remember the choice.
    pub(super) learn: bool,
}

/// Chooses the backend for a request.
pub(super) fn choose(
    request: &Request<'_>,
    tables: &Snapshot,
    requests: &mut Requests,
    flows: &mut FlowTable,
    counters: &mut Counters,
    now: Time,
) -> Result<Choice, Reason> {
    let Request { flow, service, hash, .. } = *request;
    let first = select::maglev(flow.row_hash(hash, tables), service).ok_or(Reason::NoBackend)?;
    let read = flow.opcode == Some(READ_REQUEST);
    let digest = digest(request.payload, tables);
    let attempt = if read { requests.retransmissions.classify(hash, digest, now) } else { RequestAttempt::First };
    let choice = match requests.redispatch_target(flow, service, first, attempt, tables, now) {
        Some(backend) if backend != first => Choice { backend, by: SelectedBy::Successor },
        _ => Choice { backend: first, by: SelectedBy::Maglev },
    };
    if let Some(limits) = &service.request_policy.admission {
        let admission_request = AdmissionRequest { service: flow.service, backend: choice.backend, client: flow.client };
        if let Err(limit) = requests.admission.admit(admission_request, limits, &tables.hash, now) {
            counters.add(shed_by(limit), 1);
            return Err(Reason::Shed);
        }
    }
    if read {
        requests.record(flow, hash, digest, attempt, choice, tables, now);
    }
    counters.add(PacketCounter::Redispatched, u64::from(choice.by == SelectedBy::Successor));
    if request.learn {
        flows.insert(hash, choice.backend, now, service.idle);
    }
    Ok(choice)
}

impl Requests {
    /// Chooses another backend than `first` for a repeated request. It may turn out to be `first` again.
    fn redispatch_target(
        &mut self,
        flow: &Flow,
        service: &Service,
        first: BackendId,
        attempt: RequestAttempt,
        tables: &Snapshot,
        now: Time,
    ) -> Option<BackendId> {
        service.pool.tid.as_ref()?;
        match attempt {
            // A duplicate follows the last decision, if it is still possible.
            RequestAttempt::Duplicate { attempts, backend } if attempts >= REDISPATCH_ATTEMPT => {
                successor::accepts_requests(backend, service, tables).then_some(backend)
            }
            RequestAttempt::Retransmission { attempts, backend } if attempts >= REDISPATCH_ATTEMPT => {
                // Each backend gets two attempts before the next one.
                let again = usize::from(attempts - REDISPATCH_ATTEMPT) / 2;
                let next = successor::next_successor(flow, service, first, again, tables)?;
                let granted = next == backend || (self.budget.allows(now) && !self.suspicions.most_suspected(&service.pool, now));
                granted.then_some(next)
            }
            RequestAttempt::First | RequestAttempt::Duplicate { .. } | RequestAttempt::Retransmission { .. } => None,
        }
    }

    /// Records a forwarded request. Shed ones are not recorded.
    #[allow(clippy::too_many_arguments)]
    fn record(&mut self, flow: &Flow, hash: u64, digest: u32, attempt: RequestAttempt, choice: Choice, tables: &Snapshot, now: Time) {
        if let RequestAttempt::Duplicate { .. } = attempt {
            return;
        }
        self.budget.request(now);
        self.suspicions.record_request(choice.backend, now);
        if let RequestAttempt::Retransmission { backend, .. } = attempt {
            self.suspicions.record_retransmission(backend, tables.hash.client(flow.client, flow.vip), now);
            if choice.by == SelectedBy::Successor && choice.backend != backend {
                self.budget.spend(now);
            }
        }
        self.retransmissions.record(hash, flow.client_hash(&tables.hash.clients), digest, attempt, choice.backend, now);
    }
}

fn shed_by(limit: Limit) -> PacketCounter {
    match limit {
        Limit::Vip => PacketCounter::ShedByVip,
        Limit::Backend => PacketCounter::ShedByBackend,
        Limit::Prefix => PacketCounter::ShedByPrefix,
    }
}

/// Tells one request of a flow from another.
fn digest(payload: &[u8], tables: &Snapshot) -> u32 {
    tables.hash.request(payload.get(udp::LEN..).unwrap_or_default()) as u32
}
