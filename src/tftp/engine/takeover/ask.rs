//! A packet of a transfer that is not known here: those are asked who may know it.
//!
//! One question for a transfer at a time, to two servers of the pool (and two more while the fleet changes its key), and at a bounded rate but for those about transfers that are served here
//! (`doubt`): whoever forges packets gets nothing out of it, and nobody else either. The packet itself is not kept, only the number that it acknowledges.

use super::super::Key;
use super::super::event_loop::EventLoop;
use super::super::outbox::Route;
use super::super::session::Peer;
use super::{ASKED, About};
use crate::report::Counter;
use crate::takeover::link::Link;
use crate::takeover::wire::Said;
use crate::takeover::{Id, Note};
use guideway_packet::time::Time;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// Most questions that wait for an answer.
const MOST: usize = 8192;
/// Questions in a second. A server with ten thousand transfers that was restarted has them all back in one.
const RATE: u64 = 10_000;
/// After how long a question is asked again, and after how many times it is not any more; then the client's next packet asks it.
const PATIENCE: Duration = Duration::from_millis(100);
const TIMES: u8 = 2;
/// After how many times an owner in doubt believes that nobody is there to answer.
const DOUBTS: u8 = 15;

pub(super) struct Question {
    pub id: Id,
    pub peer: Peer,
    pub route: Route,
    /// What the client acknowledged last, unless it has said nothing.
    pub block: Option<u16>,
    /// Whom it is for, pair by pair: the heirs by the key in use, and by another. Who of them has said that it does not know.
    pub asked: [Option<usize>; ASKED],
    pub unknown: [bool; ASKED],
    /// The numbers under which they were asked last.
    pub numbers: [Option<u64>; ASKED],
    /// Whether the second pair is asked, too: at once where somebody may have gone on, else when the first does not know.
    pub wide: bool,
    pub times: u8,
    /// When that was, the last time.
    pub at: Time,
    /// A transfer that is served here, and up to which block, when the question is whether somebody has gone on with it (`doubt`).
    pub doubt: Option<(Key, u64)>,
}

impl Question {
    /// Whether all who were asked have said that they do not know.
    fn is_settled(&self) -> bool {
        let asked = self.asked.iter().zip(self.unknown).take(if self.wide { ASKED } else { 2 });
        asked.clone().all(|(asked, unknown)| asked.is_none() || unknown)
    }

    /// Whether it is certain enough that nobody has gone on: one of each pair says so, and whoever does not answer is mute. Whoever goes on tells the
    /// other of its pair.
    fn is_enough(&self, mute: impl Fn(usize) -> bool) -> bool {
        let pairs = self.asked.chunks(2).zip(self.unknown.chunks(2));
        let mut asked = pairs.filter(|(asked, _)| asked.iter().any(Option::is_some)).peekable();
        asked.peek().is_some()
            && asked.all(|(asked, unknown)| {
                unknown.contains(&true) && asked.iter().zip(unknown).all(|(asked, unknown)| *unknown || asked.is_none_or(&mute))
            })
    }

    /// The second pair's turn, if it is there and was not asked yet.
    fn widen(&mut self, now: Time) -> bool {
        let more = !self.wide && self.asked.iter().zip(self.unknown).skip(2).any(|(asked, unknown)| asked.is_some() && !unknown);
        if more {
            (self.wide, self.times, self.at) = (true, 1, now);
        }
        more
    }

