//! Checkpoints to the successors of transfers that are served here.

use super::super::event_loop::EventLoop;
use super::super::key::Key;
use super::super::outbox::Outbox;
use super::super::session::{Disposition, Running, Session, Stage};
use super::replication::Replication;
use super::sent::SentMessage;
use super::state::Takeover;
use crate::content::Version;
use crate::packet::Mode;
use crate::report::{Counter, Counters, Outcome};
use crate::takeover::checkpoint::MAX_REQUEST;
use crate::takeover::wire::{PeerMessage, Sequence};
use crate::takeover::{Checkpoint, Id};
use guideway_packet::time::Time;
use std::net::SocketAddr;
use std::time::Duration;

/// Blocks between two checkpoints of a transfer. A successor may be this far behind, or twice if a checkpoint was lost, and the number of the client's
/// ACK still identifies the block (`rollover::MAX_AHEAD`).
pub const CHECKPOINT_INTERVAL: u64 = 16_384;
/// Largest lead of a transfer over the confirmed position of a successor, in blocks: two checkpoints.
const MAX_LAG: u64 = 2 * CHECKPOINT_INTERVAL;
/// Delay of the second checkpoint, which has `established` set.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for all successors before the first answer to a new request from the same port. A lost checkpoint is retransmitted meanwhile.
const RESTART_WAIT: Duration = Duration::from_secs(2);
/// Longest time until a checkpoint is renewed.
const RENEW_INTERVAL: Duration = Duration::from_secs(30);

/// Returns the id of a session's transfer; `None` for a client that only this host can reach.
pub fn id(session: &Session, tid: u16) -> Option<Id> {
    let client = session.peer.client;
    let scoped = matches!(client, SocketAddr::V6(client) if client.scope_id() != 0);
    (!scoped).then_some(Id { vip: session.peer.vip, client, tid })
}

pub fn checkpoint(id: Id, session_request: &[u8], running: &Running) -> Option<Checkpoint> {
    let transfer = &running.transfer;
    Some(Checkpoint {
        id,
        oack: !running.oack.is_empty(),
        established: transfer.established(),
        terms: *transfer.terms(),
        size: running.size?,
        version: running.content.version(),
        acked: transfer.acked(),
        serial: running.serial,
        request: session_request.into(),
    })
}

impl Takeover {
    /// Returns the last block that may be sent before a successor confirms more. A successor that is further behind could mistake the number of an ACK for
    /// that of an earlier block, and send wrong bytes. An unresponsive successor is ignored: it is dead, and its checkpoints are lost.
    fn limit(&self, running: &Running, now: Time) -> u64 {
        let Some(replication) = running.replication else { return u64::MAX };
        let there = replication
            .peers
            .iter()
            .zip(replication.confirmed)
            .filter(|(to, _)| to.is_some_and(|peer| !self.links[peer].is_unresponsive(now)));
        there.filter_map(|(_, has)| has).min().map_or(u64::MAX, |has| has + MAX_LAG)
    }

    /// Sends a checkpoint to one peer.
    pub(super) fn send_checkpoint(
        &mut self,
        outbox: &mut Outbox,
        counters: &Counters,
        now: Time,
        peer: usize,
        (key, checkpoint): (Key, &Checkpoint),
    ) {
        let sequence = self.links[peer].record_sent(SentMessage::Checkpoint(key, checkpoint.acked), now);
        let to = self.membership.members()[peer].checkpoint_address;
        self.send_message(outbox, to, &PeerMessage::Checkpoint(sequence, Box::new(checkpoint.clone())));
        counters.add(Counter::CheckpointsSent, 1);
    }
}

impl EventLoop {
    pub(in super::super) fn tid_of(&self, session: &Session) -> u16 {
        self.net.sockets[usize::from(session.peer.socket)].local.port()
    }

