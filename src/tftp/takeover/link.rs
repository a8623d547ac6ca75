//! What was said to one peer and is not answered yet.

use super::wire::Place;
use guideway_packet::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// Most notes of which it is remembered that they are not answered yet.
const MOST: usize = 1 << 14;
/// A peer that is silent for so long after something was said to it is not waited for. Hellos are said more often.
const MUTE: Duration = Duration::from_millis(2500);
/// What is not answered for so long may be lost, and is said again, so much of it at once. An answer to what was said first counts all the same.
const LATE: Duration = Duration::from_millis(200);
const AT_ONCE: usize = 256;

/// A peer that says it is new is greeted at once, but not more often than so: it may be somebody who says again what it once said.
const HAIL: Duration = Duration::from_millis(20);

/// Something that is not answered: under which token it was said, when, and what it was about.
#[derive(Debug)]
struct Open<K> {
    token: u64,
    at: Time,
    what: K,
    /// Whether it was said again under another number.
    again: bool,
}

/// The way to a peer. `K` names what a note was about.
#[derive(Debug)]
pub struct Link<K> {
    token: u64,
    /// The number of the first that is remembered.
    first: u64,
    open: VecDeque<Option<Open<K>>>,
    heard: bool,
    /// Since when an answer is waited for.
    waiting: Option<Time>,
    /// When it was last greeted for saying that it is new.
    hailed: Option<Time>,
}

impl<K> Link<K> {
    /// To a peer whose token is not known. Numbers begin anywhere, so that an answer to an earlier life names none of this one.
    pub fn new(first: u64) -> Link<K> {
        Link { token: 0, first: first >> 1, open: VecDeque::new(), heard: false, waiting: None, hailed: None }
    }

    /// The place of what is said now.
    pub fn say(&mut self, what: K, now: Time) -> Place {
        if self.open.len() == MOST {
            self.open.pop_front();
            self.first += 1;
        }
        self.waiting.get_or_insert(now);
        let number = self.first + self.open.len() as u64;
        self.open.push_back(Some(Open { token: self.token, at: now, what, again: false }));
        Place { token: self.token, number }
    }

    /// The peer has what was said under this number: what it was about, the first time.
    pub fn acked(&mut self, number: u64) -> Option<K> {
        self.settle(number).map(|open| open.what)
    }

    /// The peer did not take what was said at this place: what that was about, to be said again, under the token that it wants.
    pub fn refused(&mut self, place: Place, token: u64) -> Option<K> {
        let Open { token: under, what, .. } = self.settle(place.number)?;
        // An answer to what was said before the token changed brings nothing new.
        if under == self.token {
            self.token = token;
        }
        Some(what)
    }

    /// The peer has answered. Whether it was mute before.
    pub fn heard(&mut self, now: Time) -> bool {
        let mute = self.is_mute(now);
        self.heard = true;
        self.waiting = None;
        mute
    }

    /// Whether it is not worth waiting for.
    pub fn is_mute(&self, now: Time) -> bool {
        !self.heard || self.is_gone(now)
    }

    /// Whether it had time to answer and did not, so that nothing is to be feared from what it knows. One that was never heard may be about to answer.
    pub fn is_gone(&self, now: Time) -> bool {
        self.waiting.is_some_and(|since| now - since > MUTE)
    }

    /// The peer says that it is new. Whether to greet it now.
    pub fn hail(&mut self, now: Time) -> bool {
        let now_and_then = self.hailed.is_none_or(|at| now - at >= HAIL);
        if now_and_then {
            self.hailed = Some(now);
        }
        now_and_then
    }

    /// The peer's token; 0 when it is not known.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether something that was said is not answered.
    pub fn waits(&self) -> bool {
        !self.open.is_empty()
    }

    /// What was said a while ago and is not answered; some of it, each but once.
    pub fn overdue(&mut self, now: Time) -> Vec<K>
    where
        K: Clone,
    {
        let mut overdue = Vec::new();
        for place in &mut self.open {
            let Some(open) = place else { continue };
            let age = now - open.at;
            if open.again && age > MUTE {
                *place = None;
            } else if !open.again && age > LATE && overdue.len() < AT_ONCE {
                open.again = true;
                overdue.push(open.what.clone());
            }
        }
        self.trim();
        overdue
    }

    fn trim(&mut self) {
        while let Some(None) = self.open.front() {
            self.open.pop_front();
            self.first += 1;
        }
    }

    fn settle(&mut self, number: u64) -> Option<Open<K>> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let settled = self.open.get_mut(at)?.take();
        self.trim();
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Time = Time(1_000_000_000);

    #[test]
    fn answers_are_for_what_was_said_and_count_once() {
        let mut link = Link::new(40);
        let places: Vec<Place> = (0..4).map(|what| link.say(what, AT)).collect();
        assert_eq!((link.acked(places[2].number), link.acked(places[2].number), link.acked(places[0].number)), (Some(2), None, Some(0)));
        assert_eq!((link.acked(19), link.acked(u64::MAX)), (None, None));
        assert_eq!((link.acked(places[1].number), link.acked(places[3].number)), (Some(1), Some(3)));
        link.say(8, AT);
        link.say(9, AT.plus(LATE));
        assert_eq!((link.overdue(AT.plus(LATE)), link.overdue(AT.plus(LATE * 2))), (vec![], vec![8]));
        assert_eq!((link.overdue(AT.plus(LATE * 2)), link.acked(24)), (vec![], Some(8)), "it was slow, not lost");
        assert_eq!((link.overdue(AT.plus(LATE + MUTE)), link.acked(25)), (vec![9], Some(9)));
        link.say(7, AT);
        assert_eq!(link.overdue(AT.plus(LATE * 2)), [7]);
        assert_eq!((link.overdue(AT.plus(MUTE * 2)), link.waits()), (vec![], false), "after so long it is forgotten");
        (0..MOST as u32 * 2).for_each(|n| assert!(link.say(n, AT).number > 0));
        assert_eq!(link.open.len(), MOST);
    }

    #[test]
    fn a_refusal_gives_the_token_once_and_what_to_say_again() {
        let mut link = Link::new(0);
        let (first, second) = (link.say('a', AT), link.say('b', AT));
        assert_eq!((link.refused(first, 77), link.refused(first, 78)), (Some('a'), None));
        let again = link.say('a', AT);
        assert_eq!(again.token, 77);
        assert_eq!(link.refused(second, 99), Some('b'), "it was said before the token was known");
        assert_eq!(link.say('b', AT).token, 77);
    }

    #[test]
    fn who_says_again_and_again_that_it_is_new_is_greeted_now_and_then() {
        let mut link: Link<()> = Link::new(0);
        assert_eq!([AT, AT, AT.plus(HAIL / 2), AT.plus(HAIL), AT.plus(HAIL)].map(|at| link.hail(at)), [true, false, false, true, false]);
    }

    #[test]
    fn who_is_silent_is_mute_until_heard() {
        let mut link = Link::new(0);
        assert!(link.is_mute(AT) && !link.is_gone(AT), "never heard, nor asked");
        link.say((), AT);
        assert!(link.is_mute(AT) && !link.is_gone(AT.plus(MUTE)) && link.is_gone(AT.plus(MUTE * 2)));
        assert!(link.heard(AT));
        link.say((), AT);
        link.say((), AT.plus(MUTE));
        assert!(!link.is_mute(AT.plus(MUTE)) && link.is_mute(AT.plus(MUTE * 2)));
        assert!(link.heard(AT.plus(MUTE * 2)) && !link.heard(AT.plus(MUTE * 2)));
        assert!(!link.is_mute(AT.plus(MUTE * 9)));
    }
}
