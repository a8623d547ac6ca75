//! First fragments: which backend a datagram in fragments goes to, learned from the fragment that shows its ports.
//!
//! One table for all workers of a director, because the fragments of a datagram may come by different receive queues. Every entry is two atomic words, so no
//! worker waits. When a set is full, a new entry replaces an expired one, else the oldest of a complete datagram, else the oldest.

use super::parse::Packet;
use crate::tables::{BackendId, NO_BACKEND};
use guideway_packet::time::Time;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// First fragments remembered at once.
const ENTRIES: usize = 16_384;
/// Places where one of them may stand.
const WAYS: usize = 8;
/// How long a first fragment is remembered. RFC 791 section 3.2 lets a receiver reassemble for 15 seconds.
pub const FRAGMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// The same once all of its datagram has passed: only duplicates may still come, and IPv4 identifications are used again.
pub const COMPLETE_TIMEOUT: Duration = Duration::from_secs(1);

/// The table. See the module.
#[derive(Debug)]
pub struct FirstFragments {
    entries: Box<[Entry]>,
    /// Counts up with every first fragment.
    learned: AtomicU64,
}

/// One datagram.
#[derive(Debug)]
struct Entry {
    /// Upper 48 bits of the key, and the backend.
    owner: AtomicU64,
    /// When its first fragment came, and how much of it has passed: see [`Progress`].
    progress: AtomicU64,
}

/// No datagram.
const EMPTY: u64 = u64::MAX;

/// How much of a datagram has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    /// [`ticks`] when its first fragment came.
    since: u32,
    /// Bytes of its fragments so far, duplicates counted again.
    seen: u16,
    /// Bytes of the whole, once its last fragment came; before that 0.
    total: u16,
}

impl Progress {
    fn read(word: u64) -> Progress {
        Progress { since: (word >> 32) as u32, seen: (word >> 16) as u16, total: word as u16 }
    }

    fn word(self) -> u64 {
        u64::from(self.since) << 32 | u64::from(self.seen) << 16 | u64::from(self.total)
    }

    /// The same after the fragment in `packet`.
    fn after(self, packet: &Packet) -> Progress {
        let ip = &packet.ip;
        let len = ip.total_len.saturating_sub(ip.header_len);
        let last = ip.fragment.filter(|fragment| !fragment.more).map(|fragment| fragment.offset.saturating_add(len));
        Progress { seen: self.seen.saturating_add(len), total: last.unwrap_or(self.total), ..self }
    }

    fn complete(self) -> bool {
        self.total > 0 && self.seen >= self.total
    }

    fn expired(self, now: u32) -> bool {
        let timeout = if self.complete() { COMPLETE_TIMEOUT } else { FRAGMENT_TIMEOUT };
        now.wrapping_sub(self.since) >= (timeout.as_nanos() >> TICK_BITS) as u32
    }

    /// The entry of the highest rank is replaced first.
    fn rank(self, now: u32) -> (bool, bool, u32) {
        (self.expired(now), self.complete(), now.wrapping_sub(self.since))
    }
}

/// A tick is 2^20 ns, about a millisecond. Ticks wrap after 52 days.
const TICK_BITS: u32 = 20;

fn ticks(now: Time) -> u32 {
    (now.0 >> TICK_BITS) as u32
}

fn tag(key: u64) -> u64 {
    key >> 16
}

impl Default for FirstFragments {
    fn default() -> FirstFragments {
        let entries = std::iter::repeat_with(|| Entry { owner: AtomicU64::new(EMPTY), progress: AtomicU64::new(0) });
        FirstFragments { entries: entries.take(ENTRIES).collect(), learned: AtomicU64::new(0) }
    }
}

impl FirstFragments {
    /// The backend of the datagram `key`, of which the fragment in `packet` now passes.
    pub fn find(&self, key: u64, packet: &Packet, now: Time) -> Option<BackendId> {
        let (entry, progress, backend) = self.entry(key, now)?;
        entry.progress.store(progress.after(packet).word(), Relaxed);
        Some(backend)
    }

    /// The same when nothing of it passes.
    pub fn peek(&self, key: u64, now: Time) -> Option<BackendId> {
        self.entry(key, now).map(|(_, _, backend)| backend)
    }

    fn entry(&self, key: u64, now: Time) -> Option<(&Entry, Progress, BackendId)> {
        let entry = self.set(key).iter().find(|entry| entry.owner.load(Relaxed) >> 16 == tag(key))?;
        let (owner, progress) = (entry.owner.load(Relaxed), Progress::read(entry.progress.load(Relaxed)));
        let backend = owner as BackendId;
        // Another worker may have given the entry to another datagram meanwhile.
        (owner >> 16 == tag(key) && backend != NO_BACKEND && !progress.expired(ticks(now))).then_some((entry, progress, backend))
    }

