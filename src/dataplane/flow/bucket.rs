//! One bucket of the flow table: six entries in one cache line.
//!
//! One thread writes: the owner of the table. Other workers may read a bucket with [`Bucket::find_shared`] meanwhile, so every field is atomic. Nothing is ordered: on
//! common machines each access is an ordinary one.

use super::intrinsics;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering::Relaxed};

/// Entries in a bucket.
pub(super) const WAYS: usize = 6;
const ALL: u8 = (1 << WAYS) - 1;
/// How many entries of one home may live elsewhere. Two or three are usual in a full table.
const MAX_SPILLED: u8 = 31;
/// A deadline further off than this is one that has passed: the clock of deadlines wraps at 65,536 s.
pub(super) const MAX_IDLE: u16 = 43_200;

/// Six entries and what is known of each. An entry's deadline is the last second in which it is alive, on a clock that wraps.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    tag_low: [AtomicU32; WAYS],
    /// The upper bits of the tags, the backends, the deadlines, six each. In one array, so that the first six, and the last, can be read at once with two
    /// of their neighbours.
    words: [AtomicU16; 3 * WAYS],
    /// Bit set of the entries that are in use.
    used: AtomicU8,
    /// Bit set of the entries seen once.
    probation: AtomicU8,
    /// Bit set of the entries whose home is another bucket.
    away: AtomicU8,
    /// Low 5 bits: how many entries whose home is here are away. High 3 bits: whose turn it is to leave when newcomers replace newcomers.
    spilled_and_hand: AtomicU8,
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

/// An entry, out of its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub tag: u64,
    pub backend: u16,
    pub deadline: u16,
    pub probation: bool,
    pub away: bool,
}

/// The last second in which a flow seen in `second` is alive.
#[inline]
pub(super) fn deadline(second: u16, idle: u16) -> u16 {
    second.wrapping_add(idle.min(MAX_IDLE))
}

/// Whether an entry with this deadline is still alive in second `now` of the wrapped clock.
#[inline]
pub(super) fn alive(deadline: u16, now: u16) -> bool {
    deadline.wrapping_sub(now) <= MAX_IDLE
}

impl Bucket {
    /// The way that holds the tag of `hash`, dead or alive; only for the owner. All ways are compared at once by the upper bits, as which one it is cannot be
    /// predicted; the lower bits then only confirm it.
    #[inline]
    pub fn find(&self, hash: u64) -> Option<usize> {
        let mut hits =
            intrinsics::equal(&intrinsics::owned(self.words.first_chunk()?), (hash >> 32) as u16) & intrinsics::owned(&self.used) & ALL;
        let tag_low = intrinsics::owned(&self.tag_low);
        while let Some(way) = first(hits) {
            if tag_low[way] == hash as u32 {
                return Some(way);
            }
            hits &= hits - 1;
        }
        None
    }

    /// The same for a thread that is not the owner.
    pub fn find_shared(&self, tag: u64) -> Option<usize> {
        self.used().find(|way| self.tag(*way) == tag)
    }

    /// A way that is free, or whose entry is dead.
    #[inline]
    pub fn vacant(&self, now: u16) -> Option<usize> {
        let spent = intrinsics::beyond(&intrinsics::owned(self.words.last_chunk()?), now, MAX_IDLE) >> (intrinsics::WIDTH - WAYS);
        first(!self.used.load(Relaxed) & ALL).or(first(spent))
    }

    #[inline]
    pub fn is_used(&self, way: usize) -> bool {
        self.used.load(Relaxed) >> way & 1 == 1
    }

    #[inline]
    pub fn backend(&self, way: usize) -> u16 {
        self.words[WAYS + way].load(Relaxed)
    }

    #[inline]
    pub fn deadline(&self, way: usize) -> u16 {
        self.words[2 * WAYS + way].load(Relaxed)
    }

    #[inline]
    pub fn is_away(&self, way: usize) -> bool {
        self.away.load(Relaxed) >> way & 1 == 1
    }

    #[inline]
    pub fn on_probation(&self, way: usize) -> bool {
        self.probation.load(Relaxed) >> way & 1 == 1
    }

    /// The flow was seen again. Writes nothing that does not change, so that a busy bucket stays clean for most of each second.
    #[inline]
    pub fn refresh(&self, way: usize, deadline: u16) {
        if self.deadline(way) != deadline {
            self.words[2 * WAYS + way].store(deadline, Relaxed);
        }
        if self.on_probation(way) {
            change(&self.probation, |probation| probation & !(1 << way));
        }
    }

