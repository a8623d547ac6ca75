//! The packet path: one function from bytes, tables and time to verdicts. No socket, clock, log, lock or allocation in it.
//!
//! Stages in the order in which a packet meets them: [`parse`] → [`vip`] → [`icmp`] → [`fragment`] → [`select`] → [`encap`].
//! In [`select`], TFTP requests pass the request policy and [`requests`], packets of a backend that is down go to its successor, and packets that no backend
//! here takes go to the remote site.
//!
//! A batch goes through in two passes. The first pass needs no state, and prefetches the cache lines of all flows before the second pass reads and writes
//! them. Ordinary packets take the fast path through both passes (`fast_path`), all others the stages one by one: the slow path.

mod choice;
pub mod draining;
mod encap;
pub mod explain;
mod fast_path;
mod first_fragments;
mod fleet;
mod flow;
mod fragment;
mod icmp;
mod icmp_error;
mod keepalive;
pub(crate) mod lookup;
pub(crate) mod outbox;
mod parse;
mod remote_site;
mod request_policy;
pub mod requests;
mod select;
mod state;
pub(crate) mod steering_hash;
mod successor;
#[cfg(test)]
pub(crate) mod tests;
mod too_big;
mod vip;

pub use choice::{Choice, SelectedBy};
pub use state::{Shared, State};

use crate::counters::{Counters, PacketCounter};
use crate::tables::{BackendId, Snapshot};
use fast_path::FastPathPacket;
use flow::{Flow, Relation};
use fragment::Hold;
use guideway_hash::ClientHasher;
use guideway_packet::frame::Frame;
use guideway_packet::io::BATCH;
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use icmp_error::IcmpError;
use lookup::LastLookups;
use parse::Packet;
use requests::Request;
use select::Plan;
use state::Out;

/// What is left to do with a packet that takes the slow path.
#[derive(Clone, Copy, Debug)]
enum SlowPathAction {
    Forward(Packet, Flow, Plan),
    LaterFragment(Packet),
    EchoReply(Packet),
    HandOn(Packet, BackendId),
    ToLocalServer(Packet, BackendId),
    KeepaliveReply(Packet),
}

/// Decides over a batch, rewrites the packets to be transmitted in place, and counts every verdict once.
pub fn run(frames: &mut [Frame<'_>], tables: &Snapshot, state: &mut State, now: Time) {
    state.tick(now);
    release_known(tables, state, now);
    for frames in frames.chunks_mut(BATCH) {
        let mut classified = [None; BATCH];
        classify_batch(&mut classified, frames, tables, state);
        if state.requests.watches_acks() {
            requests::scan_acks(&classified, frames, tables, &mut state.requests);
        }
        let known_before = state.flows.statistics().inserted;
        for (ordinary, frame) in classified.iter().zip(frames.iter_mut()) {
            let verdict = match ordinary {
                Some(ordinary) => run_fast_path(frame, ordinary, tables, state, now),
                None => None,
            };
            frame.verdict = match verdict {
                Some(verdict) => verdict,
                None => run_slow_path(frame, tables, state, now),
            };
            state.counters.verdict(frame.verdict);
        }
        state.counters.add(PacketCounter::Received, frames.len() as u64);
        state.many_new_flows = (state.flows.statistics().inserted - known_before) as usize > frames.len() / 4;
    }
}

/// First pass, for all packets.
#[inline(never)]
fn classify_batch<'t>(classified: &mut [Option<FastPathPacket<'t>>; BATCH], frames: &[Frame<'_>], tables: &'t Snapshot, state: &State) {
    let mut last = LastLookups::default();
    for (found, frame) in classified.iter_mut().zip(frames) {
        fast_path::classify(frame.bytes(), tables, &mut last, found);
        if let Some(FastPathPacket { plan: Plan::Tables { hash, .. }, .. }) = found {
            state.flows.prefetch(*hash);
        }
    }
    if state.many_new_flows {
        for packet in classified.iter().flatten() {
            if let Plan::Tables { hash, .. } = packet.plan {
                state.flows.prefetch_other(hash);
            }
        }
    }
}

/// Second pass, for an ordinary packet. Returns `None` when no backend takes it, or the one that the flow table names takes no new connection.
#[inline(always)]
fn run_fast_path(frame: &mut Frame<'_>, packet: &FastPathPacket<'_>, tables: &Snapshot, state: &mut State, now: Time) -> Option<Verdict> {
    let row_hash = |hash| packet.row_hash(frame.bytes(), hash, tables);
    let (choice, backend) = select::finish(&packet.plan, packet.service, Relation::Member, row_hash, tables, &mut state.flows, now).ok()?;
    if backend.is_some_and(|backend| backend.draining) {
        let flow = packet.flow(frame.bytes(), tables)?;
        if flow.opens_connection {
            return None;
        }
        state.draining_flows.record(&flow, choice.backend, tables, now);
    }
    state.counters.add(choice.by.counter(), 1);
    let entropy = |frame: &Frame<'_>, hasher: &ClientHasher| packet.entropy(frame, hasher);
    let wrapped = backend.is_some_and(|backend| encap::encapsulate(frame, &packet.encap_params, backend, entropy).is_ok());
    Some(if wrapped { Verdict::Transmit } else { send_exception(frame, choice.backend, tables, state, now) })
}

