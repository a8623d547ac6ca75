//! The checkpoints of a successor, in bounded memory.
//!
//! Requests from forged addresses make an owner send checkpoints. They cannot make it set `established`, because that requires an answer of the
//! client. So a checkpoint that is not established is on probation: others on probation may evict it, and together they take at most half of the
//! room. An established checkpoint is never evicted; it stays until its transfer ends or it is no longer renewed. The owner sends an established
//! checkpoint when a transfer is a second old. It is complete, so an evicted earlier one does not matter. Hence no flood evicts transfers that are
//! older than a second.

use super::checkpoint::{Checkpoint, Id};
use super::wire::Sequence;
use crate::engine::index_list::IndexList;
use guideway_packet::time::Time;
use std::collections::HashMap;
use std::time::Duration;

/// Lifetime of a checkpoint without renewal: longer than several renewal intervals, and longer than any client waits before it repeats its ACK
/// (curl waits 72 s without a limit for the whole transfer).
pub const TTL: Duration = Duration::from_secs(120);
/// Approximate bytes that the tables take for each checkpoint.
const ENTRY_OVERHEAD: usize = 96;

/// Limits of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest number of transfers.
    pub transfers: usize,
    /// Approximate largest number of bytes.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { transfers: 200_000, bytes: 64 << 20 }
    }
}

#[derive(Debug)]
struct Entry {
    checkpoint: Checkpoint,
    sequence: Sequence,
    at: Time,
}

impl Entry {
    fn bytes(&self) -> usize {
        size_of::<Entry>() + ENTRY_OVERHEAD + self.checkpoint.request.len()
    }
}

/// Result of storing a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Whether it is stored.
    pub stored: bool,
    /// Number of checkpoints on probation that were evicted for it.
    pub evicted: u64,
}

/// The checkpoints.
#[derive(Debug)]
pub struct CheckpointStore {
    limits: Limits,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    index: HashMap<Id, u32>,
    /// Checkpoints on probation and established ones, oldest first, and the bytes of each list.
    lists: [IndexList; 2],
    bytes: [usize; 2],
}

impl CheckpointStore {
    /// Creates an empty store.
    pub fn new(limits: Limits) -> CheckpointStore {
        CheckpointStore { limits, slots: Vec::new(), free: Vec::new(), index: HashMap::new(), lists: Default::default(), bytes: [0; 2] }
    }

