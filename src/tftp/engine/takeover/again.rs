//! What is said to other servers from time to time, and what is said once more.

use super::super::event_loop::EventLoop;
use super::super::session::{Peer, Stage};
use super::{About, MISSED};
use crate::takeover::Id;
use crate::takeover::wire::Said;
use std::sync::Arc;

impl EventLoop {
    /// Says again what was lost on the way, to those who are there.
    pub(super) fn say_what_was_missed(&mut self) {
        let now = self.now;
        let Some(takeover) = self.takeover.as_deref_mut().filter(|t| t.missed.is_none_or(|at| now - at >= MISSED)) else { return };
        takeover.missed = Some(now);
        for peer in 0..takeover.links.len() {
            let Some(takeover) = self.takeover.as_deref_mut() else { return };
            let link = &mut takeover.links[peer];
            let lost = if link.is_mute(now) { Vec::new() } else { link.overdue(now) };
            // Hellos come again by themselves.
            lost.into_iter().filter(|about| !matches!(about, About::Hello)).for_each(|about| self.say_about(peer, about));
        }
    }

    /// Says hello to all, and lets the memory forget.
    pub(super) fn greet(&mut self) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        takeover.greeted = Some(self.now);
        takeover.count_peers(self.now);
        if let Some(memory) = &mut takeover.memory {
            memory.expire(self.now);
        }
        let plan = Arc::clone(&takeover.plan);
        for (peer, member) in plan.members().iter().enumerate().filter(|(_, member)| **member != *plan.me()) {
            let place = takeover.links[peer].say(About::Hello, self.now);
            takeover.say(&mut self.outbox, member.notes, &Said::Hello(place));
        }
        for key in std::mem::take(&mut takeover.holds) {
            self.hold_on(key);
        }
    }

    /// Says something again.
    pub(super) fn say_about(&mut self, peer: usize, about: About) {
        let now = self.now;
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        match about {
            About::Hello => {
                let place = takeover.links[peer].say(About::Hello, now);
                takeover.say(&mut self.outbox, takeover.plan.members()[peer].notes, &Said::Hello(place));
            }
            About::Transfer(key, _) => self.tell_one(key, peer),
            About::Question(nonce) => self.ask(nonce, peer),
            About::Ended(ids) => {
                // The same client may have begun the next one from the same port, of which this peer is told or about to be.
                let ids: Vec<Id> = ids.iter().filter(|id| !self.is_of(id, peer)).copied().collect();
                if let Some(takeover) = self.takeover.as_deref_mut().filter(|_| !ids.is_empty()) {
                    takeover.say_ended(&mut self.outbox, peer, &ids, now);
                }
            }
        }
    }

    /// Whether there is a transfer of this name that this peer knows of, or may have to.
    fn is_of(&mut self, id: &Id, peer: usize) -> bool {
        let ports = self.ports.iter().enumerate().filter(|(_, port)| port.local.port() == id.tid);
        let mut keys = ports.filter_map(|(at, _)| self.peers.get(&Peer { client: id.client, vip: id.vip, port: at as u16 }));
        let Some(session) = keys.next().copied().and_then(|key| self.session(key)) else {
            // Whoever serves it now told us, and may have told this peer.
            let memory = self.takeover.as_ref().and_then(|takeover| takeover.memory.as_ref());
            return memory.is_some_and(|memory| memory.get(id).is_some());
        };
        match &session.stage {
            Stage::Running(running) | Stage::Noting(running) => running.noted.is_some_and(|noted| noted.to.contains(&Some(peer))),
            _ => true,
        }
    }
}