    /// Sends the first checkpoint of a transfer that is ready to start. The first answer waits until a successor confirms it.
    pub(in super::super) fn send_first_checkpoint(&mut self, key: Key, session: &mut Session, mut running: Box<Running>) -> Disposition {
        let resumable = self.check_resumable(session, &running);
        let start = running.transfer.start();
        let can_resume = match resumable {
            Err(None) => false,
            Err(Some(reason)) => {
                self.counters.add(reason, 1);
                self.forget_earlier(session);
                false
            }
            Ok(()) => {
                running.next_checkpoint_block = CHECKPOINT_INTERVAL;
                running.serial = self.takeover.as_mut().map_or(0, |takeover| takeover.tokens.generate());
                running.transfer.share(self.now);
                running.replication = Some(Replication::new([None; 2], None, [None; 2], self.now));
                true
            }
        };
        if can_resume {
            session.stage = Stage::Checkpointing(running);
            let should_wait = self.send_checkpoints(key, session);
            if let Some(takeover) = self.takeover.as_deref_mut().filter(|_| should_wait) {
                // Nearly in order of time: only few transfers wait longer.
                let until = self.now.plus(if session.restart {
                    takeover.checkpoint_timeout.max(RESTART_WAIT)
                } else {
                    takeover.checkpoint_timeout
                });
                let at = takeover.checkpoint_waits.partition_point(|(other, _)| *other <= until);
                takeover.checkpoint_waits.insert(at, (until, key));
                return Disposition::Keep;
            }
            self.counters.add(Counter::CheckpointsUnconfirmed, 1);
            return self.start_sending(key, session);
        }
        session.stage = Stage::Running(running);
        self.step(key, session, start)
    }

    /// Checks whether other servers can resume the transfer. The error is the counter of the reason; `None` without other servers.
    fn check_resumable(&self, session: &Session, running: &Running) -> Result<(), Option<Counter>> {
        let Some(takeover) = &self.takeover else { return Err(None) };
        let tid = self.tid_of(session);
        if session.mode != Some(Mode::Octet) {
            return Err(Some(Counter::NotResumableNetascii));
        }
        if running.size.is_none() {
            return Err(Some(Counter::NotResumableSize));
        }
        // The tag of empty content, and of content whose tag is not known yet.
        let version = running.content.version();
        if version == Version([0; 16]) || version == Version::of(&[]) {
            return Err(Some(Counter::NotResumableVersion));
        }
        match id(session, tid) {
            Some(_) if session.request.len() > MAX_REQUEST => Err(Some(Counter::NotResumableRequest)),
            Some(id) if takeover.membership.checkpoint_peers(id.vip, id.client, id.tid) != [None; 2] => Ok(()),
            Some(_) => Err(None),
            None => Err(Some(Counter::NotResumableRequest)),
        }
    }

    /// Makes successors drop an earlier transfer of the same client and ports, so that they do not confuse it with this one.
    fn forget_earlier(&mut self, session: &Session) {
        let tid = self.tid_of(session);
        if let (Some(takeover), Some(id)) = (self.takeover.as_deref_mut(), id(session, tid)) {
            let to = takeover.membership.checkpoint_peers(id.vip, id.client, tid);
            to.into_iter().flatten().for_each(|peer| takeover.ended[peer].push(id));
        }
    }

