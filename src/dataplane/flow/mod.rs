//! The flow table: which backend a flow went to, so that it goes there again after the pool has changed. One per worker, in memory of a fixed size.
//!
//! **Shape.** Buckets of 64 bytes, each with six entries of 10 bytes (48-bit tag, backend, deadline in seconds) and 4 bytes about them. A hash has a home bucket (its
//! upper bits) and one other bucket (computed from home and tag, and back again, so an entry can move without its hash). An entry lives at home if there is
//! room, else in the other bucket, else one of the entries at home moves to its other bucket. Home counts how many of its entries are away: mostly none, and then a
//! lookup touches one bucket only. That fills 85 % of the entries, and more, at 12.5 bytes a flow.
//!
//! **False matches.** The tag is the lower 48 bits of the hash, and the buckets come from the upper ones. A flow that is not in the table is compared with at most 12
//! tags, so it takes another's backend with a probability of at most 12 · 2^-48, less than 1 in 2·10^13; in tables of more than 2^16 buckets only if two hashes share
//! practically all 64 bits. The hash is keyed, so no client can choose such flows.
//!
//! **Time.** An entry holds its deadline, not when it was last seen: whether it may be replaced is then decided by its own service's idle timeout, not by that of the
//! newcomer. Deadlines are 16 bits of seconds, which wrap after 18.2 hours, and idle timeouts end at 12 hours; a sweep that this table drives by itself visits
//! every bucket at least once an hour, so no deadline gets old enough to look young again. A flow is alive in the second of its last packet and
//! in `idle` seconds after it. An idle timeout that changes holds for a flow from its next packet on.
//!
//! **Floods.** A flow is on probation until it is seen again. In two full buckets a newcomer replaces an expired entry, else the oldest on probation, else it is not
//! remembered: established flows are never pushed out.

mod bucket;
mod clock;
mod intrinsics;
mod peers;
mod place;
#[cfg(test)]
mod tests;

use bucket::{Bucket, Entry, WAYS, alive, deadline};
use clock::Clock;
use guideway_packet::time::Time;
use place::{TAG, other, scale};
use std::sync::Arc;

pub use peers::Peers;

/// The longest idle timeout, in seconds: 12 hours. Longer ones are taken for this one.
pub const MAX_IDLE: u16 = bucket::MAX_IDLE;
/// Maximum number of flows of a table. A larger request gets this.
pub const MAX_FLOWS: usize = 1 << 31;
/// The part of its entries, in percent, up to which a table is meant to be filled.
const LOAD: usize = 85;
/// Above this part of used entries, in percent, there is hardly a bucket with room to move an entry to; not looking keeps newcomers cheap in a flood.
const CROWDED: usize = 95;
/// The table's own sweep visits every bucket once in this many seconds.
const SWEEP_PERIOD: u64 = 2048;

/// What [`FlowTable::insert`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The flow was not known, and now is.
    New,
    /// The flow was known with another backend, which is replaced.
    Changed,
    /// The flow was known with this backend.
    Same,
    /// Not remembered: both buckets are full of established flows. Never an error; the flow goes where its hash says.
    NoRoom,
}

/// A flow as the table remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// The backend's number.
    pub backend: u16,
    /// Whole seconds until it is forgotten if no packet comes.
    pub remaining: u16,
    /// Whether it was seen only once.
    pub probation: bool,
}

/// How full a table is, by a look at every entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Flows that are alive.
    pub alive: usize,
    /// Those of them on probation.
    pub probation: usize,
    /// Those of them that do not live in their home bucket.
    pub away: usize,
    /// Entries of expired flows that were not replaced yet.
    pub expired: usize,
}

/// What a table did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Flows remembered.
    pub inserted: u64,
    /// Flows on probation that had to leave for others.
    pub evicted: u64,
    /// Flows not remembered for want of room.
    pub refused: u64,
    /// Entries forgotten after their idle timeout.
    pub expired: u64,
}

/// The table. See the module.
pub struct FlowTable {
    buckets: Arc<[Bucket]>,
    clock: Clock,
    /// The bucket that the sweep visits next.
    sweep: usize,
    used: usize,
    statistics: Statistics,
    /// Which of its director's workers has it, and the tables of all.
    peers: Option<(usize, Arc<Peers>)>,
}