    /// A packet of the flow in this way, in `second`: its backend, if the flow is still alive.
    #[inline(always)]
    pub fn touch(&self, way: usize, second: u16, idle: u16) -> Option<u16> {
        let until = deadline(second, idle);
        // Of a busy flow nearly every packet finds the deadline that it would set.
        if self.deadline(way) != until {
            if !alive(self.deadline(way), second) {
                return None;
            }
            self.words[2 * WAYS + way].store(until, Relaxed);
        }
        if self.on_probation(way) {
            self.establish(way);
        }
        Some(self.backend(way))
    }

    /// Once for each flow: out of the way of all its other packets.
    #[cold]
    #[inline(never)]
    fn establish(&self, way: usize) {
        change(&self.probation, |probation| probation & !(1 << way));
    }

    pub fn set_backend(&self, way: usize, backend: u16) {
        self.words[WAYS + way].store(backend, Relaxed);
    }

    pub fn entry(&self, way: usize) -> Entry {
        Entry {
            tag: self.tag(way),
            backend: self.backend(way),
            deadline: self.deadline(way),
            probation: self.on_probation(way),
            away: self.is_away(way),
        }
    }

    fn tag(&self, way: usize) -> u64 {
        u64::from(self.tag_low[way].load(Relaxed)) | u64::from(self.words[way].load(Relaxed)) << 32
    }

    /// Fills a way that is free.
    pub fn put(&self, way: usize, entry: Entry) {
        self.tag_low[way].store(entry.tag as u32, Relaxed);
        self.words[way].store((entry.tag >> 32) as u16, Relaxed);
        self.set_backend(way, entry.backend);
        self.words[2 * WAYS + way].store(entry.deadline, Relaxed);
        change(&self.used, |used| used | 1 << way);
        change(&self.probation, |probation| probation & !(1 << way) | u8::from(entry.probation) << way);
        change(&self.away, |away| away & !(1 << way) | u8::from(entry.away) << way);
    }

    /// Frees a way.
    pub fn clear(&self, way: usize) {
        let keep = !(1 << way);
        [&self.used, &self.probation, &self.away].into_iter().for_each(|bits| change(bits, |bits| bits & keep));
    }

    /// The entry on probation whose turn it is to leave. The turn goes round the bucket, so newcomers leave in the order in which they came, whatever
    /// their idle timeouts: by deadline, a flood at a service that remembers for hours would push out all newcomers of one that remembers for seconds.
    pub fn victim(&self) -> Option<usize> {
        let hand = usize::from(self.spilled_and_hand.load(Relaxed) >> 5);
        let way = (hand..WAYS).chain(0..hand).find(|&way| self.on_probation(way))?;
        change(&self.spilled_and_hand, |both| both & MAX_SPILLED | (((way + 1) % WAYS) as u8) << 5);
        Some(way)
    }

    /// Whether entries whose home is here may live elsewhere. Most lookups of unknown flows end here with no.
    #[inline]
    pub fn has_spilled(&self) -> bool {
        self.spilled() != 0
    }

    /// How many entries whose home is here live elsewhere.
    #[inline]
    pub fn spilled(&self) -> u8 {
        self.spilled_and_hand.load(Relaxed) & MAX_SPILLED
    }

    /// Whether one more may.
    pub fn may_spill(&self) -> bool {
        self.spilled() < MAX_SPILLED
    }

    /// One more entry whose home is here lives elsewhere; only after [`Bucket::may_spill`].
    pub fn spill(&self) {
        change(&self.spilled_and_hand, |both| both + 1);
    }

    /// One fewer.
    pub fn unspill(&self) {
        if self.has_spilled() {
            change(&self.spilled_and_hand, |both| both - 1);
        }
    }

    /// The ways in use.
    pub fn used(&self) -> impl Iterator<Item = usize> + use<> {
        let used = self.used.load(Relaxed);
        (0..WAYS).filter(move |way| used >> way & 1 == 1)
    }
}

#[inline]
fn first(bits: u8) -> Option<usize> {
    if bits == 0 { None } else { Some(bits.trailing_zeros() as usize) }
}

/// Only the owner writes, so that reading and writing need not be one step.
#[inline(always)]
fn change(byte: &AtomicU8, to: impl FnOnce(u8) -> u8) {
    byte.store(to(byte.load(Relaxed)), Relaxed);
}
