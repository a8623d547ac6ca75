//! Queries about unknown transfers: a packet of an unknown transfer triggers a query to the servers that may know it.
//!
//! There is one query for a transfer at a time, to two servers of the pool (and two more while the fleet changes its key). The rate is limited, except for
//! ownership checks, so that forged packets cannot cause floods. Of the packet, only the acknowledged number is kept.

use super::super::event_loop::EventLoop;
use super::super::peer::{Peer, Route};
use super::queries::{MAX_QUERIED, OwnershipQuery, RETRY_INTERVAL};
use super::sent::SentMessage;
use crate::report::Counter;
use crate::takeover::wire::PeerMessage;
use crate::takeover::{Checkpoint, Id};
use std::net::SocketAddr;

/// Largest number of times a query is sent. Afterwards the client's next packet starts a new one.
const MAX_TRIES: u8 = 2;
/// Number of tries after which an owner assumes that no peer is alive to answer its ownership check.
const MAX_OWNERSHIP_TRIES: u8 = 15;

impl EventLoop {
    /// Handles an ACK of an unknown transfer.
    pub(in super::super) fn query_unknown(&mut self, peer: Peer, route: Route, block: u16) {
        self.query_owner_at(None, peer, route, block);
    }

    /// As `query_unknown`, for a transfer that peer `who` is known to serve; checkpoints of others are older.
    pub(super) fn query_owner_at(&mut self, who: Option<usize>, peer: Peer, route: Route, block: u16) {
        if self.takeover.is_none() {
            return self.unknown_tid(peer, route);
        }
        let now = self.now;
        let tid = self.net.sockets[usize::from(peer.socket)].local.port();
        let scoped = matches!(peer.client, SocketAddr::V6(client) if client.scope_id() != 0);
        let id = Id { vip: peer.vip, client: peer.client, tid };
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        if let Some(checkpoint) = takeover.checkpoints.as_ref().and_then(|checkpoints| checkpoints.get(&id)).cloned() {
            return self.resume(peer, route, checkpoint, block);
        }
        // Checked after the store: a stored checkpoint is newer than the transfer that has just ended.
        if self.sessions.has_just_ended(&peer) {
            return self.unknown_tid(peer, route);
        }
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let queried = who.map_or_else(|| takeover.checkpoint_holders(&id), |who| [Some(who), None, None, None]);
        if scoped || queried == [None; MAX_QUERIED] {
            return self.unknown_tid(peer, route);
        }
        if let Some(query) = takeover.queries.about(&peer) {
            query.block = Some(block);
            return;
        }
        if !takeover.queries.take_budget(now) {
            return self.counters.add(Counter::TransferQueriesLimited, 1);
        }
        self.counters.add(Counter::TransferQueries, 1);
        let nonce = takeover.tokens.generate();
        let query = OwnershipQuery {
            id,
            peer,
            route,
            block: Some(block),
            queried,
            unknown: [false; MAX_QUERIED],
            sequence_numbers: [None; MAX_QUERIED],
            second_pair: false,
            tries: 1,
            at: now,
            ownership: None,
        };
        takeover.queries.insert(nonce, query, now);
        self.send_query(nonce);
    }

    pub(super) fn send_query(&mut self, nonce: u64) {
        let Some(query) = self.takeover.as_deref().and_then(|takeover| takeover.queries.open.get(&nonce)) else { return };
        query.current_peers().into_iter().for_each(|peer| self.send_query_to(nonce, peer));
    }