impl std::fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FlowTable({} of {} entries used)", self.used, self.buckets.len() * WAYS)
    }
}

impl FlowTable {
    /// A table with room for `flows` flows (at most [`MAX_FLOWS`]) at 85 % of its entries. All its memory is taken, and touched, here.
    pub fn new(flows: usize) -> FlowTable {
        let entries = flows.clamp(8 * WAYS, MAX_FLOWS).saturating_mul(100).div_ceil(LOAD);
        let count = entries.div_ceil(WAYS);
        FlowTable {
            buckets: intrinsics::shared_slice(count),
            clock: Clock::default(),
            sweep: 0,
            used: 0,
            statistics: Statistics::default(),
            peers: None,
        }
    }

    /// Makes it the table of `worker`, and lets the others of `peers` read it. Once, before the first flow.
    pub fn join(&mut self, worker: usize, peers: &Arc<Peers>) {
        peers.join(worker, &self.buckets);
        self.peers = Some((worker, peers.clone()));
    }

    /// Asks for the memory in which `hash` would be found. Worth it when some ten other hashes are handled before the lookup.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        intrinsics::prefetch(self.buckets.as_ptr().wrapping_add(self.home(hash)));
    }

    /// The same for the other memory in which a flow may be: worth it, too, when many flows are new, as each of them looks there.
    #[inline]
    pub fn prefetch_other(&self, hash: u64) {
        intrinsics::prefetch(self.buckets.as_ptr().wrapping_add(self.other(self.home(hash), hash & TAG)));
    }

    /// The backend of the flow with `hash`, if it is known and alive. It then stays for another `idle` seconds, and is no longer on probation.
    #[inline(always)]
    pub fn lookup(&mut self, hash: u64, now: Time, idle: u16) -> Option<u16> {
        self.advance(now);
        let second = self.clock.wrapped();
        let home = self.home(hash);
        let bucket = &self.buckets[home];
        match bucket.find(hash) {
            Some(way) => bucket.touch(way, second, idle),
            None if bucket.has_spilled() => self.lookup_other(home, hash, second, idle),
            None => None,
        }
    }

    #[inline(always)]
    fn lookup_other(&self, home: usize, hash: u64, second: u16, idle: u16) -> Option<u16> {
        let bucket = &self.buckets[self.other(home, hash & TAG)];
        bucket.touch(bucket.find(hash)?, second, idle)
    }

    /// Remembers that the flow with `hash` goes to `backend`, for `idle` seconds. A flow that is known is seen again, and takes the new backend.
    pub fn insert(&mut self, hash: u64, backend: u16, now: Time, idle: u16) -> Inserted {
        self.advance(now);
        let second = self.clock.wrapped();
        let entry = Entry { tag: hash & TAG, backend, deadline: deadline(second, idle), probation: true, away: false };
        if let Some((at, way)) = self.find(hash) {
            if alive(self.buckets[at].deadline(way), second) {
                return self.update(at, way, entry);
            }
            self.remove(at, way);
            self.statistics.expired += 1;
        }
        let home = self.home(hash);
        if self.place_new(home, entry, second) {
            self.statistics.inserted += 1;
            return Inserted::New;
        }
        self.statistics.refused += 1;
        Inserted::NoRoom
    }

    /// What is remembered of the flow with `hash`; changes nothing.
    pub fn peek(&self, hash: u64, now: Time) -> Option<FlowRecord> {
        let (at, way) = self.find(hash)?;
        let bucket = &self.buckets[at];
        let left = self.left(bucket.deadline(way), self.clock.at(now))?;
        Some(FlowRecord { backend: bucket.backend(way), remaining: left, probation: bucket.on_probation(way) })
    }

    /// Takes over what other workers remember of the flow with `hash`, for the time that it has left there, unless this table's own record is as fresh. For packets
    /// that may come to another worker than their flow.
    #[cold]
    pub fn adopt(&mut self, hash: u64, now: Time) {
        let own = self.peek(hash, now);
        let found = self.peers.as_ref().and_then(|(worker, peers)| peers.find(*worker, hash, now));
        if let Some(found) = found.filter(|found| own.is_none_or(|own| own.remaining < found.remaining)) {
            self.insert(hash, found.backend, now, found.remaining);
        }
    }

    /// Whether a flow that is not known here may have been opened by a fragment at another worker. Then [`FlowTable::adopt`] finds it.
    #[inline]
    pub fn may_be_elsewhere(&self, now: Time) -> bool {
        self.peers.as_ref().is_some_and(|(_, peers)| peers.fragments_alive(now))
    }

    /// A fragment opened a flow here, which lives for another `idle` seconds.
    pub fn fragment_opened(&self, now: Time, idle: u16) {
        if let Some((_, peers)) = &self.peers {
            peers.fragment_opened(now, idle);
        }
    }

    /// Visits the next `buckets` buckets and frees the entries that have expired. The table does this by itself as well, slowly, once a second; call it
    /// with a few buckets per batch to give backend numbers free, and lookups short, sooner.
    pub fn sweep(&mut self, now: Time, buckets: usize) {
        self.advance(now);
        self.visit(buckets.min(self.buckets.len()), 0);
    }

    /// Entries in use, expired ones included that are not freed yet.
    pub fn used(&self) -> usize {
        self.used
    }

    /// How many flows are alive; looks at every entry.
    pub fn len(&self, now: Time) -> usize {
        self.occupancy(now).alive
    }

    /// Looks at every entry.
    pub fn occupancy(&self, now: Time) -> Occupancy {
        let clock = self.clock.at(now);
        let mut seen = Occupancy::default();
        for bucket in &*self.buckets {
            for entry in bucket.used().map(|way| bucket.entry(way)) {
                let lives = self.left(entry.deadline, clock).is_some();
                seen.expired += usize::from(!lives);
                seen.alive += usize::from(lives);
                seen.probation += usize::from(lives && entry.probation);
                seen.away += usize::from(lives && entry.away);
            }
        }
        seen
    }

    /// Flows for which there is room: 85 % of the entries.
    pub fn capacity(&self) -> usize {
        self.buckets.len() * WAYS * LOAD / 100
    }

    /// All memory of the table, in bytes.
    pub fn memory(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    /// What the table did since it was made.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        scale(hash, self.buckets.len())
    }

    /// The other bucket of a flow with `tag` of which one bucket is `at`; the other one's other one is `at` again.
    #[inline]
    fn other(&self, at: usize, tag: u64) -> usize {
        other(at, tag, self.buckets.len())
    }

    /// Bucket and way of the flow with `hash`, dead or alive.
    #[inline]
    fn find(&self, hash: u64) -> Option<(usize, usize)> {
        let (home, tag) = (self.home(hash), hash & TAG);
        let bucket = &self.buckets[home];
        match bucket.find(tag) {
            Some(way) => Some((home, way)),
            None if bucket.has_spilled() => {
                let other = self.other(home, tag);
                Some((other, self.buckets[other].find(tag)?))
            }
            None => None,
        }
    }

    /// A known flow was seen again, and goes to `entry.backend` now.
    fn update(&mut self, at: usize, way: usize, entry: Entry) -> Inserted {
        let bucket = &self.buckets[at];
        bucket.refresh(way, entry.deadline);
        let was = bucket.backend(way);
        if was == entry.backend {
            return Inserted::Same;
        }
        bucket.set_backend(way, entry.backend);
        Inserted::Changed
    }

    /// Finds a place for a new entry: a vacant one at home or in the other bucket, one that an entry at home can be moved out of, one of a flow on probation.
    fn place_new(&mut self, home: usize, entry: Entry, second: u16) -> bool {
        if let Some(way) = self.buckets[home].vacant(second) {
            self.place(home, way, entry);
            return true;
        }
        let other = self.other(home, entry.tag);
        let may_spill = self.buckets[home].may_spill();
        if may_spill && let Some(way) = self.buckets[other].vacant(second) {
            self.place(other, way, Entry { away: true, ..entry });
            return true;
        }
        if self.used * 100 < self.buckets.len() * WAYS * CROWDED
            && let Some(way) = self.relocate_entry(home, second)
        {
            self.place(home, way, entry);
            return true;
        }
        let victim = match self.buckets[home].victim() {
            Some(way) => Some((home, way)),
            None if may_spill => self.buckets[other].victim().map(|way| (other, way)),
            None => None,
        };
        let Some((at, way)) = victim else { return false };
        self.remove(at, way);
        self.statistics.evicted += 1;
        // Removing an entry whose home is this bucket has taken one off the count of its spilled entries, never added one: the room found above is still there.
        self.place(at, way, Entry { away: at != home, ..entry });
        true
    }

    /// Moves one of the entries in the full bucket `at` to its other bucket, and says which way is free now.
    fn relocate_entry(&mut self, at: usize, second: u16) -> Option<usize> {
        for way in 0..WAYS {
            let entry = self.buckets[at].entry(way);
            let to = self.other(at, entry.tag);
            if to == at || !entry.away && !self.buckets[at].may_spill() {
                continue;
            }
            if let Some(vacant) = self.buckets[to].vacant(second) {
                self.remove(at, way);
                self.place(to, vacant, Entry { away: !entry.away, ..entry });
                return Some(way);
            }
        }
        None
    }

    /// Puts `entry` into a vacant way, out of which an expired entry goes first.
    #[inline(always)]
    fn place(&mut self, at: usize, way: usize, entry: Entry) {
        if self.buckets[at].is_used(way) {
            self.remove(at, way);
            self.statistics.expired += 1;
        }
        self.buckets[at].put(way, entry);
        if entry.away {
            let home = self.other(at, entry.tag);
            self.buckets[home].spill();
        }
        self.used += 1;
    }

    /// Frees a way in use.
    #[inline(always)]
    fn remove(&mut self, at: usize, way: usize) {
        let entry = self.buckets[at].entry(way);
        self.buckets[at].clear(way);
        if entry.away {
            let home = self.other(at, entry.tag);
            self.buckets[home].unspill();
        }
        self.used -= 1;
    }

    /// Sets the clock. Within one second, that is nothing.
    #[inline]
    fn advance(&mut self, now: Time) {
        if !self.clock.is_at(now) {
            self.advance_clock(now);
        }
    }

    /// The clock goes on. The sweep goes with it, a part of the buckets for each second; when more time than a lap passes without a call, it visits all
    /// buckets by the clock as it was, on which no deadline is ambiguous.
    #[cold]
    fn advance_clock(&mut self, now: Time) {
        let next = self.clock.at(now);
        let passed = next.second() - self.clock.second();
        let count = self.buckets.len() as u64;
        let due = if passed >= SWEEP_PERIOD { count } else { (count * passed).div_ceil(SWEEP_PERIOD) };
        self.visit(due as usize, passed);
        self.clock = next;
        if let Some((worker, peers)) = &self.peers {
            peers.set_epoch(*worker, now.seconds().wrapping_sub(next.second()));
        }
    }

    /// Frees what has expired in the next `count` buckets, as of `passed` seconds after the table's clock.
    fn visit(&mut self, count: usize, passed: u64) {
        let clock = self.clock.wrapped();
        for _ in 0..count {
            let at = self.sweep;
            self.sweep = if at + 1 == self.buckets.len() { 0 } else { at + 1 };
            for way in self.buckets[at].used() {
                let deadline = self.buckets[at].deadline(way);
                if !alive(deadline, clock) || u64::from(deadline.wrapping_sub(clock)) < passed {
                    self.remove(at, way);
                    self.statistics.expired += 1;
                }
            }
        }
    }

    /// Seconds until `deadline`, at a time that the table's own clock may not have reached; `None` if it has passed.
    fn left(&self, deadline: u16, at: Clock) -> Option<u16> {
        let now = self.clock.wrapped();
        let left = alive(deadline, now).then(|| deadline.wrapping_sub(now))?;
        u64::from(left).checked_sub(at.second() - self.clock.second()).and_then(|left| u16::try_from(left).ok())
    }
}
