//! Takeover in an event loop: sends and receives checkpoints, and resumes transfers of other servers.
//!
//! | File | Contents |
//! |---|---|
//! | `state`, `sent`, `spare_sockets` | state of a loop: links to peers, unacknowledged messages, sockets for foreign ports |
//! | `owner`, `replication` | checkpoints of the transfers that are served here, and their confirmations |
//! | `resend` | hellos and retransmissions |
//! | `successor` | checkpoints of other servers, and answers to queries |
//! | `query`, `queries` | queries about unknown transfers |
//! | `ownership_check` | check that no other server has continued a transfer |
//! | `resume` | resuming a transfer, from the address that its client knows |
//! | `simulation` | test: three servers through random schedules of faults |
//!
//! The first loop receives and stores checkpoints, and serves transfers of other servers' ports. The other loops are owners only, each with its own
//! socket and stream. Takeover costs a packet of a running transfer at most one comparison.

mod owner;
mod ownership_check;
mod queries;
mod query;
mod replication;
mod resend;
mod resume;
mod sent;
#[cfg(test)]
#[cfg(all(feature = "client", feature = "handlers"))]
mod simulation;
mod spare_sockets;
mod state;
mod successor;

pub(super) use owner::may_resume_elsewhere;
pub(super) use replication::Replication;
pub(super) use state::Takeover;
pub use state::TakeoverStatus;

use super::event_loop::{EventLoop, MAX_BATCHES};
use super::key::Key;
use super::peer::Peer;
use super::session::Stage;
use super::sys::{ReceiveMode, Received, Receiver};
use crate::report::Counter;
use crate::takeover::Membership;
use crate::takeover::wire::{MAX_ITEMS, PeerMessage};
use guideway_packet::time::Time;
use sent::SentMessage;
#[cfg(test)]
#[cfg(all(feature = "client", feature = "handlers"))]
use spare_sockets::SpareSockets;
use state::HELLO_INTERVAL;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

impl EventLoop {
    /// Receives messages of other servers.
    pub(super) fn receive_peer_messages(&mut self, receiver: &mut Receiver) {
        for _ in 0..MAX_BATCHES {
            let Some(socket) = self.takeover.as_ref().map(|takeover| takeover.socket) else { return };
            let Ok((count, more)) = receiver.receive(self.net.sockets[usize::from(socket)].as_fd(), ReceiveMode::NonBlocking) else {
                return;
            };
            for at in 0..count {
                if let Some(received) = receiver.get(at) {
                    self.handle_peer_datagram(&received);
                }
            }
            if !more {
                return;
            }
        }
    }

    fn handle_peer_datagram(&mut self, datagram: &Received<'_>) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let received = takeover.signer.read(datagram.bytes).and_then(|received| Some((takeover.membership.find(received.from)?, received)));
        // Only from the address of a server of the pool: a replayed message must not choose the destination of the answer.
        let known = received.filter(|(at, _)| {
            let member = &takeover.membership.members()[*at];
            member.checkpoint_address.ip() == datagram.from.ip() && *member != *takeover.membership.me()
        });
        let Some((peer, received)) = known else { return self.counters.add(Counter::PeerMessagesInvalid, 1) };
        let from = datagram.from;
        match received.message {
            PeerMessage::Acks(_, numbers) => {
                for number in numbers {
                    let about = self.takeover.as_deref_mut().and_then(|takeover| takeover.links[peer].acknowledge(number));
                    if about.is_some() {
                        self.peer_answered(peer);
                    }
                    if let Some(SentMessage::Checkpoint(key, block)) = about {
                        self.checkpoint_acked(key, peer, block);
                    }
                }
            }
            PeerMessage::TokenMismatch(sequence, token) => self.resend_with_token(peer, sequence, token),
            PeerMessage::AnswerKnown(nonce, checkpoint) => self.on_answer_known(nonce, peer, *checkpoint),
            PeerMessage::AnswerUnknown(nonce) => self.on_answer_unknown(nonce, peer),
            PeerMessage::TransferQuery(sequence, nonce, id) => {
                if self.check_replay(from, received.from, received.stream, sequence) {
                    self.answer_query(from, nonce, &id);
                }
            }
            PeerMessage::OwnershipQuery(sequence, nonce, id, block) => {
                if self.check_replay(from, received.from, received.stream, sequence) {
                    self.answer_ownership_query(from, nonce, &id, block);
                }
            }
            PeerMessage::NotStored(sequence) => {
                let about = self.takeover.as_deref_mut().and_then(|takeover| takeover.links[peer].acknowledge(sequence.number));
                if about.is_some() {
                    self.peer_answered(peer);
                }
                if let Some(SentMessage::Checkpoint(key, _)) = about {
                    self.checkpoint_not_stored(key, peer);
                }
            }
            PeerMessage::Hello(sequence) => {
                if self.check_replay(from, received.from, received.stream, sequence)
                    && let Some(takeover) = &mut self.takeover
                {
                    takeover.queue_ack(from, sequence.token, sequence.number);
                } else if sequence.token == 0 && self.takeover.as_mut().is_some_and(|takeover| takeover.links[peer].should_greet(self.now))
                {
                    // If the peer was restarted, it rejects this hello and gets all checkpoints at once: this server may be the next one to fail.
                    self.resend(peer, SentMessage::Hello);
                }
            }
            PeerMessage::Checkpoint(sequence, checkpoint) => {
                if self.check_replay(from, received.from, received.stream, sequence) {
                    self.store_checkpoint(from, peer, sequence, *checkpoint);
                }
            }
            PeerMessage::Ended(sequence, ids) => {
                if self.check_replay(from, received.from, received.stream, sequence) {
                    ids.iter().for_each(|id| self.forget_checkpoint(id));
                    if let Some(takeover) = &mut self.takeover {
                        takeover.queue_ack(from, sequence.token, sequence.number);
                    }
                }
            }
        }
    }