    /// Who is to be asked now, each once.
    fn now_asked(&self) -> Vec<usize> {
        let mut peers: Vec<usize> = self.asked.into_iter().take(if self.wide { ASKED } else { 2 }).flatten().collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// No answer to what this peer was asked, or to what all were, is waited for any more.
    fn close(&mut self, links: &mut [Link<About>], peer: Option<usize>) {
        for (asked, number) in self.asked.iter().zip(&mut self.numbers).filter(|(asked, _)| peer.is_none() || **asked == peer) {
            if let (Some(asked), Some(number)) = (asked, number.take()) {
                let _about = links[*asked].acked(number);
            }
        }
    }
}

/// The questions that wait for an answer.
#[derive(Default)]
pub struct Questions {
    open: HashMap<u64, Question>,
    by_peer: HashMap<Peer, u64>,
    due: VecDeque<(Time, u64)>,
    /// Questions that may be asked now, and when that was computed.
    budget: u64,
    counted: Option<Time>,
}

impl Questions {
    /// When the next one is to be looked at.
    pub fn due(&self) -> Option<Time> {
        self.due.front().map(|(at, _)| *at)
    }

    /// Whether one more may be asked.
    fn may_ask(&mut self, now: Time) -> bool {
        match self.counted {
            None => (self.budget, self.counted) = (RATE, Some(now)),
            Some(at) => {
                let earned = (now - at).as_micros() as u64 * RATE / 1_000_000;
                if earned > 0 {
                    (self.budget, self.counted) = ((self.budget + earned).min(RATE), Some(now));
                }
            }
        }
        let may = self.budget > 0 && self.open.len() < MOST;
        self.budget -= u64::from(may);
        may
    }

    /// Puts a question that is to be looked at again soon.
    pub(super) fn put(&mut self, nonce: u64, question: Question, now: Time) {
        self.by_peer.insert(question.peer, nonce);
        self.open.insert(nonce, question);
        self.due.push_back((now.plus(PATIENCE), nonce));
    }

    /// The one about this peer.
    pub(super) fn about(&mut self, peer: &Peer) -> Option<&mut Question> {
        self.by_peer.get(peer).and_then(|nonce| self.open.get_mut(nonce))
    }

    /// Servers have other places now. Of one that is gone no answer is waited for.
    pub(super) fn moved(&mut self, to: &[Option<usize>]) {
        for question in self.open.values_mut() {
            for (asked, number) in question.asked.iter_mut().zip(&mut question.numbers) {
                *asked = asked.and_then(|place| to.get(place).copied().flatten());
                *number = number.filter(|_| asked.is_some());
            }
        }
    }

    fn remove(&mut self, nonce: u64, links: &mut [Link<About>]) -> Option<Question> {
        let mut question = self.open.remove(&nonce)?;
        question.close(links, None);
        self.by_peer.remove(&question.peer);
        Some(question)
    }
}

impl EventLoop {
    /// An ACK of a transfer that is not known here.
    pub(in super::super) fn unknown(&mut self, peer: Peer, route: Route, block: u16) {
        self.unknown_but_to(None, peer, route, block);
    }

    /// The same where one is known to know it: what others know is older.
    pub(super) fn unknown_but_to(&mut self, who: Option<usize>, peer: Peer, route: Route, block: u16) {
        if self.takeover.is_none() {
            return self.stranger(peer, route);
        }
        let now = self.now;
        let tid = self.ports[usize::from(peer.port)].local.port();
        let scoped = matches!(peer.client, SocketAddr::V6(client) if client.scope_id() != 0);
        let id = Id { vip: peer.vip, client: peer.client, tid };
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        if let Some(note) = takeover.memory.as_ref().and_then(|memory| memory.get(&id)).cloned() {
            return self.resume(peer, route, note, block);
        }
        // Asked behind the memory: what is noted there began after what has just ended.
        if self.has_just_ended(&peer) {
            return self.stranger(peer, route);
        }
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let asked = who.map_or_else(|| takeover.who_may_know(&id), |who| [Some(who), None, None, None]);
        if scoped || asked == [None; ASKED] {
            return self.stranger(peer, route);
        }
        if let Some(question) = takeover.questions.about(&peer) {
            question.block = Some(block);
            return;
        }
        if !takeover.questions.may_ask(now) {
            return self.counters.add(Counter::AskedLimited, 1);
        }
        self.counters.add(Counter::Asked, 1);
        let nonce = takeover.tokens.fresh();
        let question = Question {
            id,
            peer,
            route,
            block: Some(block),
            asked,
            unknown: [false; ASKED],
            numbers: [None; ASKED],
            wide: false,
            times: 1,
            at: now,
            doubt: None,
        };
        takeover.questions.put(nonce, question, now);
        self.put_question(nonce);
    }

