//! Which requests were sent again, unchanged and from the same port: a client that hears its server does not do that.
//!
//! Fixed memory. What was sent once leaves for what is new; what was sent again stays until its client is heard or silent for long.

use crate::tables::BackendId;
use guideway_packet::time::Time;
use std::time::Duration;

/// Requests remembered at once.
const ENTRIES: usize = 8192;
/// Places where one of them may stand.
const WAYS: usize = 4;
/// Sets that are looked over with every batch while any request was repeated.
const SWEEP: usize = 4;
/// A request that comes again within this time is a duplicate on the way: no client gives up sooner.
pub const DUPLICATE: Duration = Duration::from_millis(200);
/// A client that is silent for so long is not waiting any more. Most repeat a request after 1 to 5 seconds.
pub const FORGET: Duration = Duration::from_secs(20);

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
    sendings: u8,
}

/// What is known of a request that has just come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It is new.
    First,
    /// It came a moment ago.
    Duplicate {
        /// How often it had come by then.
        sendings: u8,
        /// Who was asked.
        backend: BackendId,
    },
    /// It has come before, and this backend was asked then; its client was not heard since.
    Again {
        /// How often it has come, this time included: at least 2.
        sendings: u8,
        /// Who was asked last.
        backend: BackendId,
    },
}

/// The requests of the last seconds.
#[derive(Debug)]
pub struct Repeats {
    entries: Box<[Entry]>,
    /// How many of them came more than once.
    repeated: usize,
    /// The set that is looked over next.
    next: usize,
}

impl Default for Repeats {
    fn default() -> Self {
        Repeats { entries: vec![Entry::default(); ENTRIES].into_boxed_slice(), repeated: 0, next: 0 }
    }
}

impl Repeats {
    /// Whether it is worth the while to listen for acknowledgements.
    #[inline]
    pub fn any(&self) -> bool {
        self.repeated > 0
    }

    /// What is known of the request of `flow` with these bytes.
    pub fn sight(&self, flow: u64, digest: u32, now: Time) -> Sighting {
        let Some(entry) = self.entries[set(flow)].iter().find(|entry| entry.sendings > 0 && entry.flow == flow) else {
            return Sighting::First;
        };
        match now - entry.last {
            passed if entry.digest != digest || passed >= FORGET => Sighting::First,
            passed if passed < DUPLICATE => Sighting::Duplicate { sendings: entry.sendings, backend: entry.backend },
            _ => Sighting::Again { sendings: entry.sendings.saturating_add(1), backend: entry.backend },
        }
    }

    /// `backend` was asked, for what was just seen of the request.
    pub fn asked(&mut self, flow: u64, digest: u32, sighting: Sighting, backend: BackendId, now: Time) {
        let sendings = match sighting {
            Sighting::First => 1,
            Sighting::Again { sendings, .. } => sendings,
            Sighting::Duplicate { .. } => return,
        };
        let ways = &mut self.entries[set(flow)];
        // The flow's own place, else one that is free or silent for long, else the oldest of those that came once, else the oldest.
        let rank = |entry: &Entry| match entry {
            entry if entry.sendings > 0 && entry.flow == flow => (0, Time(0)),
            entry if entry.sendings == 0 || now - entry.last >= FORGET => (1, Time(0)),
            entry => (2 + u8::from(entry.sendings > 1), entry.last),
        };
        if let Some(place) = ways.iter_mut().min_by_key(|entry| rank(entry)) {
            self.repeated -= usize::from(place.sendings > 1);
            self.repeated += usize::from(sendings > 1);
            *place = Entry { flow, last: now, digest, backend, sendings };
        }
    }

    /// The client of `flow` was heard: it has an answer.
    pub fn heard(&mut self, flow: u64) {
        for entry in self.entries[set(flow)].iter_mut().filter(|entry| entry.flow == flow) {
            self.repeated -= usize::from(entry.sendings > 1);
            *entry = Entry::default();
        }
    }

    /// Forgets clients that are silent for long, a few at a time.
    #[inline]
    pub fn tick(&mut self, now: Time) {
        if self.repeated > 0 {
            self.sweep(now);
        }
    }

    #[cold]
    fn sweep(&mut self, now: Time) {
        let part = &mut self.entries[self.next..self.next + SWEEP * WAYS];
        for entry in part.iter_mut().filter(|entry| entry.sendings > 1 && now - entry.last >= FORGET) {
            self.repeated -= 1;
            *entry = Entry::default();
        }
        self.next = (self.next + SWEEP * WAYS) % ENTRIES;
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

    fn ask(repeats: &mut Repeats, flow: u64, digest: u32, now: Time) -> Sighting {
        let sighting = repeats.sight(flow, digest, now);
        repeats.asked(flow, digest, sighting, 7, now);
        sighting
    }

    #[test]
    fn sendings_are_counted_and_what_comes_twice_at_once_is_one() {
        let mut repeats = Repeats::default();
        assert_eq!(ask(&mut repeats, 5, 1, ms(0)), Sighting::First);
        assert_eq!(ask(&mut repeats, 5, 1, ms(199)), Sighting::Duplicate { sendings: 1, backend: 7 });
        assert!(!repeats.any());
        assert_eq!(ask(&mut repeats, 5, 1, ms(200)), Sighting::Again { sendings: 2, backend: 7 });
        assert!(repeats.any());
        assert_eq!(ask(&mut repeats, 5, 1, ms(1200)), Sighting::Again { sendings: 3, backend: 7 });
        assert_eq!(ask(&mut repeats, 5, 2, ms(2200)), Sighting::First, "another file");
        assert!(!repeats.any());
        assert_eq!(repeats.sight(5, 2, ms(2200).plus(FORGET)), Sighting::First, "too long ago");
    }

    #[test]
    fn who_was_heard_waits_no_more() {
        let mut repeats = Repeats::default();
        for now in [0, 1000] {
            ask(&mut repeats, 5, 1, ms(now));
            ask(&mut repeats, 6, 1, ms(now));
        }
        repeats.heard(5);
        repeats.heard(99);
        assert!(repeats.any());
        assert_eq!(ask(&mut repeats, 5, 1, ms(2000)), Sighting::First);
        repeats.heard(6);
        assert!(!repeats.any());
    }

    #[test]
    fn a_flood_of_new_requests_does_not_push_out_who_repeats() {
        let mut repeats = Repeats::default();
        for now in [0, 1000] {
            ask(&mut repeats, 5 << 40, 1, ms(now));
        }
        for n in 0..100u64 {
            ask(&mut repeats, (5 << 40) | (n + 1), 1, ms(1001 + n));
        }
        assert_eq!(repeats.sight(5 << 40, 1, ms(2000)), Sighting::Again { sendings: 3, backend: 7 });
    }

    #[test]
    fn those_who_fell_silent_are_forgotten_without_another_word() {
        let mut repeats = Repeats::default();
        for flow in 0..1000u64 {
            ask(&mut repeats, flow << 40, 1, ms(0));
            ask(&mut repeats, flow << 40, 1, ms(1000));
        }
        let later = ms(1000).plus(FORGET);
        (0..ENTRIES / WAYS / SWEEP).for_each(|_| repeats.tick(later));
        assert!(!repeats.any());
    }
}
