//! An owner that has not heard a client for a while, and may have been cut off: has somebody else gone on with the transfer?
//!
//! Block numbers come again after 65,536 blocks. An owner that comes back when an heir is further ahead than that would take the client's ACK for one of
//! long ago, and send what belongs there under the number that the client waits for. So where that can be
//! ([`is_in_doubt`](crate::transfer::Transfer::is_in_doubt)) nothing is taken and no block is sent before the heirs were asked. If one has gone on,
//! the session ends here without a word, and what its client says next is asked about as that of any transfer that is not known.

use super::super::Key;
use super::super::event_loop::EventLoop;
use super::super::session::{Session, Stage};
use super::super::sessions::After;
use super::ASKED;
use super::ask::Question;
use super::owner::id;
use crate::report::{Counter, Outcome};
use crate::takeover::wire::{Place, Said};
use crate::takeover::{Id, Note};
use guideway_packet::time::Time;
use std::net::SocketAddr;

impl EventLoop {
    /// Whether the heirs are to be asked before this transfer goes on.
    pub(in super::super) fn is_in_doubt(&self, session: &Session) -> bool {
        match &session.stage {
            Stage::Running(running) => running.doubted || running.noted.is_some() && running.transfer.is_in_doubt(self.now),
            _ => false,
        }
    }

    /// Asks whether somebody has gone on with it. `block`: what its client acknowledges, if it was heard.
    pub(in super::super) fn doubt(&mut self, key: Key, session: &mut Session, block: Option<u16>) -> After {
        let (peer, route, tid) = (session.peer, session.route, self.tid_of(session));
        let (Some(id), Stage::Running(running)) = (id(session, tid), &mut session.stage) else { return After::Keep };
        running.doubted = true;
        let (acked, certain_at) = (running.transfer.acked(), running.transfer.certain_at());
        let Some(takeover) = self.takeover.as_deref_mut() else { return After::Keep };
        if let Some(question) = takeover.questions.about(&peer) {
            question.block = block.or(question.block);
            return After::Keep;
        }
        // One that was mute before the client was is dead, or else it would have had to be cut off from us while the client was not.
        let there = |peer: &usize| !takeover.links[*peer].is_mute(certain_at);
        let asked = takeover.who_may_know(&id).map(|peer| peer.filter(there));
        let question = Question {
            id,
            peer,
            route,
            block,
            asked,
            unknown: [false; ASKED],
            numbers: [None; ASKED],
            wide: true,
            times: 1,
            at: self.now,
            doubt: Some((key, acked)),
        };
        if asked == [None; ASKED] {
            return self.go_on_undoubted(key, session, block, self.now);
        }
        self.counters.add(Counter::Doubted, 1);
        let nonce = takeover.tokens.fresh();
        takeover.questions.put(nonce, question, self.now);
        self.put_question(nonce);
        After::Keep
    }

    /// Everybody who answers had not at this time.
    pub(super) fn nobody_went_on(&mut self, question: &Question, at: Time) {
        let Some((key, _)) = question.doubt else { return };
        self.with(key, |this, session| this.go_on_undoubted(key, session, question.block, at));
    }

    fn go_on_undoubted(&mut self, key: Key, session: &mut Session, block: Option<u16>, at: Time) -> After {
        let Stage::Running(running) = &mut session.stage else { return After::Keep };
        running.doubted = false;
        running.transfer.be_certain(at);
        match block {
            Some(block) => self.acknowledged(key, session, block),
            None => self.pump(key, session),
        }
    }

    /// Somebody has. Who speaks to us now is answered by what that one says; it is the one to be asked when the transfer is one of our own ports.
    pub(super) fn somebody_went_on(&mut self, question: &Question, who: usize, note: Note) {
        let Some((key, _)) = question.doubt else { return };
        let mut told = [None; 2];
        self.with(key, |_, session| {
            if let Stage::Running(running) = &session.stage {
                told = running.noted.map_or([None; 2], |noted| noted.to);
            }
            After::Close(Outcome::HandedOver)
        });
        // By another key than ours: our heirs know what we said, which is of long ago, unless they are that one's, too.
        if let Some(takeover) = self.takeover.as_deref_mut().filter(|_| !told.contains(&Some(who))) {
            let stale = told.into_iter().filter(|peer| !question.asked[2..].contains(peer)).flatten();
            stale.for_each(|peer| takeover.ended[peer].push(note.id));
        }
        if let Some(takeover) = self.takeover.as_deref_mut()
            && !takeover.plan.is_own(note.id.tid)
            && let Some(memory) = &mut takeover.memory
        {
            memory.put(note, Place::default(), self.now);
        }
        if let Some(block) = question.block {
            self.unknown_but_to(Some(who), question.peer, question.route, block);
        }
    }

    /// Says whether this transfer was served behind a block, here or by somebody who told.
    pub(super) fn answer_behind(&mut self, to: SocketAddr, nonce: u64, id: &Id, block: u64) {
        let mut note = None;
        if let Some(key) = self.session_of(id) {
            self.with(key, |this, session| {
                note = this.current_note(session);
                After::Keep
            });
        }
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let told = || takeover.memory.as_ref()?.get(id).filter(|note| note.acked > block).cloned();
        let said = note.or_else(told).map_or(Said::Unknown(nonce), |note| Said::Known(nonce, Box::new(note)));
        takeover.say(&mut self.outbox, to, &said);
    }
}
