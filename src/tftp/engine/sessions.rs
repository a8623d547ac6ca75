//! The table of an event loop's sessions: insertion, access, and closing with a report.

use super::event_loop::EventLoop;
use super::key::Key;
use super::reports::Report;
use super::session::{Disposition, Session};
use super::takeover;
use super::timer_wheel::TimerWheel;
use crate::report::{Counter, Outcome};
use std::hash::BuildHasher;

impl EventLoop {
    /// Inserts a session and returns its key.
    pub(super) fn insert(&mut self, session: Session) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.sessions.push((0, None));
            self.sessions.len() as u32 - 1
        });
        let place = &mut self.sessions[index as usize];
        let key = Key { index, generation: place.0 };
        if self.takeover.is_some() {
            // An earlier transfer of this peer no longer counts as just ended.
            let hash = self.hasher.hash_one(session.peer);
            let recently_ended = &mut self.recently_ended[hash as usize % 256];
            *recently_ended = if *recently_ended == hash { 0 } else { *recently_ended };
        }
        self.peers.insert(session.peer, key);
        *self.per_client.entry(session.peer.client.ip()).or_default() += 1;
        place.1 = Some(Box::new(session));
        self.half_open.push(index);
        self.counters.add(Counter::Started, 1);
        key
    }

    /// Returns the number of sessions.
    pub(super) fn session_count(&self) -> usize {
        self.peers.len()
    }

    /// Returns the session with this key.
    pub(super) fn session(&mut self, key: Key) -> Option<&mut Session> {
        let place = self.sessions.get_mut(key.index as usize)?;
        if place.0 == key.generation { place.1.as_deref_mut() } else { None }
    }

    /// Calls `work` with a session, then sets its timer or closes it.
    pub(super) fn with_session(&mut self, key: Key, work: impl FnOnce(&mut Self, &mut Session) -> Disposition) {
        let Some(place) = self.sessions.get_mut(key.index as usize).filter(|place| place.0 == key.generation) else { return };
        let Some(mut session) = place.1.take() else { return };
        match work(self, &mut session) {
            Disposition::Keep => {
                let deadline = session.deadline(self.config.open_timeout);
                if session.scheduled.is_none_or(|tick| TimerWheel::<Key>::too_late(tick, deadline)) {
                    session.scheduled = Some(self.timer_wheel.schedule(deadline, key));
                }
                self.sessions[key.index as usize].1 = Some(session);
            }
            Disposition::Close(outcome) => self.close(key, *session, outcome),
        }
    }

    fn close(&mut self, key: Key, mut session: Session, outcome: Outcome) {
        self.read_ahead.release(&mut session.cursor, key);
        self.half_open.remove(key.index);
        self.peers.remove(&session.peer);
        if let Some(connected_socket) = &mut self.connected_socket {
            connected_socket.closing |= connected_socket.peer == session.peer;
        }
        let client = session.peer.client.ip();
        if let Some(count) = self.per_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.per_client.remove(&client);
            }
        }
        // If another server may continue it, later packets trigger a query.
        if self.takeover.is_none() || !takeover::may_resume_elsewhere(&outcome) {
            let hash = self.hasher.hash_one(session.peer);
            self.recently_ended[hash as usize % 256] = hash;
        }
        if self.takeover.is_some() {
            self.send_ended_if_final(&session, &outcome);
        }
        self.sessions[key.index as usize].0 = key.generation.wrapping_add(1);
        self.free.push(key.index);
        let (tid, counter) = (self.sockets[usize::from(session.peer.socket)].local.port(), outcome.counter());
        self.reports.push(|| Report::Finished(Box::new(session.report(tid, outcome, self.now))));
        self.counters.add(counter, 1);
    }

    /// Closes all sessions.
    pub(super) fn close_all(&mut self) {
        let open: Vec<Key> = self.peers.values().copied().collect();
        for key in open {
            self.with_session(key, |_, _| Disposition::Close(Outcome::Stopped));
        }
        self.flush();
        self.apply_flush_results();
    }
}
