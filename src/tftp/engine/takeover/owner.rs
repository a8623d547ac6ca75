//! What heirs are told of the transfers that are served here.

use super::super::Key;
use super::super::event_loop::EventLoop;
use super::super::outbox::Outbox;
use super::super::session::{Running, Session, Stage};
use super::super::sessions::After;
use super::{About, Noted, Takeover};
use crate::content::Version;
use crate::packet::Mode;
use crate::report::{Counter, Counters, Outcome};
use crate::takeover::note::LONGEST_REQUEST;
use crate::takeover::wire::{Place, Said};
use crate::takeover::{Id, Note};
use guideway_packet::time::Time;
use std::net::SocketAddr;
use std::time::Duration;

/// Blocks between two notes of a transfer. Whoever goes on may be this far behind, twice if a note was lost, and the number of the client's ACK still says
/// which block it is (`transfer::AHEAD`).
pub const BLOCKS: u64 = 16_384;
/// Blocks that a transfer may be further than an heir knows: two notes.
const LAG: u64 = 2 * BLOCKS;
/// When a note is followed by one that says that the client was heard.
const CONFIRMED: Duration = Duration::from_secs(1);
/// How long the first answer to a client that asks again from the same port waits for every heir: a note that was lost is said again meanwhile.
const RESTART: Duration = Duration::from_secs(2);
/// When a note is renewed at the latest.
const RENEWED: Duration = Duration::from_secs(30);

/// What names a session's transfer elsewhere; nothing for a client that only this host can reach.
pub fn id(session: &Session, tid: u16) -> Option<Id> {
    let client = session.peer.client;
    let scoped = matches!(client, SocketAddr::V6(client) if client.scope_id() != 0);
    (!scoped).then_some(Id { vip: session.peer.vip, client, tid })
}

pub fn note(id: Id, session_request: &[u8], running: &Running) -> Option<Note> {
    let transfer = &running.transfer;
    Some(Note {
        id,
        oack: !running.oack.is_empty(),
        heard: transfer.heard(),
        terms: *transfer.terms(),
        size: running.size?,
        version: running.content.version(),
        acked: transfer.acked(),
        serial: running.serial,
        request: session_request.into(),
    })
}

impl Takeover {
    /// The block behind which a transfer does not go before an heir knows more. For an heir that knew less could take the number of an ACK for that of a
    /// block long before, and send wrong bytes. One that does not answer at all any more is not waited for: it is dead, and has forgotten everything.
    fn limit(&self, running: &Running, now: Time) -> u64 {
        let Some(noted) = running.noted else { return u64::MAX };
        let there = noted.to.iter().zip(noted.has).filter(|(to, _)| to.is_some_and(|peer| !self.links[peer].is_mute(now)));
        there.filter_map(|(_, has)| has).min().map_or(u64::MAX, |has| has + LAG)
    }

    /// Sends a note to one peer.
    pub(super) fn tell(&mut self, outbox: &mut Outbox, counters: &Counters, now: Time, peer: usize, (key, note): (Key, &Note)) {
        let place = self.links[peer].say(About::Transfer(key, note.acked), now);
        let to = self.plan.members()[peer].notes;
        self.say(outbox, to, &Said::Note(place, Box::new(note.clone())));
        counters.add(Counter::NotesSent, 1);
    }
}

impl EventLoop {
    pub(in super::super) fn tid_of(&self, session: &Session) -> u16 {
        self.ports[usize::from(session.peer.port)].local.port()
    }

    /// A transfer could start now: the heirs are told, and the first answer waits for one of them.
    pub(in super::super) fn note_first(&mut self, key: Key, session: &mut Session, mut running: Box<Running>) -> After {
        let offered = self.offered(session, &running);
        let start = running.transfer.start();
        let waits = match offered {
            Err(None) => false,
            Err(Some(reason)) => {
                self.counters.add(reason, 1);
                self.not_offered(session);
                false
            }
            Ok(()) => {
                running.renote = BLOCKS;
                running.serial = self.takeover.as_mut().map_or(0, |takeover| takeover.tokens.fresh());
                running.transfer.share(self.now);
                running.noted = Some(Noted::new([None; 2], None, [None; 2], self.now));
                true
            }
        };
        if waits {
            session.stage = Stage::Noting(running);
            let worth_it = self.tell_heirs(key, session);
            if let Some(takeover) = self.takeover.as_deref_mut().filter(|_| worth_it) {
                // In order of time: whoever waits longer is one of few.
                let until = self.now.plus(if session.restart { takeover.wait.max(RESTART) } else { takeover.wait });
                let at = takeover.waits.partition_point(|(other, _)| *other <= until);
                takeover.waits.insert(at, (until, key));
                return After::Keep;
            }
            self.counters.add(Counter::NotesUnanswered, 1);
            return self.start_sending(key, session);
        }
        session.stage = Stage::Running(running);
        self.step(key, session, start)
    }