/// An ordinary packet that cannot simply be wrapped.
#[cold]
fn send_exception(frame: &mut Frame<'_>, backend: BackendId, tables: &Snapshot, state: &mut State, now: Time) -> Verdict {
    match parse::parse(frame.bytes(), tables) {
        Ok(packet) => send(frame, &packet, backend, tables, &mut state.out, &mut state.counters, now),
        Err(verdict) => verdict,
    }
}

/// All stages in full: for fragments, ICMP, options, packets that are wrong and packets that cannot be sent.
#[cold]
fn run_slow_path(frame: &mut Frame<'_>, tables: &Snapshot, state: &mut State, now: Time) -> Verdict {
    match classify(frame.bytes(), tables) {
        Ok(SlowPathAction::Forward(packet, flow, plan)) => forward(frame, &packet, &flow, plan, tables, state, now),
        Ok(SlowPathAction::LaterFragment(packet)) => forward_fragment(frame, &packet, tables, state, now),
        Ok(SlowPathAction::EchoReply(packet)) => {
            let sent = icmp::reply_to_echo(&packet, frame.bytes(), tables, &mut state.out.outbox);
            end_answered(if sent { Reason::IcmpAnswered } else { Reason::OutboxFull }, state)
        }
        Ok(SlowPathAction::KeepaliveReply(packet)) => {
            end_answered(keepalive::reply(&packet, frame.bytes(), tables, &mut state.out.outbox), state)
        }
        Ok(SlowPathAction::HandOn(packet, owner)) => {
            state.counters.add(PacketCounter::HandedOn, 1);
            send(frame, &packet, owner, tables, &mut state.out, &mut state.counters, now)
        }
        Ok(SlowPathAction::ToLocalServer(packet, server)) => {
            state.counters.add(PacketCounter::ToLocalServer, 1);
            send(frame, &packet, server, tables, &mut state.out, &mut state.counters, now)
        }
        Err(verdict) => verdict,
    }
}

/// What the outer header shall differ by, as [`FastPathPacket::entropy`]. All fragments of a packet, the first included, have that of their client's address.
#[cold]
fn entropy(frame: &[u8], packet: &Packet, tables: &Snapshot, hasher: &ClientHasher) -> u64 {
    match classify(frame, tables) {
        Ok(SlowPathAction::Forward(_, _, Plan::Tables { hash, .. })) if packet.ip.fragment.is_none() => hash,
        _ => packet.entropy(frame, hasher),
    }
}

/// The stages that read only the packet and the tables.
#[inline]
fn classify(frame: &[u8], tables: &Snapshot) -> Result<SlowPathAction, Verdict> {
    let packet = parse::parse(frame, tables)?;
    let kind = vip::find(&packet, frame, tables)?;
    if let Some(server) = fleet::local_server(&packet, tables) {
        return Ok(SlowPathAction::ToLocalServer(packet, server));
    }
    if let Some(owner) = fleet::owner(&packet, tables) {
        return Ok(SlowPathAction::HandOn(packet, owner));
    }
    let flow = match kind {
        vip::PacketKind::Flow(flow) => flow,
        vip::PacketKind::LaterFragment => return Ok(SlowPathAction::LaterFragment(packet)),
        vip::PacketKind::Keepalive => return Ok(SlowPathAction::KeepaliveReply(packet)),
        vip::PacketKind::Icmp(vip) => match icmp::decide(&packet, vip, frame, tables).map_err(Verdict::Drop)? {
            icmp::Action::Forward(flow) => flow,
            icmp::Action::EchoReply => return Ok(SlowPathAction::EchoReply(packet)),
        },
    };
    let plan = select::plan(&flow, packet.from_remote_site, tables).map_err(Verdict::Drop)?;
    Ok(SlowPathAction::Forward(packet, flow, plan))
}

