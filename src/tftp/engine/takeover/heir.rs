//! What is kept for others, and told to those who ask.

use super::super::Key;
use super::super::event_loop::EventLoop;
use super::super::session::{Peer, Stage};
use super::super::sessions::After;
use crate::report::{Counter, Outcome};
use crate::takeover::fresh::Taken;
use crate::takeover::wire::{Place, Said};
use crate::takeover::{Id, Note};
use std::net::SocketAddr;

impl EventLoop {
    /// Whether something that was said at a place came for the first time. Its sender is told when it does not know our token.
    pub(super) fn is_fresh(&mut self, from: SocketAddr, name: &[u8], stream: u8, place: Place) -> bool {
        let Some(takeover) = self.takeover.as_deref_mut() else { return false };
        let fresh = takeover.heard.entry((name.into(), stream)).or_default();
        match fresh.take(place, &mut takeover.tokens) {
            Taken::New => return true,
            Taken::Replayed => self.counters.add(Counter::NotesReplayed, 1),
            Taken::Token(token) => takeover.say(&mut self.outbox, from, &Said::Refused(place, token)),
        }
        false
    }

    /// Keeps a note, and says so.
    pub(super) fn keep(&mut self, from: SocketAddr, peer: usize, place: Place, note: Note) {
        // Its owner lives and is further, or has begun another one: whoever went on with it meanwhile need not.
        if self.takeover.as_ref().is_some_and(|takeover| takeover.plan.owner(note.id.tid) == Some(peer))
            && let Some(key) = self.session_of(&note.id)
        {
            self.with(key, |this, session| match (this.current_note(session), &session.stage) {
                (Some(known), _) if known.serial != note.serial => After::Close(Outcome::HandedOver),
                (_, Stage::Running(running)) if running.transfer.acked() <= note.acked => After::Close(Outcome::HandedOver),
                _ => After::Keep,
            });
        }
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let Some(memory) = &mut takeover.memory else { return };
        let put = memory.put(note, place, self.now);
        self.counters.add(if put.kept { Counter::NotesKept } else { Counter::NotesNotKept }, 1);
        self.counters.add(Counter::NotesEvicted, put.evicted);
        if put.kept {
            takeover.ack(from, place.token, place.number);
        } else {
            // Its owner need not wait for an heir that knows nothing.
            takeover.say(&mut self.outbox, from, &Said::NotKept(place));
        }
    }

    /// A transfer has ended elsewhere.
    pub(super) fn forget(&mut self, id: &Id) {
        if let Some(memory) = self.takeover.as_mut().and_then(|takeover| takeover.memory.as_mut()) {
            memory.remove(id);
        }
    }

    /// A client has ended a transfer that is not served here.
    pub(in super::super) fn unknown_error(&mut self, peer: &Peer) {
        let tid = self.ports[usize::from(peer.port)].local.port();
        self.forget(&Id { vip: peer.vip, client: peer.client, tid });
    }

    /// Tells what is known of a transfer. If it is one that was gone on with here, whoever asks has its packets now and goes on with it.
    pub(super) fn answer(&mut self, to: SocketAddr, nonce: u64, id: &Id) {
        let mut note = None;
        if let Some(key) = self.session_of(id) {
            self.with(key, |this, session| {
                note = this.current_note(session);
                if note.is_some() { After::Close(Outcome::HandedOver) } else { After::Keep }
            });
        }
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        if let (Some(note), Some(memory)) = (&note, &mut takeover.memory) {
            // It may come back.
            memory.put(note.clone(), Place::default(), self.now);
        }
        let known = note.or_else(|| takeover.memory.as_ref()?.get(id).cloned());
        let said = known.map_or(Said::Unknown(nonce), |note| Said::Known(nonce, Box::new(note)));
        takeover.say(&mut self.outbox, to, &said);
    }

    /// The session of another server's transfer that was gone on with here.
    pub(super) fn session_of(&self, id: &Id) -> Option<Key> {
        let sockets = self.takeover.as_ref()?.foreign.get(&id.tid)?;
        sockets.iter().find_map(|&port| self.peers.get(&Peer { client: id.client, vip: id.vip, port }).copied())
    }
}