    /// Stores a checkpoint with its sequence in the sender's stream, in place of an earlier one of the same transfer. The position never moves back: an
    /// owner that was cut off may know less than the server that continued meanwhile. If the checkpoint is not stored, the earlier one is removed, too.
    pub fn put(&mut self, mut checkpoint: Checkpoint, sequence: Sequence, now: Time) -> Stored {
        self.expire(now);
        let mut put = Stored::default();
        if let Some(known) = self.index.get(&checkpoint.id).and_then(|&at| self.slots[at as usize].as_ref()) {
            if known.sequence.token == sequence.token && known.sequence.number > sequence.number {
                // A later checkpoint arrived first.
                return Stored { stored: true, ..put };
            }
            if known.checkpoint.serial == checkpoint.serial {
                checkpoint.acked = checkpoint.acked.max(known.checkpoint.acked);
            }
            self.remove(&checkpoint.id);
        }
        let entry = Entry { checkpoint, sequence, at: now };
        let (bytes, established) = (entry.bytes(), entry.checkpoint.established);
        loop {
            let over = |transfers: usize, used: usize, part: usize| {
                transfers + 1 > self.limits.transfers / part || used + bytes > self.limits.bytes / part
            };
            let full = over(self.len(), self.bytes(), 1);
            if !full && (established || !over(self.lists[0].len(), self.bytes[0], 2)) {
                break;
            }
            let Some(oldest) = self.lists[0].oldest() else { return put };
            self.remove_slot(oldest);
            put.evicted += 1;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.index.insert(entry.checkpoint.id, at);
        self.slots[at as usize] = Some(entry);
        self.lists[usize::from(established)].push(at);
        self.bytes[usize::from(established)] += bytes;
        put.stored = true;
        put
    }

    /// Returns the checkpoint of a transfer.
    pub fn get(&self, id: &Id) -> Option<&Checkpoint> {
        let at = *self.index.get(id)?;
        self.slots.get(at as usize)?.as_ref().map(|entry| &entry.checkpoint)
    }

    /// Removes a transfer.
    pub fn remove(&mut self, id: &Id) {
        if let Some(&at) = self.index.get(id) {
            self.remove_slot(at);
        }
    }

    /// Removes checkpoints that were not renewed.
    pub fn expire(&mut self, now: Time) {
        for list in 0..self.lists.len() {
            while let Some(oldest) = self.lists[list].oldest()
                && self.slots[oldest as usize].as_ref().is_none_or(|entry| now - entry.at > TTL)
            {
                self.remove_slot(oldest);
            }
        }
    }

    /// Returns the number of transfers.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns whether the store is empty.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Returns the approximate number of bytes in use.
    pub fn bytes(&self) -> usize {
        self.bytes[0] + self.bytes[1]
    }

    fn remove_slot(&mut self, at: u32) {
        self.lists.iter_mut().for_each(|list| list.remove(at));
        let Some(entry) = self.slots[at as usize].take() else { return };
        self.bytes[usize::from(entry.checkpoint.established)] -= entry.bytes();
        self.index.remove(&entry.checkpoint.id);
        self.free.push(at);
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::sample;
    use super::*;
    use proptest::prelude::*;

    fn checkpoint(port: u16, established: bool) -> Checkpoint {
        Checkpoint { established, ..sample(port) }
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    fn sequence(number: u64) -> Sequence {
        Sequence { token: 1, number }
    }

    fn store(transfers: usize) -> CheckpointStore {
        CheckpointStore::new(Limits { transfers, bytes: 1 << 20 })
    }

    #[test]
    fn a_flood_of_requests_evicts_nothing_older_than_a_second() {
        let mut store = store(100);
        (0..30).for_each(|port| assert!(store.put(checkpoint(port, true), sequence(u64::from(port)), at(1)).stored));
        let began_in_the_flood = 5000;
        store.put(checkpoint(began_in_the_flood, false), sequence(40), at(2));
        let evicted: u64 = (100..1100).map(|port| store.put(checkpoint(port, false), sequence(u64::from(port)), at(2)).evicted).sum();
        assert_eq!((store.len(), evicted), (80, 951), "half of the room is for checkpoints on probation");
        assert!((0..30).all(|port| store.get(&sample(port).id).is_some()));
        assert!(store.get(&sample(began_in_the_flood).id).is_none());
        assert!(store.put(checkpoint(began_in_the_flood, true), sequence(2000), at(3)).stored, "an established checkpoint is complete");
        assert_eq!(store.get(&sample(began_in_the_flood).id), Some(&checkpoint(began_in_the_flood, true)));
    }

    #[test]
    fn the_acknowledged_position_never_moves_back() {
        let mut store = store(10);
        let (ahead, behind) = (checkpoint(1, true), Checkpoint { acked: 3, ..checkpoint(1, true) });
        store.put(ahead.clone(), sequence(1), at(1));
        store.put(behind.clone(), Sequence { token: 9, number: 1 }, at(2));
        assert_eq!(store.get(&ahead.id).map(|checkpoint| checkpoint.acked), Some(ahead.acked));
        store.put(Checkpoint { serial: 8, ..behind.clone() }, sequence(2), at(3));
        assert_eq!(store.get(&ahead.id).map(|checkpoint| checkpoint.acked), Some(3), "another transfer with that id");
    }

    #[test]
    fn full_of_established_checkpoints_it_refuses_and_expires() {
        let mut store = store(10);
        assert!((0..10).all(|port| store.put(checkpoint(port, true), sequence(u64::from(port)), at(u64::from(port))).stored));
        assert_eq!(store.put(checkpoint(10, true), sequence(20), at(10)), Stored::default());
        assert_eq!(store.put(checkpoint(11, false), sequence(21), at(10)), Stored::default());
        assert!(store.put(checkpoint(0, true), sequence(22), at(100)).stored, "a stored one is renewed");
        assert!(store.put(checkpoint(10, true), sequence(23), at(122)).stored);
        assert_eq!((store.len(), store.get(&sample(1).id)), (10, None));
        store.remove(&sample(10).id);
        store.expire(at(1000));
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn an_overtaken_checkpoint_changes_nothing() {
        let mut store = store(10);
        store.put(Checkpoint { acked: 500, ..checkpoint(1, true) }, sequence(8), at(1));
        assert!(store.put(Checkpoint { acked: 400, ..checkpoint(1, true) }, sequence(7), at(1)).stored);
        assert_eq!(store.get(&sample(1).id).unwrap().acked, 500);
        store.put(Checkpoint { acked: 0, serial: 8, ..checkpoint(1, false) }, Sequence { token: 2, number: 1 }, at(1));
        assert_eq!(store.get(&sample(1).id).unwrap().acked, 0, "another transfer starts at 0");
    }

    proptest! {
        #[test]
        fn the_limits_hold_and_established_checkpoints_stay(
            steps in proptest::collection::vec((0u16..60, any::<bool>(), 0u8..10, 0usize..900), 0..300),
            transfers in 1usize..40,
            bytes in 500usize..40_000,
        ) {
            let mut store = CheckpointStore::new(Limits { transfers, bytes });
            let mut stored = std::collections::HashSet::new();
            for (number, (port, established, kind, len)) in steps.into_iter().enumerate() {
                let mut checkpoint = checkpoint(port, established);
                checkpoint.request = vec![0; len].into();
                let id = checkpoint.id;
                if kind == 0 {
                    store.remove(&id);
                    stored.remove(&id);
                } else {
                    let put = store.put(checkpoint, sequence(number as u64), at(1));
                    stored.remove(&id);
                    if put.stored && established {
                        stored.insert(id);
                    }
                    prop_assert_eq!(store.get(&id).is_some(), put.stored);
                }
                prop_assert!(store.len() <= transfers && store.bytes() <= bytes);
                prop_assert!(store.lists[0].len() <= transfers / 2 && store.bytes[0] <= bytes / 2);
                prop_assert!(stored.iter().all(|id| store.get(id).is_some()));
                let sum: usize = store.slots.iter().flatten().map(Entry::bytes).sum();
                prop_assert_eq!((sum, store.lists[0].len() + store.lists[1].len()), (store.bytes(), store.len()));
            }
        }
    }
}
