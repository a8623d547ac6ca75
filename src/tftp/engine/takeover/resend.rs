//! Hellos at intervals, and retransmissions to other servers.

use super::super::event_loop::EventLoop;
use super::super::peer::Peer;
use super::super::session::Stage;
use super::sent::SentMessage;
use super::state::RESEND_INTERVAL;
use crate::takeover::Id;
use crate::takeover::wire::PeerMessage;
use std::sync::Arc;

impl EventLoop {
    /// Retransmits lost messages to responsive peers.
    pub(super) fn resend_overdue(&mut self) {
        let now = self.now;
        let Some(takeover) = self.takeover.as_deref_mut().filter(|t| t.last_resend.is_none_or(|at| now - at >= RESEND_INTERVAL)) else {
            return;
        };
        takeover.last_resend = Some(now);
        for peer in 0..takeover.links.len() {
            let Some(takeover) = self.takeover.as_deref_mut() else { return };
            let link = &mut takeover.links[peer];
            let lost = if link.is_unresponsive(now) { Vec::new() } else { link.overdue(now) };
            // Hellos are sent at intervals anyway.
            lost.into_iter().filter(|about| !matches!(about, SentMessage::Hello)).for_each(|about| self.resend(peer, about));
        }
    }

    /// Sends hellos to all peers, and expires stored checkpoints.
    pub(super) fn send_hellos(&mut self) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        takeover.last_hello = Some(self.now);
        takeover.count_peers(self.now);
        if let Some(checkpoints) = &mut takeover.checkpoints {
            checkpoints.expire(self.now);
        }
        let membership = Arc::clone(&takeover.membership);
        for (peer, member) in membership.members().iter().enumerate().filter(|(_, member)| **member != *membership.me()) {
            let sequence = takeover.links[peer].record_sent(SentMessage::Hello, self.now);
            takeover.send_message(&mut self.net.outbox, member.checkpoint_address, &PeerMessage::Hello(sequence));
        }
        for key in std::mem::take(&mut takeover.held) {
            self.recheck_limit(key);
        }
    }

    /// Sends a message again.
    pub(super) fn resend(&mut self, peer: usize, about: SentMessage) {
        let now = self.now;
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        match about {
            SentMessage::Hello => {
                let sequence = takeover.links[peer].record_sent(SentMessage::Hello, now);
                takeover.send_message(
                    &mut self.net.outbox,
                    takeover.membership.members()[peer].checkpoint_address,
                    &PeerMessage::Hello(sequence),
                );
            }
            SentMessage::Checkpoint(key, _) => self.send_checkpoint_to(key, peer),
            SentMessage::Query(nonce) => self.send_query_to(nonce, peer),
            SentMessage::Ended(ids) => {
                // The client may have started another transfer with the same id, whose checkpoint this peer has or will get.
                let ids: Vec<Id> = ids.iter().filter(|id| !self.concerns_peer(id, peer)).copied().collect();
                if let Some(takeover) = self.takeover.as_deref_mut().filter(|_| !ids.is_empty()) {
                    takeover.send_ended(&mut self.net.outbox, peer, &ids, now);
                }
            }
        }
    }

    /// Returns whether there is a transfer with this id whose checkpoint this peer has or will get.
    fn concerns_peer(&mut self, id: &Id, peer: usize) -> bool {
        let sockets = self.net.sockets.iter().enumerate().filter(|(_, socket)| socket.local.port() == id.tid);
        let mut keys = sockets.filter_map(|(at, _)| self.sessions.key_of(&Peer { client: id.client, vip: id.vip, socket: at as u16 }));
        let Some(session) = keys.next().and_then(|key| self.sessions.get(key)) else {
            // The server that continues it sent us a checkpoint, and may have sent one to this peer.
            let checkpoints = self.takeover.as_ref().and_then(|takeover| takeover.checkpoints.as_ref());
            return checkpoints.is_some_and(|checkpoints| checkpoints.get(id).is_some());
        };
        match &session.stage {
            Stage::Running(running) | Stage::Checkpointing(running) => {
                running.replication.is_some_and(|replication| replication.peers.contains(&Some(peer)))
            }
            _ => true,
        }
    }
}
