//! Requests: who is asked, when the first choice is mute too, and how many get through. What acknowledgements pay for it is one look at a flag per batch.
//!
//! Order: the Maglev table names a backend; if it has left this very request unanswered twice, an heir of its has a chance; then admission.

pub mod admission;
mod budget;
pub mod repeats;
pub mod suspicion;
#[cfg(test)]
mod tests;

use super::heir;
use super::quick::{self, Quick};
use super::select::{self, By, Choice, Flow, READ_REQUEST};
use super::state::State;
use crate::counters::Number;
use crate::tables::{BackendId, Kind, Service, Snapshot};
use admission::{Admission, Ask, Limit};
use budget::Budget;
use guideway_packet::frame::Frame;
use guideway_packet::time::Time;
use guideway_packet::verdict::Reason;
use repeats::{Repeats, Sighting};
use siphasher::sip::SipHasher13;
use suspicion::Suspicions;

/// A client whose first choice is mute has sent its request so often when another backend is asked.
const THIRD: u8 = 3;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;

/// What a worker remembers of requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    repeats: Repeats,
    pub(super) suspicions: Suspicions,
    pub(super) admission: Admission,
    budget: Budget,
}

impl Requests {
    /// Clients that are silent for long are forgotten.
    #[inline]
    pub(super) fn tick(&mut self, now: Time) {
        self.repeats.tick(now);
    }

    /// Whether somebody repeats requests, so that acknowledgements are worth looking at.
    #[inline]
    pub(super) fn listening(&self) -> bool {
        self.repeats.any()
    }

    /// A packet of a flow that is no request. One that acknowledges, or gives up, has heard its server.
    pub(super) fn hear(&mut self, flow: &Flow, tables: &Snapshot) {
        if !flow.about && is_answer(flow.opcode) && self.listening() {
            self.repeats.heard(select::hash(flow, tables));
        }
    }
}

/// TFTP's acknowledgement and error (RFC 1350 section 5).
fn is_answer(opcode: Option<u16>) -> bool {
    matches!(opcode, Some(4 | 5))
}

/// Hears the acknowledgements among the ordinary packets of a batch.
#[cold]
pub(super) fn listen(steps: &[Option<Quick<'_>>], frames: &[Frame<'_>], tables: &Snapshot, requests: &mut Requests) {
    for (quick, frame) in steps.iter().zip(frames).filter_map(|(step, frame)| Some((step.as_ref()?, frame))) {
        if quick.service.kind != Kind::Flow
            && is_answer(quick::opcode(frame.bytes(), quick))
            && let Some(hash) = quick::flow_hash(frame.bytes(), quick, tables)
        {
            requests.repeats.heard(hash);
        }
    }
}

/// A request, as far as the stages before have taken it apart.
pub(super) struct Request<'p> {
    pub(super) flow: &'p Flow,
    pub(super) service: &'p Service,
    /// What follows its IP header.
    pub(super) payload: &'p [u8],
    /// Hash of its flow.
    pub(super) hash: u64,
    /// The flow table shall remember who gets it.
    pub(super) learn: bool,
}

/// Who gets a request, if anybody does.
pub(super) fn choose(request: &Request<'_>, tables: &Snapshot, state: &mut State, now: Time) -> Result<Choice, Reason> {
    let Request { flow, service, hash, .. } = *request;
    let requests = &mut state.requests;
    let first = select::maglev(select::row_hash(flow, hash, tables), service).ok_or(Reason::NoBackend)?;
    let read = flow.opcode == Some(READ_REQUEST);
    let digest = digest(request.payload);
    let sighting = if read { requests.repeats.sight(hash, digest, now) } else { Sighting::First };
    let choice = match requests.another(flow, service, first, sighting, tables, now) {
        Some(backend) if backend != first => Choice { backend, by: By::Heir },
        _ => Choice { backend: first, by: By::Maglev },
    };
    if let Some(limits) = &service.guard.admission {
        let ask = Ask { service: flow.service, backend: choice.backend, client: flow.client };
        if let Err(limit) = requests.admission.admit(ask, limits, now) {
            state.counters.add(shed_by(limit), 1);
            return Err(Reason::Shed);
        }
    }
    if read {
        requests.remember(flow, hash, digest, sighting, choice, tables, now);
    }
    state.counters.add(Number::SecondChances, u64::from(choice.by == By::Heir));
    if request.learn {
        state.flows.insert(hash, choice.backend, now, service.idle);
    }
    Ok(choice)
}

impl Requests {
    /// Who is asked instead of `first`, which may be `first` all the same.
    fn another(
        &mut self,
        flow: &Flow,
        service: &Service,
        first: BackendId,
        sighting: Sighting,
        tables: &Snapshot,
        now: Time,
    ) -> Option<BackendId> {
        match sighting {
            // What was decided a moment ago holds, if it still can.
            Sighting::Duplicate { sendings, backend } if sendings >= THIRD => {
                heir::takes_requests(backend, service, tables).then_some(backend)
            }
            Sighting::Again { sendings, backend } if sendings >= THIRD => {
                // Each is asked twice before the next one's turn comes.
                let again = usize::from(sendings - THIRD) / 2;
                let next = heir::next(flow, service, first, again, tables)?;
                let granted = next == backend || (self.budget.has(now) && !self.suspicions.most_of(&service.pool, now));
                granted.then_some(next)
            }
            Sighting::First | Sighting::Duplicate { .. } | Sighting::Again { .. } => None,
        }
    }

    /// The request goes out: shed ones do not get here, for nobody was asked.
    #[allow(clippy::too_many_arguments)]
    fn remember(&mut self, flow: &Flow, hash: u64, digest: u32, sighting: Sighting, choice: Choice, tables: &Snapshot, now: Time) {
        if let Sighting::Duplicate { .. } = sighting {
            return;
        }
        self.budget.request(now);
        self.suspicions.asked(choice.backend, now);
        if let Sighting::Again { backend, .. } = sighting {
            self.suspicions.repeated(backend, tables.hash.client(flow.client, flow.vip), now);
            if choice.by == By::Heir && choice.backend != backend {
                self.budget.spend(now);
            }
        }
        self.repeats.asked(hash, digest, sighting, choice.backend, now);
    }
}

fn shed_by(limit: Limit) -> Number {
    match limit {
        Limit::Vip => Number::ShedByVip,
        Limit::Backend => Number::ShedByBackend,
        Limit::Prefix => Number::ShedByPrefix,
    }
}

/// Tells one request of a flow from another; who makes two that agree has only himself to thank.
fn digest(payload: &[u8]) -> u32 {
    SipHasher13::new().hash(payload.get(UDP_HEADER..).unwrap_or_default()) as u32
}