    /// Sends a checkpoint of the current position to the successors. Returns `false` when waiting for them is useless.
    pub(in super::super) fn send_checkpoints(&mut self, key: Key, session: &mut Session) -> bool {
        let tid = self.tid_of(session);
        let Some(id) = id(session, tid) else { return false };
        let (Stage::Running(running) | Stage::Checkpointing(running)) = &mut session.stage else { return false };
        let (Some(takeover), Some(checkpoint)) = (self.takeover.as_deref_mut(), checkpoint(id, &session.request, running)) else {
            return false;
        };
        let [first, second, third, fourth] = takeover.checkpoint_holders(&id);
        let to = [first, second];
        let before = running.replication.filter(|replication| replication.peers != [None; 2] || replication.former_peers != [None; 4]);
        let replication = before.unwrap_or_else(|| Replication::new(to, None, [third, fourth], self.now)).with_peers(to, self.now);
        running.replication = Some(replication);
        // Former successors get checkpoints until a current one has confirmed.
        let still_sent_to = before.map_or([None; 4], |_| replication.former_peers);
        running.next_checkpoint_block = (checkpoint.acked / CHECKPOINT_INTERVAL + 1) * CHECKPOINT_INTERVAL;
        running.transfer.limit_to(takeover.limit(running, self.now));
        if running.transfer.is_near_limit(CHECKPOINT_INTERVAL) {
            takeover.held.push(key);
        }
        let mut should_wait = false;
        for peer in still_sent_to.into_iter().flatten() {
            takeover.send_checkpoint(&mut self.net.outbox, &self.counters, self.now, peer, (key, &checkpoint));
        }
        for peer in to.into_iter().flatten() {
            // An earlier transfer with this id may have ended in this iteration, and its `Ended` would be sent at the end of it.
            takeover.ended[peer].retain(|ended| *ended != id);
            // A successor with an unacknowledged checkpoint of an earlier transfer from the same port may have that one.
            let link = &takeover.links[peer];
            should_wait |= if session.restart { !link.has_timed_out(self.now) } else { !link.is_unresponsive(self.now) };
            takeover.send_checkpoint(&mut self.net.outbox, &self.counters, self.now, peer, (key, &checkpoint));
        }
        should_wait
    }

    /// Records that a peer has confirmed this block of a transfer. If the first answer still waits, it is sent.
    pub(super) fn checkpoint_acked(&mut self, key: Key, peer: usize, block: u64) {
        self.with_session(key, |this, session| {
            let (Stage::Running(running) | Stage::Checkpointing(running)) = &mut session.stage else { return Disposition::Keep };
            if let Some(replication) = &mut running.replication {
                // A late answer of a former successor does not confirm anything for the current ones.
                if !replication.peers.contains(&Some(peer)) {
                    return Disposition::Keep;
                }
                let informed = replication.peers.iter().zip(&mut replication.confirmed).filter(|(to, _)| **to == Some(peer));
                informed.for_each(|(_, has)| *has = (*has).max(Some(block)));
                let former_peers = std::mem::take(&mut replication.former_peers);
                this.forget_at(session, former_peers);
            }
            this.advance(key, session)
        });
    }

    /// Makes these peers drop a transfer, because their checkpoints will be outdated when they are queried.
    fn forget_at(&mut self, session: &Session, former_peers: [Option<usize>; 4]) {
        let id = id(session, self.tid_of(session));
        if let (Some(takeover), Some(id)) = (self.takeover.as_deref_mut(), id) {
            former_peers.into_iter().flatten().for_each(|peer| takeover.ended[peer].push(id));
        }
    }

    /// Handles a successor without room for the checkpoint. It no longer limits the transfer: without a checkpoint it cannot confuse blocks.
    pub(super) fn checkpoint_not_stored(&mut self, key: Key, peer: usize) {
        self.with_session(key, |this, session| {
            let (Stage::Running(running) | Stage::Checkpointing(running)) = &mut session.stage else { return Disposition::Keep };
            if let Some(replication) = &mut running.replication {
                let informed = replication.peers.iter_mut().zip(&mut replication.confirmed).filter(|(to, _)| **to == Some(peer));
                informed.for_each(|(to, has)| (*to, *has) = (None, None));
            }
            // The other successor may still confirm.
            let keep_waiting = matches!(session.stage, Stage::Checkpointing(_)) && !session.restart;
            if keep_waiting { Disposition::Keep } else { this.advance(key, session) }
        });
    }

    /// Lets a transfer continue that waits for the confirmation of successors.
    pub(super) fn recheck_limit(&mut self, key: Key) {
        self.with_session(key, |this, session| {
            let after = this.advance(key, session);
            if let (Stage::Running(running), Some(takeover)) = (&session.stage, &mut this.takeover)
                && running.transfer.is_near_limit(CHECKPOINT_INTERVAL)
            {
                takeover.held.push(key);
            }
            after
        });
    }

