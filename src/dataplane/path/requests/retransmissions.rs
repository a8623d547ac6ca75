//! Requests that were sent again, unchanged and from the same port: a client that receives its server's answer does not do that.
//!
//! Fixed memory. A new request replaces one that was sent once. One that was sent again stays until its client acknowledges or is silent for long.

use super::client_filter::ClientFilter;
use crate::tables::BackendId;
use guideway_packet::time::Time;
use std::time::Duration;

/// Requests remembered at once.
const ENTRIES: usize = 8192;
/// Places where one of them may stand.
const WAYS: usize = 4;
/// Sets that are looked over with every batch while any request was retransmitted.
const SWEEP: usize = 1;
/// A request that comes again within this time is a duplicate on the way: no client gives up sooner.
pub const DUPLICATE_WINDOW: Duration = Duration::from_millis(200);
/// A client that sends nothing for this time has given up. Most retransmit a request after 1 to 5 seconds.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(20);

/// A request that was forwarded.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Hash of its flow: client, client's port, VIP.
    flow: u64,
    /// When it came last.
    last: Time,
    /// Digest of its bytes.
    digest: u32,
    backend: BackendId,
    /// How often it came; 0: nothing is here.
    attempts: u8,
    /// The quick hash of its client.
    client: u64,
}

/// How a request that has just come relates to earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestAttempt {
    /// It is new.
    First,
    /// It came a moment ago.
    Duplicate {
        /// How often it had come by then.
        attempts: u8,
        /// The backend that got it.
        backend: BackendId,
    },
    /// It has come before and went to this backend. Its client has acknowledged nothing since.
    Retransmission {
        /// How often it has come, this time included: at least 2.
        attempts: u8,
        /// The backend that got it last.
        backend: BackendId,
    },
}

/// The requests of the last seconds.
#[derive(Debug)]
pub struct RetransmissionTable {
    entries: Box<[Entry]>,
    /// How many of them came more than once.
    retransmitted: usize,
    /// The set that is swept next.
    next: usize,
    evicted: u64,
    /// Clients whose requests came more than once.
    waiting: ClientFilter,
}

impl Default for RetransmissionTable {
    fn default() -> Self {
        RetransmissionTable {
            entries: vec![Entry::default(); ENTRIES].into_boxed_slice(),
            retransmitted: 0,
            next: 0,
            evicted: 0,
            waiting: ClientFilter::default(),
        }
    }
}

impl RetransmissionTable {
    /// Whether any request was retransmitted, so that acknowledgements matter.
    #[inline]
    pub fn any(&self) -> bool {
        self.retransmitted > 0
    }

    /// Whether a client with this quick hash may have retransmitted a request. Only its acknowledgements matter.
    #[inline(always)]
    pub fn may_wait(&self, client: u64) -> bool {
        self.waiting.contains(client)
    }

    /// Classifies the request of `flow` with these bytes.
    pub fn classify(&self, flow: u64, digest: u32, now: Time) -> RequestAttempt {
        let Some(entry) = self.entries[set(flow)].iter().find(|entry| entry.attempts > 0 && entry.flow == flow) else {
            return RequestAttempt::First;
        };
        match now - entry.last {
            passed if entry.digest != digest || passed >= CLIENT_TIMEOUT => RequestAttempt::First,
            passed if passed < DUPLICATE_WINDOW => RequestAttempt::Duplicate { attempts: entry.attempts, backend: entry.backend },
            _ => RequestAttempt::Retransmission { attempts: entry.attempts.saturating_add(1), backend: entry.backend },
        }
    }

    /// Records that the request, as it was just classified, went to `backend`. `client` is the quick hash of its client.
    pub fn record(&mut self, flow: u64, client: u64, digest: u32, attempt: RequestAttempt, backend: BackendId, now: Time) {
        let attempts = match attempt {
            RequestAttempt::First => 1,
            RequestAttempt::Retransmission { attempts, .. } => attempts,
            RequestAttempt::Duplicate { .. } => return,
        };
        let ways = &mut self.entries[set(flow)];
        // The flow's own place, else one that is free or silent for long, else the oldest of those that came once, else the oldest.
        let rank = |entry: &Entry| match entry {
            entry if entry.attempts > 0 && entry.flow == flow => (0, Time(0)),
            entry if entry.attempts == 0 || now - entry.last >= CLIENT_TIMEOUT => (1, Time(0)),
            entry => (2 + u8::from(entry.attempts > 1), entry.last),
        };
        if let Some(place) = ways.iter_mut().min_by_key(|entry| rank(entry)) {
            self.evicted += u64::from(rank(place).0 > 1);
            self.retransmitted -= usize::from(place.attempts > 1);
            self.retransmitted += usize::from(attempts > 1);
            *place = Entry { flow, last: now, digest, backend, attempts, client };
            if attempts > 1 {
                self.waiting.insert(client);
            }
        }
    }

    /// How many requests left for newer ones before their clients gave up.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Forgets the request of `flow`: its client has an answer.
    pub fn acknowledged(&mut self, flow: u64) {
        for entry in self.entries[set(flow)].iter_mut().filter(|entry| entry.flow == flow) {
            self.retransmitted -= usize::from(entry.attempts > 1);
            *entry = Entry::default();
        }
    }

