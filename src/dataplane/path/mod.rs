//! The packet path: one function from bytes, tables and time to verdicts. No socket, clock, log, lock or allocation in it.
//!
//! Stages in the order in which a packet meets them: [`parse`] → [`vip`] → [`icmp`] → [`fragment`] → [`select`] → [`encap`].
//! In [`select`], TFTP requests pass a guard and [`requests`], packets of a backend that is down find its heir, and those of nobody here the other site.
//! A batch goes through in two passes: what needs no state first, so that the cache lines of all its flows are on their way
//! before the second pass reads and writes them. Ordinary packets take a short way through both (`quick`, and for the
//! usual run of packets to one VIP `predict`), all others the stages one by one.

pub mod encap;
pub mod explain;
pub mod fragment;
mod guard;
mod heir;
pub mod icmp;
pub mod lingering;
pub mod outbox;
pub mod parse;
mod predict;
mod quick;
pub mod requests;
pub mod select;
mod site;
pub mod spread;
mod state;
#[cfg(test)]
pub(crate) mod tests;
pub mod too_big;
pub mod vip;

use state::Out;
pub use state::State;

use crate::counters::{Counters, Number};
use crate::tables::{BackendId, Snapshot};
use guideway_packet::frame::Frame;
use guideway_packet::io::BATCH;
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use parse::Packet;
use predict::Prediction;
use quick::Quick;
use requests::Request;
use select::{Flow, Plan};

/// What is left to do with a packet that takes the long way.
#[derive(Clone, Copy, Debug)]
enum Step {
    Forward(Packet, Flow, Plan),
    Follow(Packet),
    Answer(Packet),
}

/// Decides over a batch, rewrites in place what is to be transmitted, and counts every verdict once.
pub fn run(frames: &mut [Frame<'_>], tables: &Snapshot, state: &mut State, now: Time) {
    state.tick(now);
    for frames in frames.chunks_mut(BATCH) {
        let mut steps = [None; BATCH];
        glance(&mut steps, frames, tables, state);
        if state.requests.listening() {
            requests::listen(&steps, frames, tables, &mut state.requests);
        }
        let known_before = state.flows.statistics().inserted;
        for (step, frame) in steps.iter().zip(frames.iter_mut()) {
            let verdict = match step {
                Some(quick) => short_way(frame, quick, tables, state, now),
                None => None,
            };
            frame.verdict = match verdict {
                Some(verdict) => verdict,
                None => long_way(frame, tables, state, now),
            };
            state.counters.verdict(frame.verdict);
        }
        state.counters.add(Number::Received, frames.len() as u64);
        state.many_new = (state.flows.statistics().inserted - known_before) as usize > frames.len() / 4;
    }
}

/// First pass, for all packets.
#[inline(never)]
fn glance<'t>(steps: &mut [Option<Quick<'t>>; BATCH], frames: &[Frame<'_>], tables: &'t Snapshot, state: &State) {
    let mut prediction = Prediction::default();
    for (step, frame) in steps.iter_mut().zip(frames) {
        prediction.look(frame.bytes(), tables, step);
        if let Some(Quick { plan: Plan::Tables { hash, .. }, .. }) = step {
            state.flows.prefetch(*hash);
            if state.many_new {
                state.flows.prefetch_other(*hash);
            }
        }
    }
}

/// Second pass, for an ordinary packet. `None`, and nothing changed, when no backend takes it.
#[inline(always)]
fn short_way(frame: &mut Frame<'_>, quick: &Quick<'_>, tables: &Snapshot, state: &mut State, now: Time) -> Option<Verdict> {
    let row_hash = |hash| quick::row_hash(frame.bytes(), quick, hash, tables);
    let (choice, backend) = select::finish(&quick.plan, quick.service, false, row_hash, tables, &mut state.flows, now).ok()?;
    state.counters.add(choice.by.number(), 1);
    let wrapped = backend.is_some_and(|backend| {
        if backend.watched {
            state.lingering.note_quick(frame.bytes(), &quick.envelope, choice.backend, tables, now);
        }
        encap::wrap(frame, &quick.envelope, backend).is_ok()
    });
    Some(if wrapped { Verdict::Transmit } else { unsent(frame, choice.backend, tables, state, now) })
}

/// An ordinary packet that cannot be wrapped just so.
#[cold]
fn unsent(frame: &mut Frame<'_>, backend: BackendId, tables: &Snapshot, state: &mut State, now: Time) -> Verdict {
    match parse::parse(frame.bytes(), tables) {
        Ok(packet) => send(frame, &packet, backend, tables, &mut state.out, &mut state.counters, now),
        Err(verdict) => verdict,
    }
}

/// Every stage in full: for fragments, ICMP, options, what is wrong and what cannot be sent.
#[cold]
fn long_way(frame: &mut Frame<'_>, tables: &Snapshot, state: &mut State, now: Time) -> Verdict {
    match look(frame.bytes(), tables) {
        Ok(Step::Forward(packet, flow, plan)) => forward(frame, &packet, &flow, plan, tables, state, now),
        Ok(Step::Follow(packet)) => follow(frame, &packet, tables, state, now),
        Ok(Step::Answer(packet)) => answer(frame.bytes(), &packet, tables, state),
        Err(verdict) => verdict,
    }
}

/// Everything that reads only the packet and the tables.
#[inline]
fn look(frame: &[u8], tables: &Snapshot) -> Result<Step, Verdict> {
    let packet = parse::parse(frame, tables)?;
    let flow = match vip::find(&packet, frame, tables)? {
        vip::Kind::Flow(flow) => flow,
        vip::Kind::LaterFragment => return Ok(Step::Follow(packet)),
        vip::Kind::Icmp(vip) => match icmp::decide(&packet, vip, frame, tables).map_err(Verdict::Drop)? {
            icmp::Action::Forward(flow) => flow,
            icmp::Action::Answer => return Ok(Step::Answer(packet)),
        },
    };
    let plan = select::plan(&flow, packet.hopped, tables).map_err(Verdict::Drop)?;
    Ok(Step::Forward(packet, flow, plan))
}