    /// Remembers that the datagram `key`, of which `packet` is the first fragment, goes to `backend`. Returns whether a datagram that may not be complete was
    /// forgotten for it.
    pub fn learn(&self, key: u64, backend: BackendId, packet: &Packet, now: Time) -> bool {
        let now = ticks(now);
        let set = self.set(key);
        let rank = |entry: &Entry| match entry.owner.load(Relaxed) {
            EMPTY => (true, true, u32::MAX),
            _ => Progress::read(entry.progress.load(Relaxed)).rank(now),
        };
        let known = set.iter().find(|entry| entry.owner.load(Relaxed) >> 16 == tag(key));
        let Some(entry) = known.or_else(|| set.iter().max_by_key(|entry| rank(entry))) else { return false };
        let (expired, complete, _) = rank(entry);
        let evicts = known.is_none() && !expired && !complete;
        entry.owner.store(tag(key) << 16 | u64::from(backend), Relaxed);
        entry.progress.store(Progress { since: now, seen: 0, total: 0 }.after(packet).word(), Relaxed);
        self.learned.fetch_add(1, Relaxed);
        evicts
    }

    /// How many first fragments were ever learned.
    pub fn learned(&self) -> u64 {
        self.learned.load(Relaxed)
    }

    fn set(&self, key: u64) -> &[Entry] {
        let set = key as usize % (ENTRIES / WAYS) * WAYS;
        &self.entries[set..set + WAYS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::build;
    use guideway_packet::wire::ip::Ip;

    /// A datagram of 108 bytes in three fragments of 40, 40 and 28.
    fn fragments() -> Vec<Packet> {
        let datagram = build::udp("198.51.100.7:2000".parse().unwrap(), "192.0.2.69:69".parse().unwrap(), &[7; 100]);
        let parsed = datagram.fragments(9, 40).into_iter().map(|fragment| Ip::parse(fragment.ethertype(), fragment.bytes()).unwrap());
        parsed
            .map(|ip| Packet {
                l2: 14,
                inner: 14,
                in_gre: false,
                from_remote_site: false,
                from_fleet: false,
                for_local_server: false,
                ttl: 64,
                tos: 0,
                ip,
            })
            .collect()
    }

    /// Keys of one set.
    fn key(n: usize) -> u64 {
        ((n + 1) * (1 << 16) + 5) as u64
    }

    #[test]
    fn it_is_remembered_for_its_time_and_overwritten_by_a_newer_one() {
        let (table, fragments) = (FirstFragments::default(), fragments());
        table.learn(key(9), 3, &fragments[0], Time(0));
        let millisecond = Duration::from_millis(2);
        assert_eq!(table.find(key(9), &fragments[1], Time(0).plus(FRAGMENT_TIMEOUT - millisecond)), Some(3));
        assert_eq!(table.find(key(9), &fragments[1], Time(0).plus(FRAGMENT_TIMEOUT)), None);
        table.learn(key(9), 4, &fragments[0], Time(5));
        assert_eq!(table.find(key(9), &fragments[1], Time(6)), Some(4));
        assert_eq!(table.find(key(8), &fragments[1], Time(6)), None);
        assert_eq!(table.learned(), 2);
    }

    #[test]
    fn a_full_set_forgets_complete_datagrams_first_and_then_the_oldest() {
        let (table, fragments) = (FirstFragments::default(), fragments());
        let at = |n: usize| Time(0).plus(Duration::from_millis(10 * n as u64));
        for n in 0..WAYS {
            table.learn(key(n), 1, &fragments[0], at(n));
        }
        for fragment in &fragments[1..] {
            assert_eq!(table.find(key(5), fragment, at(WAYS)), Some(1));
        }
        assert_eq!(table.find(key(5), &fragments[2], at(WAYS)), Some(1), "a duplicate goes there too");
        assert!(!table.learn(key(WAYS), 2, &fragments[0], at(WAYS)));
        assert_eq!(table.find(key(5), &fragments[1], at(WAYS)), None, "the complete one made room");
        assert!(table.learn(key(WAYS + 1), 2, &fragments[0], at(WAYS + 1)));
        let known = (0..WAYS + 2).filter(|n| table.find(key(*n), &fragments[1], at(WAYS + 1)).is_some());
        assert_eq!(known.collect::<Vec<_>>(), [1, 2, 3, 4, 6, 7, 8, 9], "then the oldest");
    }

    #[test]
    fn a_complete_datagram_is_forgotten_soon() {
        let (table, fragments) = (FirstFragments::default(), fragments());
        table.learn(key(1), 1, &fragments[0], Time(0));
        assert!(fragments[1..].iter().rev().all(|fragment| table.find(key(1), fragment, Time(1)) == Some(1)));
        assert_eq!(table.find(key(1), &fragments[1], Time(0).plus(COMPLETE_TIMEOUT / 2)), Some(1));
        assert_eq!(table.find(key(1), &fragments[1], Time(0).plus(COMPLETE_TIMEOUT)), None);
    }
}