    /// Forgets clients that are silent for long, a few at a time.
    #[inline]
    pub fn tick(&mut self, now: Time) {
        if self.retransmitted > 0 {
            self.sweep(now);
        }
    }

    #[cold]
    fn sweep(&mut self, now: Time) {
        let part = &mut self.entries[self.next..self.next + SWEEP * WAYS];
        for entry in part.iter_mut().filter(|entry| entry.attempts > 1) {
            if now - entry.last < CLIENT_TIMEOUT {
                self.waiting.keep(entry.client);
                continue;
            }
            self.retransmitted -= 1;
            *entry = Entry::default();
        }
        self.next = (self.next + SWEEP * WAYS) % ENTRIES;
        if self.next == 0 {
            self.waiting.end_round();
        }
    }
}

fn set(flow: u64) -> std::ops::Range<usize> {
    // The upper bits: the flow table's lines and the rows of the Maglev table are by these too, but nothing here depends on them.
    let set = (flow >> 40) as usize % (ENTRIES / WAYS) * WAYS;
    set..set + WAYS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    fn ask(retransmissions: &mut RetransmissionTable, flow: u64, digest: u32, now: Time) -> RequestAttempt {
        let attempt = retransmissions.classify(flow, digest, now);
        retransmissions.record(flow, flow << 13, digest, attempt, 7, now);
        attempt
    }

    #[test]
    fn sendings_are_counted_and_what_comes_twice_at_once_is_one() {
        let mut retransmissions = RetransmissionTable::default();
        assert_eq!(ask(&mut retransmissions, 5, 1, ms(0)), RequestAttempt::First);
        assert_eq!(ask(&mut retransmissions, 5, 1, ms(199)), RequestAttempt::Duplicate { attempts: 1, backend: 7 });
        assert!(!retransmissions.any());
        assert_eq!(ask(&mut retransmissions, 5, 1, ms(200)), RequestAttempt::Retransmission { attempts: 2, backend: 7 });
        assert!(retransmissions.any());
        assert_eq!(ask(&mut retransmissions, 5, 1, ms(1200)), RequestAttempt::Retransmission { attempts: 3, backend: 7 });
        assert_eq!(ask(&mut retransmissions, 5, 2, ms(2200)), RequestAttempt::First, "another file");
        assert!(!retransmissions.any());
        assert_eq!(retransmissions.classify(5, 2, ms(2200).plus(CLIENT_TIMEOUT)), RequestAttempt::First, "too long ago");
    }

    #[test]
    fn an_acknowledged_request_is_not_waiting() {
        let mut retransmissions = RetransmissionTable::default();
        for now in [0, 1000] {
            ask(&mut retransmissions, 5, 1, ms(now));
            ask(&mut retransmissions, 6, 1, ms(now));
        }
        retransmissions.acknowledged(5);
        retransmissions.acknowledged(99);
        assert!(retransmissions.any());
        assert_eq!(ask(&mut retransmissions, 5, 1, ms(2000)), RequestAttempt::First);
        retransmissions.acknowledged(6);
        assert!(!retransmissions.any());
    }

    #[test]
    fn a_flood_of_new_requests_does_not_push_out_who_repeats() {
        let mut retransmissions = RetransmissionTable::default();
        for now in [0, 1000] {
            ask(&mut retransmissions, 5 << 40, 1, ms(now));
        }
        for n in 0..100u64 {
            ask(&mut retransmissions, (5 << 40) | (n + 1), 1, ms(1001 + n));
        }
        assert_eq!(retransmissions.classify(5 << 40, 1, ms(2000)), RequestAttempt::Retransmission { attempts: 3, backend: 7 });
    }

    #[test]
    fn those_who_fell_silent_are_forgotten_without_another_word() {
        let mut retransmissions = RetransmissionTable::default();
        for flow in 0..1000u64 {
            ask(&mut retransmissions, flow << 40, 1, ms(0));
            ask(&mut retransmissions, flow << 40, 1, ms(1000));
        }
        let later = ms(1000).plus(CLIENT_TIMEOUT);
        (0..ENTRIES / WAYS / SWEEP).for_each(|_| retransmissions.tick(later));
        assert!(!retransmissions.any());
    }

    #[test]
    fn a_client_that_repeats_may_wait_for_as_long_as_it_does_and_others_do_not() {
        let mut retransmissions = RetransmissionTable::default();
        let flow = |n: u64| n << 40;
        for n in 0..100 {
            ask(&mut retransmissions, flow(n), 1, ms(0));
            assert!(n == 0 || !retransmissions.may_wait(flow(n) << 13), "who asked once");
        }
        ask(&mut retransmissions, flow(5), 1, ms(1000));
        for round in 0..3 {
            assert!(retransmissions.may_wait(flow(5) << 13), "round {round}");
            assert!((6..100).all(|n| !retransmissions.may_wait(flow(n) << 13)), "round {round}");
            (0..ENTRIES / WAYS / SWEEP).for_each(|_| retransmissions.tick(ms(2000)));
        }
        ask(&mut retransmissions, flow(6), 1, ms(2000));
        retransmissions.acknowledged(flow(5));
        (0..2 * ENTRIES / WAYS / SWEEP).for_each(|_| retransmissions.tick(ms(3000)));
        assert!(!retransmissions.may_wait(flow(5) << 13) && retransmissions.may_wait(flow(6) << 13));
    }
}
