//! The notes that an heir keeps, in bounded memory.
//!
//! Anybody can make an owner send notes, by requests from addresses that are not its own; nobody can make it say that the client was heard without
//! hearing the client. So a note without that is on probation: it may be pushed out by others on probation, which together take half of the room at most. A
//! note that says that the client was heard is kept until it ends or is not renewed, and never pushed out. The owner sends such a one when a transfer is
//! a second old, and it holds everything: it does not matter whether the one before is still there. So no flood pushes out what is older than a second.

use super::note::{Id, Note};
use super::wire::Place;
use crate::engine::unheard::Unheard;
use guideway_packet::time::Time;
use std::collections::HashMap;
use std::time::Duration;

/// How long a note is kept that is not renewed: longer than several renewals are apart, and than the most patient client waits before it repeats its ACK.
/// (curl waits 72 s unless it is told how long the whole may take.)
pub const KEPT: Duration = Duration::from_secs(120);
/// Bytes that the tables take for each note, about.
const TABLES: usize = 96;

/// Bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Transfers.
    pub transfers: usize,
    /// Bytes, about.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { transfers: 200_000, bytes: 64 << 20 }
    }
}

#[derive(Debug)]
struct Entry {
    note: Note,
    place: Place,
    at: Time,
}

impl Entry {
    fn bytes(&self) -> usize {
        size_of::<Entry>() + TABLES + self.note.request.len()
    }
}

/// What became of a note.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// Whether it is kept.
    pub kept: bool,
    /// How many on probation made room for it.
    pub evicted: u64,
}

/// The notes.
#[derive(Debug)]
pub struct Memory {
    limits: Limits,
    places: Vec<Option<Entry>>,
    free: Vec<u32>,
    index: HashMap<Id, u32>,
    /// On probation and kept, oldest first, and the bytes of each.
    lists: [Unheard; 2],
    bytes: [usize; 2],
}

impl Memory {
    /// Empty.
    pub fn new(limits: Limits) -> Memory {
        Memory { limits, places: Vec::new(), free: Vec::new(), index: HashMap::new(), lists: Default::default(), bytes: [0; 2] }
    }

