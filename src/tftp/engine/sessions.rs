//! The table of an event loop's transfers: what goes in, is worked on, and ends with a report.

use super::Key;
use super::event_loop::EventLoop;
use super::session::Session;
use super::takeover;
use super::wheel::Wheel;
use crate::report::{Counter, Outcome};
use std::hash::BuildHasher;

/// What becomes of a session that was worked on.
pub enum After {
    Keep,
    Close(Outcome),
}

impl EventLoop {
    /// Keeps a new session; its key.
    pub(super) fn insert(&mut self, session: Session) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.sessions.push((0, None));
            self.sessions.len() as u32 - 1
        });
        let place = &mut self.sessions[index as usize];
        let key = Key { index, generation: place.0 };
        if self.takeover.is_some() {
            // What ended before was another one, and this one may come back from elsewhere.
            let hash = self.hasher.hash_one(session.peer);
            let ended = &mut self.ended[hash as usize % 256];
            *ended = if *ended == hash { 0 } else { *ended };
        }
        self.peers.insert(session.peer, key);
        *self.per_client.entry(session.peer.client.ip()).or_default() += 1;
        place.1 = Some(Box::new(session));
        self.unheard.push(index);
        self.counters.add(Counter::Started, 1);
        key
    }

    /// How many sessions there are.
    pub(super) fn open(&self) -> usize {
        self.peers.len()
    }

    /// The session of this key.
    pub(super) fn session(&mut self, key: Key) -> Option<&mut Session> {
        let place = self.sessions.get_mut(key.index as usize)?;
        if place.0 == key.generation { place.1.as_deref_mut() } else { None }
    }

    /// Works on a session, sets its timer, or closes it.
    pub(super) fn with(&mut self, key: Key, work: impl FnOnce(&mut Self, &mut Session) -> After) {
        let Some(place) = self.sessions.get_mut(key.index as usize).filter(|place| place.0 == key.generation) else { return };
        let Some(mut session) = place.1.take() else { return };
        match work(self, &mut session) {
            After::Keep => {
                let deadline = session.deadline(self.config.open_timeout);
                if session.scheduled.is_none_or(|tick| Wheel::<Key>::too_late(tick, deadline)) {
                    session.scheduled = Some(self.wheel.set(deadline, key));
                }
                self.sessions[key.index as usize].1 = Some(session);
            }
            After::Close(outcome) => self.close(key, *session, outcome),
        }
    }

    fn close(&mut self, key: Key, mut session: Session, outcome: Outcome) {
        self.read_ahead.release(&mut session.cursor, key);
        self.unheard.remove(key.index);
        self.peers.remove(&session.peer);
        if let Some(direct) = &mut self.direct {
            direct.over |= direct.peer == session.peer;
        }
        let client = session.peer.client.ip();
        if let Some(count) = self.per_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.per_client.remove(&client);
            }
        }
        // Where another server may go on, what still comes is asked about.
        if self.takeover.is_none() || !takeover::goes_on(&outcome) {
            let hash = self.hasher.hash_one(session.peer);
            self.ended[hash as usize % 256] = hash;
        }
        if self.takeover.is_some() {
            self.tell_end(&session, &outcome);
        }
        self.sessions[key.index as usize].0 = key.generation.wrapping_add(1);
        self.free.push(key.index);
        let (tid, counter) = (self.ports[usize::from(session.peer.port)].local.port(), outcome.counter());
        self.observer.transfer(&session.report(tid, outcome, self.now));
        // Behind the report: who sees the end counted finds it reported.
        self.counters.add(counter, 1);
    }

    /// Ends what is under way.
    pub(super) fn finish(&mut self) {
        let open: Vec<Key> = self.peers.values().copied().collect();
        for key in open {
            self.with(key, |_, _| After::Close(Outcome::Stopped));
        }
        self.flush();
        self.settle();
    }
}