    /// Whether others could go on with it; if not, why, unless there is nobody.
    fn offered(&self, session: &Session, running: &Running) -> Result<(), Option<Counter>> {
        let Some(takeover) = &self.takeover else { return Err(None) };
        let tid = self.tid_of(session);
        if session.mode != Some(Mode::Octet) {
            return Err(Some(Counter::NotOfferedNetascii));
        }
        if running.size.is_none() {
            return Err(Some(Counter::NotOfferedSize));
        }
        // The tag of nothing, and the one of a content that does not know its own yet.
        let version = running.content.version();
        if version == Version([0; 16]) || version == Version::of(&[]) {
            return Err(Some(Counter::NotOfferedVersion));
        }
        match id(session, tid) {
            Some(_) if session.request.len() > LONGEST_REQUEST => Err(Some(Counter::NotOfferedRequest)),
            Some(id) if takeover.plan.confidants(id.vip, id.client, id.tid) != [None; 2] => Ok(()),
            Some(_) => Err(None),
            None => Err(Some(Counter::NotOfferedRequest)),
        }
    }

    /// An earlier transfer of the same client and ports may be known to the heirs, who must not take this one for it.
    fn not_offered(&mut self, session: &Session) {
        let tid = self.tid_of(session);
        if let (Some(takeover), Some(id)) = (self.takeover.as_deref_mut(), id(session, tid)) {
            let to = takeover.plan.confidants(id.vip, id.client, tid);
            to.into_iter().flatten().for_each(|peer| takeover.ended[peer].push(id));
        }
    }

    /// Tells the heirs how far a transfer is. `false` when it is not worth waiting for any of them.
    pub(in super::super) fn tell_heirs(&mut self, key: Key, session: &mut Session) -> bool {
        let tid = self.tid_of(session);
        let Some(id) = id(session, tid) else { return false };
        let (Stage::Running(running) | Stage::Noting(running)) = &mut session.stage else { return false };
        let (Some(takeover), Some(note)) = (self.takeover.as_deref_mut(), note(id, &session.request, running)) else { return false };
        let [first, second, third, fourth] = takeover.who_may_know(&id);
        let to = [first, second];
        let before = running.noted.filter(|noted| noted.to != [None; 2] || noted.former != [None; 4]);
        let noted = before.unwrap_or_else(|| Noted::new(to, None, [third, fourth], self.now)).followed_by(to, self.now);
        running.noted = Some(noted);
        // Those who were told before are told on until one of the others is known to know.
        let told_on = before.map_or([None; 4], |_| noted.former);
        running.renote = (note.acked / BLOCKS + 1) * BLOCKS;
        running.transfer.limit_to(takeover.limit(running, self.now));
        if running.transfer.is_near_its_limit(BLOCKS) {
            takeover.holds.push(key);
        }
        let mut worth_it = false;
        for peer in told_on.into_iter().flatten() {
            takeover.tell(&mut self.outbox, &self.counters, self.now, peer, (key, &note));
        }
        for peer in to.into_iter().flatten() {
            // An earlier one of this name may have ended in this turn, and is told of at its end.
            takeover.ended[peer].retain(|ended| *ended != id);
            // An heir that was told a moment ago of an earlier transfer from the same port, and has not answered yet, knows that one.
            let link = &takeover.links[peer];
            worth_it |= if session.restart { !link.is_gone(self.now) } else { !link.is_mute(self.now) };
            takeover.tell(&mut self.outbox, &self.counters, self.now, peer, (key, &note));
        }
        worth_it
    }

    /// An heir knows that a transfer is at this block: if the client still waits for its first answer, it gets it.
    pub(super) fn noted(&mut self, key: Key, peer: usize, block: u64) {
        self.with(key, |this, session| {
            let (Stage::Running(running) | Stage::Noting(running)) = &mut session.stage else { return After::Keep };
            if let Some(noted) = &mut running.noted {
                // A late answer of one that is no heir any more says nothing about those who are.
                if !noted.to.contains(&Some(peer)) {
                    return After::Keep;
                }
                let told = noted.to.iter().zip(&mut noted.has).filter(|(to, _)| **to == Some(peer));
                told.for_each(|(_, has)| *has = (*has).max(Some(block)));
                let former = std::mem::take(&mut noted.former);
                this.are_no_heirs(session, former);
            }
            this.go_further(key, session)
        });
    }

