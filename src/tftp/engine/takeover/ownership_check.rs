//! Ownership check: an owner that did not receive a client for a while may have been cut off, and another server may have continued the transfer.
//!
//! Block numbers repeat after 65,536 blocks. If a successor is further ahead than that, a returning owner would mistake the client's ACK for an earlier
//! one, and send the wrong block under the number that the client expects. So where that is possible
//! ([`needs_ownership_check`](crate::transfer::Transfer::needs_ownership_check)), the owner accepts no ACK and sends no block before the successors have
//! answered. If one has continued the transfer, the session ends silently here, and the client's next packet triggers a query, as for any unknown
//! transfer.

use super::super::event_loop::EventLoop;
use super::super::key::Key;
use super::super::session::{Disposition, Session, Stage};
use super::owner::id;
use super::queries::{MAX_QUERIED, OwnershipQuery};
use crate::report::{Counter, Outcome};
use crate::takeover::wire::{PeerMessage, Sequence};
use crate::takeover::{Checkpoint, Id};
use guideway_packet::time::Time;
use std::net::SocketAddr;

impl EventLoop {
    /// Returns whether this transfer needs an ownership check before it continues.
    pub(in super::super) fn needs_ownership_check(&self, session: &Session) -> bool {
        match &session.stage {
            Stage::Running(running) => {
                running.ownership_check_pending || running.replication.is_some() && running.transfer.needs_ownership_check(self.now)
            }
            _ => false,
        }
    }

    /// Asks the successors whether they have continued it. `block` is the number of the client's ACK, if one was received.
    pub(in super::super) fn start_ownership_check(&mut self, key: Key, session: &mut Session, block: Option<u16>) -> Disposition {
        let (peer, route, tid) = (session.peer, session.route, self.tid_of(session));
        let (Some(id), Stage::Running(running)) = (id(session, tid), &mut session.stage) else { return Disposition::Keep };
        running.ownership_check_pending = true;
        let (acked, confirmed_at) = (running.transfer.acked(), running.transfer.confirmed_at());
        let Some(takeover) = self.takeover.as_deref_mut() else { return Disposition::Keep };
        if let Some(query) = takeover.queries.about(&peer) {
            query.block = block.or(query.block);
            return Disposition::Keep;
        }
        // A peer that was unresponsive before the client is dead: otherwise it would have been cut off from us while the client was not.
        let responsive = |peer: &usize| !takeover.links[*peer].is_unresponsive(confirmed_at);
        let queried = takeover.checkpoint_holders(&id).map(|peer| peer.filter(responsive));
        let query = OwnershipQuery {
            id,
            peer,
            route,
            block,
            queried,
            unknown: [false; MAX_QUERIED],
            sequence_numbers: [None; MAX_QUERIED],
            second_pair: true,
            tries: 1,
            at: self.now,
            ownership: Some((key, acked)),
        };
        if queried == [None; MAX_QUERIED] {
            return self.continue_confirmed(key, session, block, self.now);
        }
        self.counters.add(Counter::OwnershipChecks, 1);
        let nonce = takeover.tokens.generate();
        takeover.queries.insert(nonce, query, self.now);
        self.send_query(nonce);
        Disposition::Keep
    }

    /// Handles the confirmation that no responsive peer had continued it at this time.
    pub(super) fn ownership_confirmed(&mut self, query: &OwnershipQuery, at: Time) {
        let Some((key, _)) = query.ownership else { return };
        self.with_session(key, |this, session| this.continue_confirmed(key, session, query.block, at));
    }

    fn continue_confirmed(&mut self, key: Key, session: &mut Session, block: Option<u16>, at: Time) -> Disposition {
        let Stage::Running(running) = &mut session.stage else { return Disposition::Keep };
        running.ownership_check_pending = false;
        running.transfer.confirm_ownership(at);
        match block {
            Some(block) => self.acknowledged(key, session, block),
            None => self.send_blocks(key, session),
        }
    }

    /// Handles an answer that another server has continued the transfer. The session ends. The client's packet is answered from that server's checkpoint;
    /// for an own port, that server is queried.
    pub(super) fn ownership_lost(&mut self, query: &OwnershipQuery, who: usize, checkpoint: Checkpoint) {
        let Some((key, _)) = query.ownership else { return };
        let mut peers = [None; 2];
        self.with_session(key, |_, session| {
            if let Stage::Running(running) = &session.stage {
                peers = running.replication.map_or([None; 2], |replication| replication.peers);
            }
            Disposition::Close(Outcome::HandedOver)
        });
        // It uses another key. Our successors have our outdated checkpoints, unless they are also its successors.
        if let Some(takeover) = self.takeover.as_deref_mut().filter(|_| !peers.contains(&Some(who))) {
            let stale = peers.into_iter().filter(|peer| !query.queried[2..].contains(peer)).flatten();
            stale.for_each(|peer| takeover.ended[peer].push(checkpoint.id));
        }
        if let Some(takeover) = self.takeover.as_deref_mut()
            && !takeover.membership.is_own(checkpoint.id.tid)
            && let Some(checkpoints) = &mut takeover.checkpoints
        {
            checkpoints.put(checkpoint, Sequence::default(), self.now);
        }
        if let Some(block) = query.block {
            self.query_owner_at(Some(who), query.peer, query.route, block);
        }
    }

    /// Answers whether this transfer was served beyond a block, here or according to a stored checkpoint.
    pub(super) fn answer_ownership_query(&mut self, to: SocketAddr, nonce: u64, id: &Id, block: u64) {
        let mut checkpoint = None;
        if let Some(key) = self.foreign_session(id) {
            self.with_session(key, |this, session| {
                checkpoint = this.current_checkpoint(session);
                Disposition::Keep
            });
        }
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let stored = || takeover.checkpoints.as_ref()?.get(id).filter(|checkpoint| checkpoint.acked > block).cloned();
        let message = checkpoint
            .or_else(stored)
            .map_or(PeerMessage::AnswerUnknown(nonce), |checkpoint| PeerMessage::AnswerKnown(nonce, Box::new(checkpoint)));
        takeover.send_message(&mut self.net.outbox, to, &message);
    }
}
