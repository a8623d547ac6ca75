//! The successor's side: stores checkpoints of other servers, and answers queries.

use super::super::event_loop::EventLoop;
use super::super::key::Key;
use super::super::peer::Peer;
use super::super::session::{Disposition, Stage};
use crate::report::{Counter, Outcome};
use crate::takeover::replay::ReplayCheck;
use crate::takeover::wire::{PeerMessage, Sequence};
use crate::takeover::{Checkpoint, Id};
use std::net::SocketAddr;

impl EventLoop {
    /// Returns whether the message with this sequence is new. A sender with a wrong token gets the valid one.
    pub(super) fn check_replay(&mut self, from: SocketAddr, name: &[u8], stream: u8, sequence: Sequence) -> bool {
        let Some(takeover) = self.takeover.as_deref_mut() else { return false };
        let window = takeover.replay_windows.entry((name.into(), stream)).or_default();
        match window.check(sequence, &mut takeover.tokens) {
            ReplayCheck::New => return true,
            ReplayCheck::Replayed => self.counters.add(Counter::PeerMessagesReplayed, 1),
            ReplayCheck::Token(token) => takeover.send_message(&mut self.net.outbox, from, &PeerMessage::TokenMismatch(sequence, token)),
        }
        false
    }

    /// Stores a checkpoint and acknowledges it.
    pub(super) fn store_checkpoint(&mut self, from: SocketAddr, peer: usize, sequence: Sequence, checkpoint: Checkpoint) {
        // Its owner is alive and further ahead, or has started another transfer: a server that continued it can stop.
        if self.takeover.as_ref().is_some_and(|takeover| takeover.membership.owner(checkpoint.id.tid) == Some(peer))
            && let Some(key) = self.foreign_session(&checkpoint.id)
        {
            self.with_session(key, |this, session| match (this.current_checkpoint(session), &session.stage) {
                (Some(known), _) if known.serial != checkpoint.serial => Disposition::Close(Outcome::HandedOver),
                (_, Stage::Running(running)) if running.transfer.acked() <= checkpoint.acked => Disposition::Close(Outcome::HandedOver),
                _ => Disposition::Keep,
            });
        }
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let Some(checkpoints) = &mut takeover.checkpoints else { return };
        let put = checkpoints.put(checkpoint, sequence, self.now);
        self.counters.add(if put.stored { Counter::CheckpointsStored } else { Counter::CheckpointsNotStored }, 1);
        self.counters.add(Counter::CheckpointsEvicted, put.evicted);
        if put.stored {
            takeover.queue_ack(from, sequence.token, sequence.number);
        } else {
            // Its owner need not wait for a successor without the checkpoint.
            takeover.send_message(&mut self.net.outbox, from, &PeerMessage::NotStored(sequence));
        }
    }

    /// Removes the checkpoint of a transfer that has ended elsewhere.
    pub(super) fn forget_checkpoint(&mut self, id: &Id) {
        if let Some(checkpoints) = self.takeover.as_mut().and_then(|takeover| takeover.checkpoints.as_mut()) {
            checkpoints.remove(id);
        }
    }

    /// Handles an ERROR of a client for a transfer that is not served here.
    pub(in super::super) fn unknown_error(&mut self, peer: &Peer) {
        let tid = self.net.sockets[usize::from(peer.socket)].local.port();
        self.forget_checkpoint(&Id { vip: peer.vip, client: peer.client, tid });
    }

    /// Answers a query about a transfer. If it was resumed here, it is handed over, because the querying server gets its packets now.
    pub(super) fn answer_query(&mut self, to: SocketAddr, nonce: u64, id: &Id) {
        let mut checkpoint = None;
        if let Some(key) = self.foreign_session(id) {
            self.with_session(key, |this, session| {
                checkpoint = this.current_checkpoint(session);
                if checkpoint.is_some() { Disposition::Close(Outcome::HandedOver) } else { Disposition::Keep }
            });
        }
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        if let (Some(checkpoint), Some(checkpoints)) = (&checkpoint, &mut takeover.checkpoints) {
            // It may be queried again.
            checkpoints.put(checkpoint.clone(), Sequence::default(), self.now);
        }
        let known = checkpoint.or_else(|| takeover.checkpoints.as_ref()?.get(id).cloned());
        let message = known.map_or(PeerMessage::AnswerUnknown(nonce), |checkpoint| PeerMessage::AnswerKnown(nonce, Box::new(checkpoint)));
        takeover.send_message(&mut self.net.outbox, to, &message);
    }

    /// Returns the session of another server's transfer that was resumed here.
    pub(super) fn foreign_session(&self, id: &Id) -> Option<Key> {
        let sockets = self.takeover.as_ref()?.foreign.get(&id.tid)?;
        sockets.iter().find_map(|&socket| self.sessions.key_of(&Peer { client: id.client, vip: id.vip, socket }))
    }
}