    fn advance(&mut self, key: Key, session: &mut Session) -> Disposition {
        let Some(takeover) = self.takeover.as_deref() else { return Disposition::Keep };
        match &mut session.stage {
            Stage::Running(running) => {
                let more = running.transfer.limit_to(takeover.limit(running, self.now));
                if more { self.send_blocks(key, session) } else { Disposition::Keep }
            }
            // Successors must not confuse an earlier transfer with this id with this one.
            Stage::Checkpointing(running)
                if session.restart
                    && running.replication.is_some_and(|replication| !replication.is_confirmed(&takeover.links, self.now)) =>
            {
                Disposition::Keep
            }
            _ => self.start_sending(key, session),
        }
    }

    /// Sends the first answer although no successor has confirmed in time.
    pub(super) fn checkpoint_wait_expired(&mut self, key: Key) {
        self.with_session(key, |this, session| {
            if matches!(session.stage, Stage::Checkpointing(_)) {
                this.counters.add(Counter::CheckpointsUnconfirmed, 1);
            }
            this.start_sending(key, session)
        });
    }

    fn start_sending(&mut self, key: Key, session: &mut Session) -> Disposition {
        match std::mem::replace(&mut session.stage, Stage::Opening(None)) {
            Stage::Checkpointing(mut running) => {
                running.transfer.share(self.now);
                let start = running.transfer.start();
                session.answered = Some(self.now);
                session.stage = Stage::Running(running);
                if let Some(takeover) = &mut self.takeover {
                    takeover.confirm_queue.push_back((self.now.plus(CONFIRM_AFTER), key));
                }
                self.step(key, session, start)
            }
            other => {
                session.stage = other;
                Disposition::Keep
            }
        }
    }

    /// Sends the second checkpoint of a transfer after a second, if its client has answered. Successors never evict such checkpoints.
    pub(super) fn confirm(&mut self, key: Key) {
        let now = self.now;
        self.with_session(key, |this, session| {
            let established = matches!(&session.stage, Stage::Running(running) if running.transfer.established());
            if established {
                this.send_checkpoints(key, session);
            }
            if let Some(takeover) = &mut this.takeover {
                let (queue, delay) =
                    if established { (&mut takeover.renew_queue, RENEW_INTERVAL) } else { (&mut takeover.confirm_queue, CONFIRM_AFTER) };
                queue.push_back((now.plus(delay), key));
            }
            Disposition::Keep
        });
    }

    /// Renews the checkpoint of a transfer.
    pub(super) fn renew(&mut self, key: Key) {
        let now = self.now;
        self.with_session(key, |this, session| {
            let replication = if let Stage::Running(running) = &session.stage { running.replication } else { None };
            if replication.is_some_and(|replication| now - replication.at > RENEW_INTERVAL / 2) {
                this.send_checkpoints(key, session);
            }
            if let Some(takeover) = &mut this.takeover {
                takeover.renew_queue.push_back((now.plus(RENEW_INTERVAL), key));
            }
            Disposition::Keep
        });
    }

    /// Schedules the renewal of checkpoints of a resumed transfer.
    pub(super) fn schedule_renewal(&mut self, key: Key) {
        if let Some(takeover) = &mut self.takeover {
            takeover.renew_queue.push_back((self.now.plus(RENEW_INTERVAL), key));
        }
    }