    /// Sends a query to one peer, unless it has answered.
    pub(super) fn send_query_to(&mut self, nonce: u64, peer: usize) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let Some(query) = takeover.queries.open.get_mut(&nonce) else { return };
        if query.queried.iter().zip(query.unknown).all(|(queried, unknown)| unknown || *queried != Some(peer)) {
            return;
        }
        query.close(&mut takeover.links, Some(peer));
        let sequence = takeover.links[peer].record_sent(SentMessage::Query(nonce), self.now);
        let queried = query.queried.iter().zip(&mut query.sequence_numbers);
        queried.filter(|(queried, _)| **queried == Some(peer)).for_each(|(_, number)| *number = Some(sequence.number));
        let message = match query.ownership {
            Some((_, block)) => PeerMessage::OwnershipQuery(sequence, nonce, query.id, block),
            None => PeerMessage::TransferQuery(sequence, nonce, query.id),
        };
        takeover.send_message(&mut self.net.outbox, takeover.membership.members()[peer].checkpoint_address, &message);
    }

    /// Retransmits queries to peers without an answer, and finally closes them.
    pub(super) fn retry_queries(&mut self) {
        loop {
            let Some(takeover) = self.takeover.as_deref_mut() else { return };
            let (queries, links) = (&mut takeover.queries, &mut takeover.links);
            let Some(&(at, nonce)) = queries.due.front() else { return };
            if at > self.now {
                return;
            }
            queries.due.pop_front();
            let Some(query) = queries.open.get_mut(&nonce) else { continue };
            if query.ownership.is_some() {
                let enough = query.has_quorum(|peer| links[peer].is_unresponsive(self.now));
                // No peer answers, but the client does: the others are dead.
                let alone = query.tries >= MAX_OWNERSHIP_TRIES && query.block.is_some();
                if enough || alone || query.all_answered() || query.tries >= MAX_OWNERSHIP_TRIES {
                    let Some(query) = queries.remove(nonce, links) else { continue };
                    if enough || alone || query.all_answered() {
                        self.ownership_confirmed(&query, self.now);
                    }
                    continue;
                }
                // Earlier answers may be outdated by then: all peers are asked again.
                query.unknown = [false; MAX_QUERIED];
            }
            if query.tries < MAX_TRIES || query.ownership.is_some() {
                (query.tries, query.at) = (query.tries + 1, self.now);
                queries.due.push_back((self.now.plus(RETRY_INTERVAL), nonce));
                self.send_query(nonce);
            } else if query.include_second_pair(self.now) {
                queries.due.push_back((self.now.plus(RETRY_INTERVAL), nonce));
                self.send_query(nonce);
            } else {
                queries.remove(nonce, links);
                self.counters.add(Counter::TransferQueriesUnanswered, 1);
            }
        }
    }

    /// Handles the checkpoint of a peer that knows the transfer.
    pub(super) fn on_answer_known(&mut self, nonce: u64, who: usize, checkpoint: Checkpoint) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        if takeover.queries.open.get(&nonce).is_none_or(|query| query.id != checkpoint.id) {
            return;
        }
        let Some(query) = takeover.queries.remove(nonce, &mut takeover.links) else { return };
        if query.ownership.is_some() {
            return self.ownership_lost(&query, who, checkpoint);
        }
        let Some(block) = query.block else { return };
        // Its client may have started another transfer meanwhile.
        if self.sessions.key_of(&query.peer).is_none() {
            self.resume(query.peer, query.route, checkpoint, block);
        }
    }

    /// Handles the answer of a peer that does not know the transfer. The client gets an ERROR only when no peer knows it.
    pub(super) fn on_answer_unknown(&mut self, nonce: u64, who: usize) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let Some(query) = takeover.queries.open.get_mut(&nonce) else { return };
        let answered = query.queried.iter().zip(&mut query.unknown);
        answered.filter(|(queried, _)| **queried == Some(who)).for_each(|(_, unknown)| *unknown = true);
        query.close(&mut takeover.links, Some(who));
        if !query.all_answered() {
            return;
        }
        if query.include_second_pair(self.now) {
            return self.send_query(nonce);
        }
        if let Some(query) = takeover.queries.remove(nonce, &mut takeover.links) {
            if query.ownership.is_some() {
                return self.ownership_confirmed(&query, query.at);
            }
            self.counters.add(Counter::TransferQueriesUnknown, 1);
            self.unknown_tid(query.peer, query.route);
        }
    }
}