    /// These are to forget a transfer: what they know of it is of long ago when somebody asks them.
    fn are_no_heirs(&mut self, session: &Session, former: [Option<usize>; 4]) {
        let id = id(session, self.tid_of(session));
        if let (Some(takeover), Some(id)) = (self.takeover.as_deref_mut(), id) {
            former.into_iter().flatten().for_each(|peer| takeover.ended[peer].push(id));
        }
    }

    /// An heir has no room for it. It may go further than that one knows: who knows nothing mistakes nothing.
    pub(super) fn not_kept(&mut self, key: Key, peer: usize) {
        self.with(key, |this, session| {
            let (Stage::Running(running) | Stage::Noting(running)) = &mut session.stage else { return After::Keep };
            if let Some(noted) = &mut running.noted {
                let told = noted.to.iter_mut().zip(&mut noted.has).filter(|(to, _)| **to == Some(peer));
                told.for_each(|(to, has)| (*to, *has) = (None, None));
            }
            // The other one may still answer.
            let waits = matches!(session.stage, Stage::Noting(_)) && !session.restart;
            if waits { After::Keep } else { this.go_further(key, session) }
        });
    }

    /// A transfer may be waiting for heirs to hear how far it is.
    pub(super) fn hold_on(&mut self, key: Key) {
        self.with(key, |this, session| {
            let after = this.go_further(key, session);
            if let (Stage::Running(running), Some(takeover)) = (&session.stage, &mut this.takeover)
                && running.transfer.is_near_its_limit(BLOCKS)
            {
                takeover.holds.push(key);
            }
            after
        });
    }

    fn go_further(&mut self, key: Key, session: &mut Session) -> After {
        let Some(takeover) = self.takeover.as_deref() else { return After::Keep };
        match &mut session.stage {
            Stage::Running(running) => {
                let more = running.transfer.limit_to(takeover.limit(running, self.now));
                if more { self.pump(key, session) } else { After::Keep }
            }
            // What heirs know of an earlier transfer of this name they must not take for this one.
            Stage::Noting(running) if session.restart && running.noted.is_some_and(|noted| !noted.is_known(&takeover.links, self.now)) => {
                After::Keep
            }
            _ => self.start_sending(key, session),
        }
    }

    /// No heir has answered in time.
    pub(super) fn waited_in_vain(&mut self, key: Key) {
        self.with(key, |this, session| {
            if matches!(session.stage, Stage::Noting(_)) {
                this.counters.add(Counter::NotesUnanswered, 1);
            }
            this.start_sending(key, session)
        });
    }

    fn start_sending(&mut self, key: Key, session: &mut Session) -> After {
        match std::mem::replace(&mut session.stage, Stage::Opening) {
            Stage::Noting(mut running) => {
                running.transfer.share(self.now);
                let start = running.transfer.start();
                session.answered = Some(self.now);
                session.stage = Stage::Running(running);
                if let Some(takeover) = &mut self.takeover {
                    takeover.young.push_back((self.now.plus(CONFIRMED), key));
                }
                self.step(key, session, start)
            }
            other => {
                session.stage = other;
                After::Keep
            }
        }
    }

    /// A transfer is a second old. When its client was heard the heirs are told, who keep such notes for certain.
    pub(super) fn confirm(&mut self, key: Key) {
        let now = self.now;
        self.with(key, |this, session| {
            let heard = matches!(&session.stage, Stage::Running(running) if running.transfer.heard());
            if heard {
                this.tell_heirs(key, session);
            }
            if let Some(takeover) = &mut this.takeover {
                let (queue, delay) = if heard { (&mut takeover.old, RENEWED) } else { (&mut takeover.young, CONFIRMED) };
                queue.push_back((now.plus(delay), key));
            }
            After::Keep
        });
    }

    /// A transfer's note is old.
    pub(super) fn renew(&mut self, key: Key) {
        let now = self.now;
        self.with(key, |this, session| {
            let noted = if let Stage::Running(running) = &session.stage { running.noted } else { None };
            if noted.is_some_and(|noted| now - noted.at > RENEWED / 2) {
                this.tell_heirs(key, session);
            }
            if let Some(takeover) = &mut this.takeover {
                takeover.old.push_back((now.plus(RENEWED), key));
            }
            After::Keep
        });
    }