    /// Handles a message that a peer rejected because of its token.
    pub(super) fn resend_with_token(&mut self, peer: usize, sequence: Sequence, token: u64) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let peer_restarted = sequence.token != 0 && takeover.links[peer].token() == sequence.token;
        let Some(about) = takeover.links[peer].token_rejected(sequence, token) else { return };
        self.peer_answered(peer);
        if peer_restarted {
            // It was restarted, and has lost its checkpoints.
            return self.send_all_checkpoints(Some(peer));
        }
        self.resend(peer, about);
    }

    pub(super) fn send_checkpoint_to(&mut self, key: Key, peer: usize) {
        self.with_session(key, |this, session| {
            let (Stage::Running(running) | Stage::Checkpointing(running)) = &session.stage else { return Disposition::Keep };
            // It may no longer be a successor.
            let informed = running.replication.is_some_and(|replication| replication.peers.contains(&Some(peer)));
            let about = id(session, this.tid_of(session)).filter(|_| informed).and_then(|id| checkpoint(id, &session.request, running));
            if let (Some(takeover), Some(checkpoint)) = (this.takeover.as_deref_mut(), about) {
                takeover.send_checkpoint(&mut this.net.outbox, &this.counters, this.now, peer, (key, &checkpoint));
            }
            Disposition::Keep
        });
    }

    /// Sends checkpoints of all transfers: to this peer those that it needs, or without a peer to all new successors.
    pub(super) fn send_all_checkpoints(&mut self, peer: Option<usize>) {
        for key in self.sessions.keys() {
            let informed = self.sessions.get(key).and_then(|session| match &session.stage {
                Stage::Running(running) | Stage::Checkpointing(running) => running.replication.map(|replication| replication.peers),
                _ => None,
            });
            match (informed, peer) {
                (Some(informed), Some(peer)) if informed.contains(&Some(peer)) => self.send_checkpoint_to(key, peer),
                (Some(_), None) => self.with_session(key, |this, session| {
                    this.send_checkpoints(key, session);
                    Disposition::Keep
                }),
                _ => {}
            }
            if self.net.outbox.is_full() {
                self.flush();
            }
        }
    }

    /// Announces the end of a session to the peers with its checkpoint, unless one of them may have to continue it.
    pub(in super::super) fn send_ended_if_final(&mut self, session: &Session, outcome: &Outcome) {
        let tid = self.tid_of(session);
        let (Some(takeover), Some(id)) = (self.takeover.as_deref_mut(), id(session, tid)) else { return };
        if may_resume_elsewhere(outcome) {
            takeover.unannounced_ends.insert(&session.peer);
        }
        // Only for foreign ports. For own ports another server may have continued meanwhile, which a query finds out.
        if session.taken_over && may_resume_elsewhere(outcome) && !takeover.membership.is_own(tid) {
            // A resumed transfer continues from here, not from an earlier checkpoint of the owner.
            let checkpoint = session.resume.is_none().then(|| current_checkpoint(session, id)).flatten();
            if let (Some(checkpoint), Some(checkpoints)) = (checkpoint, &mut takeover.checkpoints) {
                checkpoints.put(checkpoint, Sequence::default(), self.now);
            }
        }
        if may_resume_elsewhere(outcome) {
            return;
        }
        self.forget_at(session, session.former_peers());
        // A restart begins another transfer with the same id, whose checkpoint replaces this one.
        let Some(takeover) = self.takeover.as_deref_mut().filter(|_| *outcome != Outcome::Restarted) else { return };
        if let Some(checkpoints) = &mut takeover.checkpoints {
            checkpoints.remove(&id);
        }
        if session.was_checkpointed() {
            let to = takeover.membership.checkpoint_peers(id.vip, id.client, tid);
            to.into_iter().flatten().for_each(|peer| takeover.ended[peer].push(id));
        }
    }
}

/// Returns whether a transfer with this outcome may continue on another server: its client was unresponsive, perhaps only towards this server.
pub fn may_resume_elsewhere(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Unconfirmed | Outcome::HalfOpen | Outcome::Evicted | Outcome::TimedOut | Outcome::HandedOver | Outcome::Stopped
    )
}

fn current_checkpoint(session: &Session, id: Id) -> Option<Checkpoint> {
    if let Stage::Running(running) = &session.stage { checkpoint(id, &session.request, running) } else { None }
}

impl Session {
    fn former_peers(&self) -> [Option<usize>; 4] {
        match &self.stage {
            Stage::Running(running) | Stage::Checkpointing(running) => {
                running.replication.map_or([None; 4], |replication| replication.former_peers)
            }
            _ => [None; 4],
        }
    }

    fn was_checkpointed(&self) -> bool {
        match &self.stage {
            Stage::Running(running) | Stage::Checkpointing(running) => running.replication.is_some(),
            _ => self.taken_over,
        }
    }
}