    pub(super) fn put_question(&mut self, nonce: u64) {
        let Some(question) = self.takeover.as_deref().and_then(|takeover| takeover.questions.open.get(&nonce)) else { return };
        question.now_asked().into_iter().for_each(|peer| self.ask(nonce, peer));
    }

    /// Puts a question to one of those whom it is for, unless it has answered.
    pub(super) fn ask(&mut self, nonce: u64, peer: usize) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let Some(question) = takeover.questions.open.get_mut(&nonce) else { return };
        if question.asked.iter().zip(question.unknown).all(|(asked, unknown)| unknown || *asked != Some(peer)) {
            return;
        }
        question.close(&mut takeover.links, Some(peer));
        let place = takeover.links[peer].say(About::Question(nonce), self.now);
        let asked = question.asked.iter().zip(&mut question.numbers);
        asked.filter(|(asked, _)| **asked == Some(peer)).for_each(|(_, number)| *number = Some(place.number));
        let said = match question.doubt {
            Some((_, block)) => Said::Behind(place, nonce, question.id, block),
            None => Said::Query(place, nonce, question.id),
        };
        takeover.say(&mut self.outbox, takeover.plan.members()[peer].notes, &said);
    }

    /// Asks those who have not answered once more, then forgets.
    pub(super) fn ask_again(&mut self) {
        loop {
            let Some(takeover) = self.takeover.as_deref_mut() else { return };
            let (questions, links) = (&mut takeover.questions, &mut takeover.links);
            let Some(&(at, nonce)) = questions.due.front() else { return };
            if at > self.now {
                return;
            }
            questions.due.pop_front();
            let Some(question) = questions.open.get_mut(&nonce) else { continue };
            if question.doubt.is_some() {
                let enough = question.is_enough(|peer| links[peer].is_mute(self.now));
                // Nobody answers at all, and the client speaks to us: the others are dead.
                let alone = question.times >= DOUBTS && question.block.is_some();
                if enough || alone || question.is_settled() || question.times >= DOUBTS {
                    let Some(question) = questions.remove(nonce, links) else { continue };
                    if enough || alone || question.is_settled() {
                        self.nobody_went_on(&question, self.now);
                    }
                    continue;
                }
                // Who has not gone on by now may have by then: all are asked anew.
                question.unknown = [false; ASKED];
            }
            if question.times < TIMES || question.doubt.is_some() {
                (question.times, question.at) = (question.times + 1, self.now);
                questions.due.push_back((self.now.plus(PATIENCE), nonce));
                self.put_question(nonce);
            } else if question.widen(self.now) {
                questions.due.push_back((self.now.plus(PATIENCE), nonce));
                self.put_question(nonce);
            } else {
                questions.remove(nonce, links);
                self.counters.add(Counter::AskedUnanswered, 1);
            }
        }
    }

