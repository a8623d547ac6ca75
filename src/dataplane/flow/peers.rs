//! The flow tables of all workers of a director, as the workers read one another's.
//!
//! Fragments and ICMP errors may come by another receive queue than the whole packets of their flow. Their worker then looks for the flow in the tables of the others.
//! It only reads: an entry that its owner replaces at that moment is seen as absent.

use super::bucket::{Bucket, alive};
use super::place::{TAG, other, scale};
use guideway_packet::time::Time;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// The tables of all workers, each in the place of its worker.
#[derive(Debug)]
pub struct Peers {
    tables: Box<[SharedTable]>,
    /// Second until which a flow may be alive that a fragment opened.
    fragments_until: AtomicU64,
}

#[derive(Debug, Default)]
struct SharedTable {
    buckets: OnceLock<Arc<[Bucket]>>,
    /// Second of [`Time`] in which the table's clock began.
    epoch: AtomicU64,
}

/// A flow as another worker remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerRecord {
    pub backend: u16,
    /// Whole seconds until it is forgotten there if no packet comes.
    pub remaining: u16,
}

impl Peers {
    /// Places for this number of workers.
    pub fn new(workers: usize) -> Peers {
        let tables = std::iter::repeat_with(SharedTable::default).take(workers).collect();
        Peers { tables, fragments_until: AtomicU64::new(0) }
    }

    /// Puts the table of `worker` into its place, which is empty.
    pub(super) fn join(&self, worker: usize, buckets: &Arc<[Bucket]>) {
        if let Some(table) = self.tables.get(worker) {
            // Each worker joins once.
            let _taken = table.buckets.set(buckets.clone());
        }
    }

    pub(super) fn set_epoch(&self, worker: usize, epoch: u64) {
        if let Some(table) = self.tables.get(worker) {
            table.epoch.store(epoch, Relaxed);
        }
    }

    /// What workers other than `worker` remember of the flow with `hash`; the freshest record.
    pub(super) fn find(&self, worker: usize, hash: u64, now: Time) -> Option<PeerRecord> {
        let others = self.tables.iter().enumerate().filter(|(at, _)| *at != worker);
        others.filter_map(|(_, table)| table.find(hash, now)).max_by_key(|record| record.remaining)
    }

    /// A fragment opened a flow: its whole packets may come to other workers, which do not know it.
    pub(super) fn fragment_opened(&self, now: Time, idle: u16) {
        self.fragments_until.fetch_max(now.seconds() + u64::from(idle) + 1, Relaxed);
    }

    /// Whether a flow may be alive that a fragment opened.
    pub(super) fn fragments_alive(&self, now: Time) -> bool {
        now.seconds() < self.fragments_until.load(Relaxed)
    }
}

impl SharedTable {
    fn find(&self, hash: u64, now: Time) -> Option<PeerRecord> {
        let buckets = self.buckets.get()?;
        let second = now.seconds().wrapping_sub(self.epoch.load(Relaxed)) as u16;
        let (home, tag) = (scale(hash, buckets.len()), hash & TAG);
        [home, other(home, tag, buckets.len())].into_iter().find_map(|at| {
            let bucket = buckets.get(at)?;
            let way = bucket.find_shared(tag)?;
            let (backend, deadline) = (bucket.backend(way), bucket.deadline(way));
            // Its owner may have given the way to another flow meanwhile.
            let still = bucket.find_shared(tag) == Some(way);
            (still && alive(deadline, second)).then(|| PeerRecord { backend, remaining: deadline.wrapping_sub(second) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::FlowTable;
    use super::*;

    const IDLE: u16 = 60;

    fn hash(n: u64) -> u64 {
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn at(second: u64) -> Time {
        Time(second * 1_000_000_000)
    }

    /// Two tables of different sizes, whose clocks began at different times.
    fn tables() -> [FlowTable; 2] {
        let peers = Arc::new(Peers::new(2));
        let mut tables = [FlowTable::new(1_000), FlowTable::new(3_000)];
        for (worker, table) in tables.iter_mut().enumerate() {
            table.join(worker, &peers);
            table.sweep(at(100 + 7 * worker as u64), 1);
        }
        tables
    }

    #[test]
    fn a_flow_of_another_worker_is_adopted_for_the_time_that_it_has_left() {
        let [mut one, mut two] = tables();
        for n in 0..900 {
            one.insert(hash(n), n as u16, at(110), IDLE);
        }
        let known: Vec<u64> = (0..900).filter(|n| one.peek(hash(*n), at(110)).is_some()).collect();
        assert!(known.len() > 850);
        for n in known {
            two.adopt(hash(n), at(130));
            let adopted = two.peek(hash(n), at(130)).unwrap();
            assert_eq!((adopted.backend, adopted.remaining), (n as u16, IDLE - 20));
        }
        two.adopt(hash(1_000), at(130));
        assert_eq!(two.peek(hash(1_000), at(130)), None, "nobody knows it");
        two.adopt(hash(0), at(171));
        assert_eq!(two.peek(hash(0), at(171)), None, "expired at both");
    }

    #[test]
    fn the_fresher_record_counts() {
        let [mut one, mut two] = tables();
        one.insert(hash(1), 5, at(110), IDLE);
        two.adopt(hash(1), at(111));
        one.insert(hash(1), 6, at(120), IDLE);
        two.adopt(hash(1), at(121));
        assert_eq!(two.peek(hash(1), at(121)).map(|record| record.backend), Some(6), "the flow went elsewhere since");
        two.insert(hash(1), 7, at(130), IDLE);
        two.adopt(hash(1), at(131));
        assert_eq!(two.peek(hash(1), at(131)).map(|record| record.backend), Some(7), "its own is fresher");
    }

    #[test]
    fn new_flows_look_elsewhere_only_while_fragments_opened_some() {
        let [one, two] = tables();
        assert!(!two.may_be_elsewhere(at(110)));
        one.fragment_opened(at(110), IDLE);
        assert!(two.may_be_elsewhere(at(111)) && !two.may_be_elsewhere(at(171)));
    }
}