    /// A transfer was gone on with: its notes are renewed from now on.
    pub(super) fn renew_later(&mut self, key: Key) {
        if let Some(takeover) = &mut self.takeover {
            takeover.old.push_back((self.now.plus(RENEWED), key));
        }
    }

    /// A peer did not take what was said: its token has changed, or was not known.
    pub(super) fn say_again(&mut self, peer: usize, place: Place, token: u64) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let reborn = place.token != 0 && takeover.links[peer].token() == place.token;
        let Some(about) = takeover.links[peer].refused(place, token) else { return };
        self.answered(peer);
        if reborn {
            // It has begun a new life, and forgotten everything.
            return self.tell_all(Some(peer));
        }
        self.say_about(peer, about);
    }

    pub(super) fn tell_one(&mut self, key: Key, peer: usize) {
        self.with(key, |this, session| {
            let (Stage::Running(running) | Stage::Noting(running)) = &session.stage else { return After::Keep };
            // It may be no heir any more.
            let told = running.noted.is_some_and(|noted| noted.to.contains(&Some(peer)));
            let about = id(session, this.tid_of(session)).filter(|_| told).and_then(|id| note(id, &session.request, running));
            if let (Some(takeover), Some(note)) = (this.takeover.as_deref_mut(), about) {
                takeover.tell(&mut this.outbox, &this.counters, this.now, peer, (key, &note));
            }
            After::Keep
        });
    }

    /// Tells of all transfers: this peer what it is to know, or whoever is to know now and was not told before.
    pub(super) fn tell_all(&mut self, peer: Option<usize>) {
        let keys: Vec<Key> = self.peers.values().copied().collect();
        for key in keys {
            let told = self.session(key).and_then(|session| match &session.stage {
                Stage::Running(running) | Stage::Noting(running) => running.noted.map(|noted| noted.to),
                _ => None,
            });
            match (told, peer) {
                (Some(told), Some(peer)) if told.contains(&Some(peer)) => self.tell_one(key, peer),
                (Some(_), None) => self.with(key, |this, session| {
                    this.tell_heirs(key, session);
                    After::Keep
                }),
                _ => {}
            }
            if self.outbox.is_full() {
                self.flush();
            }
        }
    }

    /// A session has ended: those who were told need not remember it, unless one of them may have to go on with it.
    pub(in super::super) fn tell_end(&mut self, session: &Session, outcome: &Outcome) {
        let tid = self.tid_of(session);
        let (Some(takeover), Some(id)) = (self.takeover.as_deref_mut(), id(session, tid)) else { return };
        if goes_on(outcome) {
            takeover.lingering.insert(&self.hasher, &session.peer);
        }
        // Of our own ports nothing is remembered: whoever went on meanwhile is asked, and may be further.
        if session.taken_over && goes_on(outcome) && !takeover.plan.is_own(tid) {
            // Whoever goes on begins from here, not from what the owner said before.
            let note = session.resume.is_none().then(|| current_note(session, id)).flatten();
            if let (Some(note), Some(memory)) = (note, &mut takeover.memory) {
                memory.put(note, Place::default(), self.now);
            }
        }
        if goes_on(outcome) {
            return;
        }
        self.are_no_heirs(session, session.former());
        // A client that asks again begins another one of the same name, which is told of in its place.
        let Some(takeover) = self.takeover.as_deref_mut().filter(|_| *outcome != Outcome::Restarted) else { return };
        if let Some(memory) = &mut takeover.memory {
            memory.remove(&id);
        }
        if session.was_noted() {
            let to = takeover.plan.confidants(id.vip, id.client, tid);
            to.into_iter().flatten().for_each(|peer| takeover.ended[peer].push(id));
        }
    }
}

/// Whether a transfer that ended so here may go on elsewhere: its client was not heard, which may be our fault.
pub fn goes_on(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Unconfirmed | Outcome::Unheard | Outcome::Displaced | Outcome::TimedOut | Outcome::HandedOver | Outcome::Stopped
    )
}

fn current_note(session: &Session, id: Id) -> Option<Note> {
    if let Stage::Running(running) = &session.stage { note(id, &session.request, running) } else { None }
}

impl Session {
    fn former(&self) -> [Option<usize>; 4] {
        match &self.stage {
            Stage::Running(running) | Stage::Noting(running) => running.noted.map_or([None; 4], |noted| noted.former),
            _ => [None; 4],
        }
    }

    fn was_noted(&self) -> bool {
        match &self.stage {
            Stage::Running(running) | Stage::Noting(running) => running.noted.is_some(),
            _ => self.taken_over,
        }
    }
}
