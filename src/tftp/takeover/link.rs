//! Messages to one peer that are not acknowledged yet.

use super::wire::Sequence;
use guideway_packet::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// Largest number of unacknowledged messages that are tracked.
const MAX_UNACKED: usize = 1 << 14;
/// A peer that does not answer for this long is unresponsive. Hellos are sent more often.
const UNRESPONSIVE_AFTER: Duration = Duration::from_millis(2500);
/// A message without an acknowledgement for this long is sent again. A late acknowledgement of the first one still counts.
const RESEND_AFTER: Duration = Duration::from_millis(200);
const RESEND_BATCH: usize = 256;

/// Shortest interval between hellos to a peer that reports an unknown token, because its report may be replayed.
const GREETING_INTERVAL: Duration = Duration::from_millis(20);

/// An unacknowledged message: its token, its time, and its subject.
#[derive(Debug)]
struct Unacked<K> {
    token: u64,
    at: Time,
    about: K,
    /// Whether it was sent again under another number.
    resent: bool,
}

/// The send state of a peer. `K` identifies the subject of a message.
#[derive(Debug)]
pub struct Link<K> {
    token: u64,
    /// Number of the first tracked message.
    first: u64,
    unacked: VecDeque<Option<Unacked<K>>>,
    answered: bool,
    /// Since when an acknowledgement is outstanding.
    waiting: Option<Time>,
    /// When a hello last answered an unknown token.
    last_greeted: Option<Time>,
}

impl<K> Link<K> {
    /// Creates a link to a peer with unknown token. Numbers start at `first`, so that acknowledgements for an earlier process match nothing.
    pub fn new(first: u64) -> Link<K> {
        Link { token: 0, first: first >> 1, unacked: VecDeque::new(), answered: false, waiting: None, last_greeted: None }
    }

    /// Records a message and returns its sequence.
    pub fn record_sent(&mut self, about: K, now: Time) -> Sequence {
        if self.unacked.len() == MAX_UNACKED {
            self.unacked.pop_front();
            self.first += 1;
        }
        self.waiting.get_or_insert(now);
        let number = self.first + self.unacked.len() as u64;
        self.unacked.push_back(Some(Unacked { token: self.token, at: now, about, resent: false }));
        Sequence { token: self.token, number }
    }

    /// Handles an acknowledgement of this number. Returns the subject, for the first acknowledgement only.
    pub fn acknowledge(&mut self, number: u64) -> Option<K> {
        self.take_unacked(number).map(|unacked| unacked.about)
    }

    /// Handles the rejection of a message because of its token. Stores the new token and returns the subject, to be sent again.
    pub fn token_rejected(&mut self, sequence: Sequence, token: u64) -> Option<K> {
        let Unacked { token: under, about, .. } = self.take_unacked(sequence.number)?;
        // A rejection of an older token carries no news.
        if under == self.token {
            self.token = token;
        }
        Some(about)
    }

    /// Records an answer of the peer. Returns whether it was unresponsive before.
    pub fn mark_answered(&mut self, now: Time) -> bool {
        let was_unresponsive = self.is_unresponsive(now);
        self.answered = true;
        self.waiting = None;
        was_unresponsive
    }

    /// Returns whether the peer is unresponsive, so that waiting for it is useless.
    pub fn is_unresponsive(&self, now: Time) -> bool {
        !self.answered || self.has_timed_out(now)
    }

    /// Returns whether the peer had time to answer and did not, so that its knowledge can be ignored. A peer that has never answered may still do so.
    pub fn has_timed_out(&self, now: Time) -> bool {
        self.waiting.is_some_and(|since| now - since > UNRESPONSIVE_AFTER)
    }

    /// Handles a report of an unknown token. Returns whether to send a hello now.
    pub fn should_greet(&mut self, now: Time) -> bool {
        let now_and_then = self.last_greeted.is_none_or(|at| now - at >= GREETING_INTERVAL);
        if now_and_then {
            self.last_greeted = Some(now);
        }
        now_and_then
    }

    /// Returns the peer's token; 0 if unknown.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Returns whether messages are unacknowledged.
    pub fn has_unacked(&self) -> bool {
        !self.unacked.is_empty()
    }

    /// Returns subjects of overdue messages, a limited number at once and each only once.
    pub fn overdue(&mut self, now: Time) -> Vec<K>
    where
        K: Clone,
    {
        let mut overdue = Vec::new();
        for entry in &mut self.unacked {
            let Some(unacked) = entry else { continue };
            let age = now - unacked.at;
            if unacked.resent && age > UNRESPONSIVE_AFTER {
                *entry = None;
            } else if !unacked.resent && age > RESEND_AFTER && overdue.len() < RESEND_BATCH {
                unacked.resent = true;
                overdue.push(unacked.about.clone());
            }
        }
        self.trim();
        overdue
    }