    /// Records that a peer has answered an open message. Only such answers show that it is alive; other messages may be replayed.
    fn peer_answered(&mut self, peer: usize) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        if takeover.links[peer].mark_answered(self.now) {
            takeover.count_peers(self.now);
            // It missed messages while it was unresponsive.
            self.send_all_checkpoints(Some(peer));
        }
    }

    /// Handles due work, at the end of an iteration of the loop and before the outbox is flushed.
    pub(super) fn poll_takeover(&mut self) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let now = self.now;
        let due = |queue: &mut VecDeque<(Time, Key)>| {
            let front = queue.front().is_some_and(|(at, _)| *at <= now);
            if front { queue.pop_front().map(|(_, key)| key) } else { None }
        };
        if takeover.last_hello.is_none_or(|at| now - at >= HELLO_INTERVAL) {
            self.send_hellos();
        }
        self.resend_overdue();
        while let Some(key) = self.takeover.as_deref_mut().and_then(|takeover| due(&mut takeover.checkpoint_waits)) {
            self.checkpoint_wait_expired(key);
        }
        while let Some(key) = self.takeover.as_deref_mut().and_then(|takeover| due(&mut takeover.confirm_queue)) {
            self.confirm(key);
        }
        while let Some(key) = self.takeover.as_deref_mut().and_then(|takeover| due(&mut takeover.renew_queue)) {
            self.renew(key);
        }
        self.retry_queries();
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        for (to, token, numbers) in std::mem::take(&mut takeover.acks) {
            takeover.send_message(&mut self.net.outbox, to, &PeerMessage::Acks(token, numbers));
        }
        for peer in 0..takeover.ended.len() {
            if takeover.ended[peer].is_empty() {
                continue;
            }
            let ids = std::mem::take(&mut takeover.ended[peer]);
            ids.chunks(MAX_ITEMS).for_each(|ids| takeover.send_ended(&mut self.net.outbox, peer, ids, now));
        }
        if let Some(checkpoints) = &takeover.checkpoints {
            takeover.status.transfers.store(checkpoints.len() as u64, Relaxed);
            takeover.status.bytes.store(checkpoints.bytes() as u64, Relaxed);
        }
    }

    /// Returns whether successors may have a checkpoint of an earlier transfer of this peer, which they must not confuse with the new one.
    pub(super) fn has_unannounced_end(&self, peer: &Peer) -> bool {
        self.takeover.as_ref().is_some_and(|takeover| takeover.unannounced_ends.contains(peer))
    }

    /// Replaces the pool. New successors get their checkpoints at once.
    pub(super) fn set_membership(&mut self, membership: &Arc<Membership>) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let links = std::mem::take(&mut takeover.links);
        let remap = takeover.set_links(membership, links);
        for session in self.sessions.iter_mut() {
            if let Stage::Running(running) | Stage::Checkpointing(running) = &mut session.stage
                && let Some(replication) = &mut running.replication
            {
                replication.remap(&remap);
            }
        }
        self.bind_foreign_sockets();
        self.send_all_checkpoints(None);
    }
}
