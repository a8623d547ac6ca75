//! The packet path: one function from bytes, tables and time to verdicts. No socket, clock, log, lock or allocation in it.
//!
//! Stages in the order in which a packet meets them: [`parse`] → [`vip`] → [`icmp`] → [`fragment`] → [`select`] → [`encap`].
//! A batch goes through in two passes: what needs no state first, so that the cache lines of all its flows are on their way
//! before the second pass reads and writes them.

pub mod encap;
pub mod explain;
pub mod fragment;
pub mod icmp;
pub mod outbox;
pub mod parse;
pub mod select;
mod state;
#[cfg(test)]
mod tests;
pub mod too_big;
pub mod vip;

use state::Out;
pub use state::State;

use crate::counters::{Counters, Number};
use crate::frame::Frame;
use crate::io::BATCH;
use crate::tables::{BackendId, Snapshot};
use crate::time::Time;
use crate::verdict::{Reason, Verdict};
use parse::Packet;
use select::{Flow, Plan};

/// What is left to do with a packet after the first pass.
#[derive(Clone, Copy, Debug)]
enum Step {
    Done(Verdict),
    Forward(Packet, Flow, Plan),
    Follow(Packet),
    Answer(Packet),
}

/// Decides over a batch, rewrites in place what is to be transmitted, and counts every verdict once.
pub fn run(frames: &mut [Frame<'_>], tables: &Snapshot, state: &mut State, now: Time) {
    state.tick(now);
    for frames in frames.chunks_mut(BATCH) {
        let mut steps = [const { Step::Done(Verdict::ToHost) }; BATCH];
        for (step, frame) in steps.iter_mut().zip(frames.iter()) {
            *step = look(frame.bytes(), tables).unwrap_or_else(Step::Done);
            if let Step::Forward(_, _, Plan::Tables { hash, .. }) = step {
                state.flows.prefetch(*hash);
            }
        }
        for (step, frame) in steps.iter().zip(frames.iter_mut()) {
            frame.verdict = match step {
                Step::Done(verdict) => *verdict,
                Step::Forward(packet, flow, plan) => forward(frame, packet, flow, *plan, tables, state, now),
                Step::Follow(packet) => follow(frame, packet, tables, state, now),
                Step::Answer(packet) => answer(frame.bytes(), packet, tables, state),
            };
            state.counters.verdict(frame.verdict);
        }
        state.counters.add(Number::Received, frames.len() as u64);
    }
}

/// First pass: everything that reads only the packet and the tables.
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
    let plan = select::plan(&flow, tables).map_err(Verdict::Drop)?;
    Ok(Step::Forward(packet, flow, plan))
}

/// Second pass: a packet that shows its flow.
#[inline]
fn forward(frame: &mut Frame<'_>, packet: &Packet, flow: &Flow, plan: Plan, tables: &Snapshot, state: &mut State, now: Time) -> Verdict {
    let choice = match select::finish(plan, flow, tables, &mut state.flows, now) {
        Ok(choice) => choice,
        Err(reason) => return Verdict::Drop(reason),
    };
    state.counters.add(choice.by.number(), 1);
    if packet.ip.fragment.is_some() {
        let key = fragment_key(packet, tables);
        if let Err(reason) = state.fragments.learn(key, choice.backend, now) {
            return Verdict::Drop(reason);
        }
        release(key, choice.backend, tables, state, now);
    }
    send(frame, packet, choice.backend, tables, &mut state.out, &mut state.counters, now)
}

/// Second pass: a fragment that shows no ports follows its first fragment, or waits for it.
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

/// Second pass: an echo request that we answer ourselves.
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
    match encap::wrap(frame, packet, backend, tables) {
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
        Err(Reason::TooBig) => match too_big::split(frame, packet, backend, tables, &mut out.outbox) {
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