    /// Keeps a note that came at a place in its sender's stream, instead of an earlier one of the same transfer. What was known to be acknowledged stays
    /// known: an owner that was cut off may say less than whoever went on meanwhile. A note that is not kept leaves nothing of its transfer behind.
    pub fn put(&mut self, mut note: Note, place: Place, now: Time) -> Put {
        self.expire(now);
        let mut put = Put::default();
        if let Some(known) = self.index.get(&note.id).and_then(|&at| self.places[at as usize].as_ref()) {
            if known.place.token == place.token && known.place.number > place.number {
                // It was overtaken.
                return Put { kept: true, ..put };
            }
            if known.note.serial == note.serial {
                note.acked = note.acked.max(known.note.acked);
            }
            self.remove(&note.id);
        }
        let entry = Entry { note, place, at: now };
        let (bytes, heard) = (entry.bytes(), entry.note.heard);
        loop {
            let over = |transfers: usize, used: usize, part: usize| {
                transfers + 1 > self.limits.transfers / part || used + bytes > self.limits.bytes / part
            };
            let full = over(self.len(), self.bytes(), 1);
            if !full && (heard || !over(self.lists[0].len(), self.bytes[0], 2)) {
                break;
            }
            let Some(oldest) = self.lists[0].oldest() else { return put };
            self.forget(oldest);
            put.evicted += 1;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        self.index.insert(entry.note.id, at);
        self.places[at as usize] = Some(entry);
        self.lists[usize::from(heard)].push(at);
        self.bytes[usize::from(heard)] += bytes;
        put.kept = true;
        put
    }

    /// The note of a transfer.
    pub fn get(&self, id: &Id) -> Option<&Note> {
        let at = *self.index.get(id)?;
        self.places.get(at as usize)?.as_ref().map(|entry| &entry.note)
    }

    /// Forgets a transfer.
    pub fn remove(&mut self, id: &Id) {
        if let Some(&at) = self.index.get(id) {
            self.forget(at);
        }
    }

    /// Forgets what was not renewed.
    pub fn expire(&mut self, now: Time) {
        for list in 0..self.lists.len() {
            while let Some(oldest) = self.lists[list].oldest()
                && self.places[oldest as usize].as_ref().is_none_or(|entry| now - entry.at > KEPT)
            {
                self.forget(oldest);
            }
        }
    }

    /// Transfers that are known.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes that they take, about.
    pub fn bytes(&self) -> usize {
        self.bytes[0] + self.bytes[1]
    }

    fn forget(&mut self, at: u32) {
        self.lists.iter_mut().for_each(|list| list.remove(at));
        let Some(entry) = self.places[at as usize].take() else { return };
        self.bytes[usize::from(entry.note.heard)] -= entry.bytes();
        self.index.remove(&entry.note.id);
        self.free.push(at);
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::sample;
    use super::*;
    use proptest::prelude::*;

    fn note(port: u16, heard: bool) -> Note {
        Note { heard, ..sample(port) }
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    fn place(number: u64) -> Place {
        Place { token: 1, number }
    }

    fn memory(transfers: usize) -> Memory {
        Memory::new(Limits { transfers, bytes: 1 << 20 })
    }

    #[test]
    fn a_flood_of_requests_pushes_out_nothing_that_is_older_than_a_second() {
        let mut memory = memory(100);
        (0..30).for_each(|port| assert!(memory.put(note(port, true), place(u64::from(port)), at(1)).kept));
        let began_in_the_flood = 5000;
        memory.put(note(began_in_the_flood, false), place(40), at(2));
        let evicted: u64 = (100..1100).map(|port| memory.put(note(port, false), place(u64::from(port)), at(2)).evicted).sum();
        assert_eq!((memory.len(), evicted), (80, 951), "half of the room is for those on probation");
        assert!((0..30).all(|port| memory.get(&sample(port).id).is_some()));
        assert!(memory.get(&sample(began_in_the_flood).id).is_none());
        assert!(memory.put(note(began_in_the_flood, true), place(2000), at(3)).kept, "the note that confirms it holds everything");
        assert_eq!(memory.get(&sample(began_in_the_flood).id), Some(&note(began_in_the_flood, true)));
    }

    #[test]
    fn nobody_takes_back_what_was_acknowledged() {
        let mut memory = memory(10);
        let (ahead, behind) = (note(1, true), Note { acked: 3, ..note(1, true) });
        memory.put(ahead.clone(), place(1), at(1));
        memory.put(behind.clone(), Place { token: 9, number: 1 }, at(2));
        assert_eq!(memory.get(&ahead.id).map(|note| note.acked), Some(ahead.acked));
        memory.put(Note { serial: 8, ..behind.clone() }, place(2), at(3));
        assert_eq!(memory.get(&ahead.id).map(|note| note.acked), Some(3), "another transfer of that name");
    }

    #[test]
    fn full_of_those_that_are_kept_it_refuses_and_forgets_what_is_not_renewed() {
        let mut memory = memory(10);
        assert!((0..10).all(|port| memory.put(note(port, true), place(u64::from(port)), at(u64::from(port))).kept));
        assert_eq!(memory.put(note(10, true), place(20), at(10)), Put::default());
        assert_eq!(memory.put(note(11, false), place(21), at(10)), Put::default());
        assert!(memory.put(note(0, true), place(22), at(100)).kept, "one that is known is renewed");
        assert!(memory.put(note(10, true), place(23), at(122)).kept);
        assert_eq!((memory.len(), memory.get(&sample(1).id)), (10, None));
        memory.remove(&sample(10).id);
        memory.expire(at(1000));
        assert_eq!((memory.len(), memory.bytes()), (0, 0));
    }

    #[test]
    fn a_note_that_was_overtaken_changes_nothing() {
        let mut memory = memory(10);
        memory.put(Note { acked: 500, ..note(1, true) }, place(8), at(1));
        assert!(memory.put(Note { acked: 400, ..note(1, true) }, place(7), at(1)).kept);
        assert_eq!(memory.get(&sample(1).id).unwrap().acked, 500);
        memory.put(Note { acked: 0, serial: 8, ..note(1, false) }, Place { token: 2, number: 1 }, at(1));
        assert_eq!(memory.get(&sample(1).id).unwrap().acked, 0, "another transfer counts anew");
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_what_is_kept_stays(
            steps in proptest::collection::vec((0u16..60, any::<bool>(), 0u8..10, 0usize..900), 0..300),
            transfers in 1usize..40,
            bytes in 500usize..40_000,
        ) {
            let mut memory = Memory::new(Limits { transfers, bytes });
            let mut kept = std::collections::HashSet::new();
            for (number, (port, heard, kind, len)) in steps.into_iter().enumerate() {
                let mut note = note(port, heard);
                note.request = vec![0; len].into();
                let id = note.id;
                if kind == 0 {
                    memory.remove(&id);
                    kept.remove(&id);
                } else {
                    let put = memory.put(note, place(number as u64), at(1));
                    kept.remove(&id);
                    if put.kept && heard {
                        kept.insert(id);
                    }
                    prop_assert_eq!(memory.get(&id).is_some(), put.kept);
                }
                prop_assert!(memory.len() <= transfers && memory.bytes() <= bytes);
                prop_assert!(memory.lists[0].len() <= transfers / 2 && memory.bytes[0] <= bytes / 2);
                prop_assert!(kept.iter().all(|id| memory.get(id).is_some()));
                let sum: usize = memory.places.iter().flatten().map(Entry::bytes).sum();
                prop_assert_eq!((sum, memory.lists[0].len() + memory.lists[1].len()), (memory.bytes(), memory.len()));
            }
        }
    }
}