    fn trim(&mut self) {
        while let Some(None) = self.unacked.front() {
            self.unacked.pop_front();
            self.first += 1;
        }
    }

    fn take_unacked(&mut self, number: u64) -> Option<Unacked<K>> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let settled = self.unacked.get_mut(at)?.take();
        self.trim();
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Time = Time(1_000_000_000);

    #[test]
    fn acknowledgements_match_messages_and_count_once() {
        let mut link = Link::new(40);
        let places: Vec<Sequence> = (0..4).map(|about| link.record_sent(about, AT)).collect();
        assert_eq!(
            (link.acknowledge(places[2].number), link.acknowledge(places[2].number), link.acknowledge(places[0].number)),
            (Some(2), None, Some(0))
        );
        assert_eq!((link.acknowledge(19), link.acknowledge(u64::MAX)), (None, None));
        assert_eq!((link.acknowledge(places[1].number), link.acknowledge(places[3].number)), (Some(1), Some(3)));
        link.record_sent(8, AT);
        link.record_sent(9, AT.plus(RESEND_AFTER));
        assert_eq!((link.overdue(AT.plus(RESEND_AFTER)), link.overdue(AT.plus(RESEND_AFTER * 2))), (vec![], vec![8]));
        assert_eq!((link.overdue(AT.plus(RESEND_AFTER * 2)), link.acknowledge(24)), (vec![], Some(8)), "it was late, not lost");
        assert_eq!((link.overdue(AT.plus(RESEND_AFTER + UNRESPONSIVE_AFTER)), link.acknowledge(25)), (vec![9], Some(9)));
        link.record_sent(7, AT);
        assert_eq!(link.overdue(AT.plus(RESEND_AFTER * 2)), [7]);
        assert_eq!((link.overdue(AT.plus(UNRESPONSIVE_AFTER * 2)), link.has_unacked()), (vec![], false), "it is no longer tracked");
        (0..MAX_UNACKED as u32 * 2).for_each(|n| assert!(link.record_sent(n, AT).number > 0));
        assert_eq!(link.unacked.len(), MAX_UNACKED);
    }

    #[test]
    fn a_rejection_returns_the_token_once_and_the_message_to_resend() {
        let mut link = Link::new(0);
        let (first, second) = (link.record_sent('a', AT), link.record_sent('b', AT));
        assert_eq!((link.token_rejected(first, 77), link.token_rejected(first, 78)), (Some('a'), None));
        let resent = link.record_sent('a', AT);
        assert_eq!(resent.token, 77);
        assert_eq!(link.token_rejected(second, 99), Some('b'), "it was sent before the token was known");
        assert_eq!(link.record_sent('b', AT).token, 77);
    }

    #[test]
    fn repeated_reports_of_an_unknown_token_get_few_hellos() {
        let mut link: Link<()> = Link::new(0);
        assert_eq!(
            [AT, AT, AT.plus(GREETING_INTERVAL / 2), AT.plus(GREETING_INTERVAL), AT.plus(GREETING_INTERVAL)]
                .map(|at| link.should_greet(at)),
            [true, false, false, true, false]
        );
    }

    #[test]
    fn a_silent_peer_is_unresponsive_until_it_answers() {
        let mut link = Link::new(0);
        assert!(link.is_unresponsive(AT) && !link.has_timed_out(AT), "it has never answered, and no message was sent");
        link.record_sent((), AT);
        assert!(
            link.is_unresponsive(AT)
                && !link.has_timed_out(AT.plus(UNRESPONSIVE_AFTER))
                && link.has_timed_out(AT.plus(UNRESPONSIVE_AFTER * 2))
        );
        assert!(link.mark_answered(AT));
        link.record_sent((), AT);
        link.record_sent((), AT.plus(UNRESPONSIVE_AFTER));
        assert!(!link.is_unresponsive(AT.plus(UNRESPONSIVE_AFTER)) && link.is_unresponsive(AT.plus(UNRESPONSIVE_AFTER * 2)));
        assert!(link.mark_answered(AT.plus(UNRESPONSIVE_AFTER * 2)) && !link.mark_answered(AT.plus(UNRESPONSIVE_AFTER * 2)));
        assert!(!link.is_unresponsive(AT.plus(UNRESPONSIVE_AFTER * 9)));
    }
}