/// a packet that shows its flow.
#[inline]
fn forward(frame: &mut Frame<'_>, packet: &Packet, flow: &Flow, plan: Plan, tables: &Snapshot, state: &mut State, now: Time) -> Verdict {
    let service = &tables.services[usize::from(flow.service)];
    let chosen = match plan {
        Plan::Tables { hash, learn, .. } if flow.is_request(service) => {
            let request = Request { flow, service, payload: packet.payload(frame.bytes()), hash, learn };
            requests::choose(&request, tables, state, now)
        }
        _ => {
            state.requests.hear(flow, tables);
            let row_hash = |hash| select::row_hash(flow, hash, tables);
            select::finish(&plan, service, flow.about, row_hash, tables, &mut state.flows, now).map(|(choice, _)| choice)
        }
    };
    let choice = match chosen {
        Ok(choice) => choice,
        Err(Reason::NoBackend) => {
            let Some(choice) = site::choose(flow, packet.hopped, tables) else { return Verdict::Drop(Reason::NoBackend) };
            if let Plan::Tables { hash, learn: true, .. } = plan
                && state.flows.peek(hash, now).is_some()
            {
                // Whatever backend the flow had here, what follows is not for it any more.
                state.flows.insert(hash, choice.backend, now, service.idle);
            }
            choice
        }
        Err(reason) => return Verdict::Drop(reason),
    };
    state.counters.add(choice.by.number(), 1);
    if !flow.about && tables.backend(choice.backend).is_some_and(|backend| backend.watched) {
        state.lingering.note(flow, choice.backend, tables, now);
    }
    if packet.ip.fragment.is_some() {
        let key = fragment_key(packet, tables);
        if let Err(reason) = state.fragments.learn(key, choice.backend, now) {
            return Verdict::Drop(reason);
        }
        release(key, choice.backend, tables, state, now);
    }
    send(frame, packet, choice.backend, tables, &mut state.out, &mut state.counters, now)
}

/// a fragment that shows no ports follows its first fragment, or waits for it.
fn follow(frame: &mut Frame<'_>, packet: &Packet, tables: &Snapshot, state: &mut State, now: Time) -> Verdict {
    let key = fragment_key(packet, tables);
    match state.fragments.find(key, now) {
        Some(backend) => send(frame, packet, backend, tables, &mut state.out, &mut state.counters, now),
        None => match state.fragments.hold(key, packet, frame.bytes(), now) {
            Ok(()) => Verdict::Hold,
            Err(reason) => Verdict::Drop(reason),
        },
    }
}

/// The fragments that had waited leave after their first one.
fn release(key: u64, backend: BackendId, tables: &Snapshot, state: &mut State, now: Time) {
    let State { fragments, out, counters, .. } = state;
    fragments.release(key, |packet, frame| {
        let mut verdict = send(frame, packet, backend, tables, out, counters, now);
        if verdict == Verdict::Transmit && !out.outbox.release(frame.bytes()) {
            verdict = Verdict::Drop(Reason::OutboxFull);
        }
        counters.unhold(verdict);
    });
}

/// an echo request that we answer ourselves.
fn answer(frame: &[u8], packet: &Packet, tables: &Snapshot, state: &mut State) -> Verdict {
    if !icmp::answer(packet, frame, tables, &mut state.out.outbox) {
        return Verdict::Drop(Reason::OutboxFull);
    }
    state.counters.add(Number::Originated, 1);
    Verdict::Drop(Reason::IcmpAnswered)
}

/// Last stage, with what it takes when the packet does not fit or its way is unknown.
#[inline]
fn send(
    frame: &mut Frame<'_>,
    packet: &Packet,
    id: BackendId,
    tables: &Snapshot,
    out: &mut Out,
    counters: &mut Counters,
    now: Time,
) -> Verdict {
    let Some(backend) = tables.backend(id) else { return Verdict::Drop(Reason::NoBackend) };
    // A fragment follows the first one, wherever that came from.
    if packet.hopped && tables.sites.contains(&id) {
        return Verdict::Drop(Reason::NoBackend);
    }
    match encap::wrap(frame, &packet.into(), backend) {
        Ok(()) => Verdict::Transmit,
        Err(Reason::NeighbourUnresolved) => {
            out.want(id);
            Verdict::Drop(Reason::NeighbourUnresolved)
        }
        Err(Reason::TooBig) if packet.ip.df => {
            let told = too_big::tell(frame.bytes(), packet, backend, tables, &mut out.limiter, &mut out.outbox, now);
            counters.add(Number::Originated, u64::from(told));
            Verdict::Drop(Reason::TooBig)
        }
        Err(Reason::TooBig) => match too_big::split(frame, packet, backend, &mut out.outbox) {
            Ok(more) => {
                counters.add(Number::Originated, more);
                Verdict::Transmit
            }
            Err(reason) => Verdict::Drop(reason),
        },
        Err(reason) => Verdict::Drop(reason),
    }
}

/// What all fragments of a packet have in common.
fn fragment_key(packet: &Packet, tables: &Snapshot) -> u64 {
    let ip = &packet.ip;
    let (protocol, id) = ip.fragment.map_or((ip.protocol, 0), |f| (f.protocol, f.id));
    tables.hash.fragment(protocol, ip.source, ip.destination, id)
}