    /// A server knows a transfer that was asked about.
    pub(super) fn somebody_knows(&mut self, nonce: u64, who: usize, note: Note) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        if takeover.questions.open.get(&nonce).is_none_or(|question| question.id != note.id) {
            return;
        }
        let Some(question) = takeover.questions.remove(nonce, &mut takeover.links) else { return };
        if question.doubt.is_some() {
            return self.somebody_went_on(&question, who, note);
        }
        let Some(block) = question.block else { return };
        // Its client may have begun something else meanwhile.
        if !self.peers.contains_key(&question.peer) {
            self.resume(question.peer, question.route, note, block);
        }
    }

    /// A server does not know it. Only when none does the client is told.
    pub(super) fn somebody_knows_not(&mut self, nonce: u64, who: usize) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let Some(question) = takeover.questions.open.get_mut(&nonce) else { return };
        let answered = question.asked.iter().zip(&mut question.unknown);
        answered.filter(|(asked, _)| **asked == Some(who)).for_each(|(_, unknown)| *unknown = true);
        question.close(&mut takeover.links, Some(who));
        if !question.is_settled() {
            return;
        }
        if question.widen(self.now) {
            return self.put_question(nonce);
        }
        if let Some(question) = takeover.questions.remove(nonce, &mut takeover.links) {
            if question.doubt.is_some() {
                return self.nobody_went_on(&question, question.at);
            }
            self.counters.add(Counter::AskedUnknown, 1);
            self.stranger(question.peer, question.route);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_or_given_up_is_not_said_again() {
        let (at, later) = (Time(1_000_000_000), Time(9_000_000_000));
        let mut links: Vec<Link<About>> = (1..=3).map(Link::new).collect();
        let client = SocketAddr::from(([198, 51, 100, 7], 2070));
        let vip = "192.0.2.69".parse().unwrap();
        let mut questions = Questions::default();
        let [one, two] = [2, 0].map(|peer| Some(links[peer].say(About::Question(7), at).number));
        let question = Question {
            id: Id { vip, client, tid: 20_001 },
            peer: Peer { client, vip, port: 0 },
            route: Route { port: 0, to: client, from: None },
            block: Some(1),
            asked: [Some(2), Some(0), None, None],
            unknown: [false; ASKED],
            numbers: [one, two, None, None],
            wide: false,
            times: 1,
            at,
            doubt: None,
        };
        questions.put(7, question, at);
        questions.open.get_mut(&7).unwrap().close(&mut links, Some(2));
        assert_eq!(
            links.iter_mut().map(|link| link.overdue(later).len()).collect::<Vec<_>>(),
            [1, 0, 0],
            "it still is to be heard of by one"
        );
        links[0].say(About::Hello, at);
        let number = links[0].say(About::Question(7), at).number;
        questions.open.get_mut(&7).unwrap().numbers[1] = Some(number);
        questions.remove(7, &mut links);
        assert!(matches!(links[0].overdue(later)[..], [About::Hello]), "the question is not open any more");
    }

    #[test]
    fn one_of_each_pair_has_to_answer() {
        let client = SocketAddr::from(([198, 51, 100, 7], 2070));
        let vip = "192.0.2.69".parse().unwrap();
        let question = |asked: [Option<usize>; ASKED], unknown: [bool; ASKED]| Question {
            id: Id { vip, client, tid: 20_001 },
            peer: Peer { client, vip, port: 0 },
            route: Route { port: 0, to: client, from: None },
            block: Some(1),
            asked,
            unknown,
            numbers: [None; ASKED],
            wide: true,
            times: 1,
            at: Time(0),
            doubt: None,
        };
        let (yes, no) = (true, false);
        let pair = [Some(1), Some(2), None, None];
        let both = [Some(1), Some(2), Some(3), Some(1)];
        let enough = |asked, unknown, mute: &[usize]| question(asked, unknown).is_enough(|peer| mute.contains(&peer));
        assert!(enough(pair, [yes, no, no, no], &[2]) && !enough(pair, [yes, no, no, no], &[]) && !enough(pair, [no; 4], &[1, 2]));
        assert!(!enough(both, [no, no, yes, no], &[1, 2]), "the first pair, of which one may have gone on, has said nothing");
        assert!(enough(both, [no, yes, yes, no], &[1]) && enough(both, [yes; 4], &[]) && !enough([None; 4], [no; 4], &[]));
        let mut narrow = Question { wide: false, ..question(both, [yes, yes, no, yes]) };
        assert!(narrow.is_settled() && narrow.now_asked() == [1, 2]);
        assert!(narrow.widen(Time(0)) && !narrow.is_settled() && narrow.now_asked() == [1, 2, 3] && !narrow.widen(Time(0)));
        assert!(!Question { wide: false, ..question(pair, [yes, yes, no, no]) }.widen(Time(0)));
    }
}