/// A packet that shows its flow.
#[inline]
fn forward(frame: &mut Frame<'_>, packet: &Packet, flow: &Flow, plan: Plan, tables: &Snapshot, state: &mut State, now: Time) -> Verdict {
    let service = &tables.services[usize::from(flow.service)];
    let chosen = match plan {
        Plan::Tables { hash, learn, .. } if flow.is_request(service) => {
            let request = Request { flow, service, payload: packet.payload(frame.bytes()), hash, learn };
            let State { requests, flows, counters, .. } = state;
            requests::choose(&request, tables, requests, flows, counters, now)
        }
        _ => {
            state.requests.observe_ack(flow, tables);
            if let Plan::Tables { hash, read: true, .. } = plan
                && (flow.related || packet.ip.fragment.is_some())
            {
                state.flows.adopt(hash, now);
            }
            let row_hash = |hash| flow.row_hash(hash, tables);
            select::finish(&plan, service, flow.relation(), row_hash, tables, &mut state.flows, now).map(|(choice, _)| choice)
        }
    };
    let choice = match chosen {
        Ok(choice) => choice,
        Err(Reason::NoBackend) => {
            let Some(choice) = remote_site::choose(flow, packet.from_remote_site, tables) else { return Verdict::Drop(Reason::NoBackend) };
            if let Plan::Tables { hash, learn: true, .. } = plan
                && state.flows.peek(hash, now).is_some()
            {
                // The flow leaves the backend that it had here.
                state.flows.insert(hash, choice.backend, now, service.idle);
            }
            choice
        }
        Err(reason) => return Verdict::Drop(reason),
    };
    state.counters.add(choice.by.counter(), 1);
    if !flow.related && tables.backend(choice.backend).is_some_and(|backend| backend.draining) {
        state.draining_flows.record(flow, choice.backend, tables, now);
    }
    if packet.ip.fragment.is_some() {
        let key = packet.fragment_key(tables);
        state.fragments.learn(key, choice.backend, packet, now);
        if matches!(plan, Plan::Tables { learn: true, .. }) {
            state.flows.fragment_opened(now, service.idle);
        }
        release(key, choice.backend, tables, state, now);
    }
    send(frame, packet, choice.backend, tables, &mut state.out, &mut state.counters, now)
}

/// A fragment without ports follows its first fragment, or waits for it.
fn forward_fragment(frame: &mut Frame<'_>, packet: &Packet, tables: &Snapshot, state: &mut State, now: Time) -> Verdict {
    let key = packet.fragment_key(tables);
    if let Some(backend) = state.fragments.find(key, packet, now) {
        return send(frame, packet, backend, tables, &mut state.out, &mut state.counters, now);
    }
    match state.fragments.hold(key, packet, frame.bytes(), now) {
        Hold::Held => Verdict::Hold,
        Hold::Replaced => {
            state.counters.release_held(Verdict::Drop(Reason::FragmentHoldFull));
            Verdict::Hold
        }
        Hold::TooLong => Verdict::Drop(Reason::FragmentHoldFull),
    }
}

/// The fragments that waited leave after their first one.
fn release(key: u64, backend: BackendId, tables: &Snapshot, state: &mut State, now: Time) {
    let State { fragments, out, counters, .. } = state;
    fragments.release(key, now, |packet, frame| {
        let mut verdict = send(frame, packet, backend, tables, out, counters, now);
        if verdict == Verdict::Transmit && !out.outbox.release(frame.bytes(), frame.output) {
            verdict = Verdict::Drop(Reason::OutboxFull);
        }
        counters.release_held(verdict);
    });
}

/// Releases fragments that are held here and whose first one came to another worker. Part of every batch; without packets the caller calls it.
#[inline]
pub fn release_known(tables: &Snapshot, state: &mut State, now: Time) {
    while let Some((key, backend)) = state.fragments.next_known(now) {
        release(key, backend, tables, state, now);
    }
}

/// The end of a packet that we answer ourselves, if there was room.
fn end_answered(reason: Reason, state: &mut State) -> Verdict {
    let answered = matches!(reason, Reason::IcmpAnswered | Reason::KeepaliveAnswered);
    state.counters.add(PacketCounter::Originated, u64::from(answered));
    Verdict::Drop(reason)
}

/// Last stage, and the answers to a packet that does not fit or whose next hop is unknown.
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
    if packet.from_remote_site && tables.remote_site_directors.contains(&id) {
        return Verdict::Drop(Reason::NoBackend);
    }
    match encap::encapsulate(frame, &packet.into(), backend, |frame, hasher| entropy(frame.bytes(), packet, tables, hasher)) {
        Ok(()) => Verdict::Transmit,
        Err(Reason::NeighbourUnresolved) => {
            out.request_resolution(id);
            Verdict::Drop(Reason::NeighbourUnresolved)
        }
        // What came in GRE has the TTL of the router's header, about which its client knows nothing.
        Err(Reason::TtlExpired) if !packet.in_gre => {
            originate_error(IcmpError::TimeExceeded, frame, packet, tables, out, counters, now);
            Verdict::Drop(Reason::TtlExpired)
        }
        Err(Reason::TooBig) if packet.ip.df => {
            originate_error(IcmpError::TooBig(backend.inner_mtu()), frame, packet, tables, out, counters, now);
            Verdict::Drop(Reason::TooBig)
        }
        Err(Reason::TooBig) => match too_big::fragment_packet(frame, packet, backend, &mut out.outbox) {
            Ok(more) => {
                counters.add(PacketCounter::Originated, more);
                Verdict::Transmit
            }
            Err(reason) => Verdict::Drop(reason),
        },
        Err(reason) => Verdict::Drop(reason),
    }
}

fn originate_error(
    error: IcmpError,
    frame: &Frame<'_>,
    packet: &Packet,
    tables: &Snapshot,
    out: &mut Out,
    counters: &mut Counters,
    now: Time,
) {
    let sent = icmp_error::send_error(error, frame.bytes(), packet, tables, &mut out.limiters, &mut out.outbox, now);
    counters.add(PacketCounter::Originated, u64::from(sent));
}
