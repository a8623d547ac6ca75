//! Work on sessions: access, closing with a report.

use super::event_loop::EventLoop;
use super::key::Key;
use super::reports::Report;
use super::session::{Disposition, Session};
use super::takeover;
use crate::report::{Counter, Outcome};

impl EventLoop {
    /// Inserts a session and returns its key.
    pub(super) fn insert(&mut self, session: Session) -> Key {
        if self.takeover.is_some() {
            // An earlier transfer of this peer no longer counts as just ended.
            self.sessions.clear_just_ended(&session.peer);
        }
        self.counters.add(Counter::Started, 1);
        self.sessions.insert(session)
    }

    /// Calls `work` with a session, then sets its timer or closes it.
    pub(super) fn with_session(&mut self, key: Key, work: impl FnOnce(&mut Self, &mut Session) -> Disposition) {
        let Some(mut session) = self.sessions.take(key) else { return };
        match work(self, &mut session) {
            Disposition::Keep => {
                let deadline = session.deadline(self.config.open_timeout);
                self.sessions.put_back(key, session, deadline);
            }
            Disposition::Close(outcome) => self.close(key, *session, outcome),
        }
    }

    fn close(&mut self, key: Key, mut session: Session, outcome: Outcome) {
        self.net.read_ahead.release(&mut session.cursor, key);
        self.sessions.remove(key, &session.peer);
        if let Some(connected_socket) = &mut self.net.connected_socket {
            connected_socket.closing |= connected_socket.peer == session.peer;
        }
        // If another server may continue it, later packets trigger a query.
        if self.takeover.is_none() || !takeover::may_resume_elsewhere(&outcome) {
            self.sessions.set_just_ended(&session.peer);
        }
        if self.takeover.is_some() {
            self.send_ended_if_final(&session, &outcome);
        }
        let (tid, counter) = (self.tid_of(&session), outcome.counter());
        self.reports.push(|| Report::Finished(Box::new(session.report(tid, outcome, self.now))));
        self.counters.add(counter, 1);
    }

    /// Closes all sessions.
    pub(super) fn close_all(&mut self) {
        for key in self.sessions.keys() {
            self.with_session(key, |_, _| Disposition::Close(Outcome::Stopped));
        }
        self.flush();
        self.apply_flush_results();
    }
}
