//! Fence for the kernel's side of the rings: the layout, and what a kernel does with head and tail.
#![allow(unsafe_code)]

use crate::name::Rings;
use std::collections::{HashSet, VecDeque};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

// `struct netmap_if`: name 16 bytes, version, flags, tx rings, rx rings, first extra buffer, host tx rings, host rx rings, 3 spare words, list.
const IF_VERSION: usize = 16;
const IF_TX_RINGS: usize = 24;
const IF_RX_RINGS: usize = 28;
const IF_HOST_TX_RINGS: usize = 36;
const IF_HOST_RX_RINGS: usize = 40;
const IF_LIST: usize = 56;
// `struct netmap_ring`: offset of the buffers 8 bytes, slots, size of a buffer, number 2 bytes, direction 2 bytes, head, cur, tail, flags,
// time 16 bytes, 2 masks of 8 bytes; a semaphore at 128; slots at 256.
const RING_BUFFERS: usize = 0;
const RING_SLOTS: usize = 8;
const RING_BUFFER_SIZE: usize = 12;
const RING_NUMBER: usize = 16;
const RING_DIRECTION: usize = 18;
const RING_HEAD: usize = 20;
const RING_CUR: usize = 24;
const RING_TAIL: usize = 28;
const RING_FLAGS: usize = 32;
const RING_SECONDS: usize = 40;
const RING_FIRST_SLOT: usize = 256;
// `struct netmap_slot`: number of the buffer 4 bytes, length 2, flags 2, pointer 8.
const SLOT: usize = 16;
const CHANGED: u16 = 0x0001;
const FORWARD: u16 = 0x0004;
const MORE: u16 = 0x0020;
const TIMESTAMP: u32 = 0x0002;
const FORWARDING: u32 = 0x0004;

const BUFFER: usize = 2048;
/// Room for one interface structure, and how many ports may be opened one after the other.
const IF_SIZE: usize = 1024;
const IFS: usize = 64;

/// Which rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingKind {
    /// To the wire.
    Tx,
    /// To the host's network stack.
    HostTx,
    /// From the wire.
    Rx,
    /// From the host's network stack.
    HostRx,
}

/// A word of a ring's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingWord {
    /// First slot of the program's.
    Head,
    /// Where it wants to be woken.
    Cur,
    /// First slot of the kernel's.
    Tail,
    /// `NR_…`
    Flags,
}

/// A slot's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotWords {
    /// Number of the buffer.
    pub buffer: u32,
    /// Bytes in it.
    pub len: u16,
    /// `NS_…`
    pub flags: u16,
}

struct Ring {
    side: RingKind,
    number: u16,
    /// Which end of a pipe, else 0.
    end: usize,
    offset: usize,
    /// First slot that the program has not handed over yet.
    taken: u32,
    /// First slot that is not the program's.
    given: u32,
    open: bool,
    /// Frames that wait for room.
    waiting: VecDeque<Vec<u8>>,
}

impl Ring {
    fn transmits(&self) -> bool {
        matches!(self.side, RingKind::Tx | RingKind::HostTx)
    }
}

/// The kernel's books.
pub(super) struct State {
    start: NonNull<u8>,
    rings: Vec<Ring>,
    slots: u32,
    buffers: usize,
    ports: usize,
    pipe: bool,
    pub(super) manual: bool,
    pub(super) tx_stalled: bool,
    pub(super) out: VecDeque<(u16, Vec<u8>)>,
    pub(super) up: VecDeque<Vec<u8>>,
}

// SAFETY: the memory belongs to no thread; the state is behind a lock, and its accesses are those that a kernel may do.
unsafe impl Send for State {}

impl State {
    pub(super) fn interface(pairs: u16, slots: u32) -> State {
        let card = |side| (0..pairs).map(move |number| (side, number, 0));
        let rings = card(RingKind::Tx).chain([(RingKind::HostTx, 0, 0)]).chain(card(RingKind::Rx)).chain([(RingKind::HostRx, 0, 0)]);
        State::new(rings.collect(), slots, false)
    }

    pub(super) fn pipe(slots: u32) -> State {
        State::new(vec![(RingKind::Tx, 0, 0), (RingKind::Rx, 0, 0), (RingKind::Tx, 0, 1), (RingKind::Rx, 0, 1)], slots, true)
    }

    fn new(rings: Vec<(RingKind, u16, usize)>, slots: u32, pipe: bool) -> State {
        let ring_size = (RING_FIRST_SLOT + slots as usize * SLOT).next_multiple_of(128);
        let ring = |(at, (side, number, end)): (usize, (RingKind, u16, usize))| Ring {
            side,
            number,
            end,
            offset: IFS * IF_SIZE + at * ring_size,
            taken: 0,
            given: 0,
            open: false,
            waiting: VecDeque::new(),
        };
        let buffers = (IFS * IF_SIZE + rings.len() * ring_size).next_multiple_of(4096);
        let rings: Vec<Ring> = rings.into_iter().enumerate().map(ring).collect();
        let (out, up) = (VecDeque::new(), VecDeque::new());
        State { start: NonNull::dangling(), rings, slots, buffers, ports: 0, pipe, manual: false, tx_stalled: false, out, up }
    }

    pub(super) fn size(&self) -> usize {
        self.buffers + (2 + self.rings.len() * self.slots as usize) * BUFFER
    }

    /// # Safety
    /// `start` must be valid for reads and writes of `size()` bytes for as long as the state is used, and aligned to a page.
    pub(super) unsafe fn lay_out(&mut self, start: NonNull<u8>) {
        self.start = start;
        let mut buffer = 2;
        for at in 0..self.rings.len() {
            let Ring { offset, number, .. } = self.rings[at];
            let transmits = self.rings[at].transmits();
            self.write(offset + RING_BUFFERS, self.buffers as i64 - offset as i64);
            self.write(offset + RING_SLOTS, self.slots);
            self.write(offset + RING_BUFFER_SIZE, BUFFER as u32);
            self.write(offset + RING_NUMBER, number);
            self.write(offset + RING_DIRECTION, u16::from(transmits));
            for slot in 0..self.slots {
                self.write_slot(offset, slot, SlotWords { buffer, ..SlotWords::default() });
                buffer += 1;
            }
            // All slots but one are the program's to fill, or none has come.
            self.rings[at].given = if transmits { self.slots - 1 } else { 0 };
            self.word(offset + RING_TAIL).store(self.rings[at].given, Ordering::Release);
        }
    }

    fn write<T>(&self, offset: usize, value: T) {
        assert!(offset + size_of::<T>() <= self.size() && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: inside of the memory, aligned, and the kernel's at the time.
        unsafe { self.start.add(offset).cast().write(value) };
    }

    fn read<T: Copy>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= self.size() && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: as above; only integers are read.
        unsafe { self.start.add(offset).cast().read() }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset + 4 <= self.size() && offset.is_multiple_of(4));
        // SAFETY: as above; the words of a header that both sides use are used by atomics on both.
        unsafe { AtomicU32::from_ptr(self.start.add(offset).cast().as_ptr()) }
    }

    fn read_slot(&self, ring: usize, slot: u32) -> SlotWords {
        let at = ring + RING_FIRST_SLOT + slot as usize * SLOT;
        SlotWords { buffer: self.read(at), len: self.read(at + 4), flags: self.read(at + 6) }
    }

    fn write_slot(&self, ring: usize, slot: u32, words: SlotWords) {
        assert!(slot < self.slots);
        let at = ring + RING_FIRST_SLOT + slot as usize * SLOT;
        self.write(at, words.buffer);
        self.write(at + 4, words.len);
        self.write(at + 6, words.flags);
    }

    fn buffer(&self, number: u32, len: usize) -> Vec<u8> {
        assert!(len <= BUFFER, "a frame of {len} bytes was handed over");
        (0..len).map(|at| self.read(self.buffers + number as usize * BUFFER + at)).collect()
    }

    fn next(&self, slot: u32) -> u32 {
        (slot + 1) % self.slots
    }

    pub(super) fn pairs(&self) -> u16 {
        self.rings.iter().filter(|ring| ring.side == RingKind::Tx).count() as u16
    }

    pub(super) fn rings_of_interface(&self, wanted: Rings) -> Option<Vec<usize>> {
        let host = |ring: &Ring| matches!(ring.side, RingKind::HostTx | RingKind::HostRx);
        let is_wanted = |ring: &Ring| match wanted {
            Rings::All => !host(ring),
            Rings::One(number) => !host(ring) && ring.number == number,
            Rings::Host => host(ring),
            Rings::AllAndHost => true,
        };
        (!self.pipe).then(|| (0..self.rings.len()).filter(|at| is_wanted(&self.rings[*at])).collect())
    }

    pub(super) fn rings_of_pipe(&self, end: usize) -> Option<Vec<usize>> {
        self.pipe.then(|| (0..self.rings.len()).filter(|at| self.rings[*at].end == end).collect())
    }

    /// Binds rings to a new interface structure: its offset. `None` when one is in use.
    pub(super) fn bind(&mut self, rings: &[usize]) -> Option<usize> {
        if rings.iter().any(|ring| self.rings[*ring].open) || self.ports == IFS {
            return None;
        }
        let offset = self.ports * IF_SIZE;
        self.ports += 1;
        let end = self.rings[rings[0]].end;
        let all: Vec<usize> = (0..self.rings.len()).filter(|at| self.rings[*at].end == end).collect();
        let count = |side| all.iter().filter(|at| self.rings[**at].side == side).count() as u32;
        for (field, side) in [
            (IF_TX_RINGS, RingKind::Tx),
            (IF_RX_RINGS, RingKind::Rx),
            (IF_HOST_TX_RINGS, RingKind::HostTx),
            (IF_HOST_RX_RINGS, RingKind::HostRx),
        ] {
            self.write(offset + field, count(side));
        }
        self.write(offset + IF_VERSION, 14u32);
        for (place, ring) in all.iter().enumerate() {
            // Those that were not bound have no place.
            let distance = if rings.contains(ring) { self.rings[*ring].offset as i64 - offset as i64 } else { 0 };
            self.write(offset + IF_LIST + place * 8, distance);
        }
        for ring in rings {
            self.rings[*ring].open = true;
        }
        Some(offset)
    }

    pub(super) fn release(&mut self, rings: &[usize]) {
        for ring in rings {
            self.rings[*ring].open = false;
        }
    }

    fn at(&self, side: RingKind, number: u16) -> usize {
        let found = self.rings.iter().position(|ring| ring.side == side && ring.number == number);
        assert!(found.is_some(), "the simulation has no ring {number} of {side:?}");
        found.unwrap_or_default()
    }

    pub(super) fn inject(&mut self, side: RingKind, number: u16, frame: &[u8]) {
        let ring = self.at(side, number);
        self.rings[ring].waiting.push_back(frame.to_vec());
    }

    pub(super) fn step_all(&mut self) {
        for ring in (0..self.rings.len()).filter(|ring| self.rings[*ring].open).collect::<Vec<_>>() {
            let transmits = self.rings[ring].transmits();
            self.step(ring, transmits);
        }
    }

    /// The kernel looks at a ring, if it goes that way.
    pub(super) fn step(&mut self, ring: usize, transmit: bool) {
        match (self.rings[ring].transmits(), transmit) {
            (true, true) => self.step_transmit(ring),
            (false, false) => self.step_receive(ring),
            _ => (),
        }
    }

    fn step_transmit(&mut self, at: usize) {
        let Ring { offset, side, number, end, mut taken, given, .. } = self.rings[at];
        let head = self.head(offset);
        while taken != head {
            let slot = self.read_slot(offset, taken);
            let frame = self.buffer(slot.buffer, usize::from(slot.len));
            if self.pipe {
                let Some(other) = self.rings.iter().position(|ring| ring.side == RingKind::Rx && ring.end != end) else { break };
                let Ring { offset: to, given: theirs, taken: limit, .. } = self.rings[other];
                if self.next(theirs) == limit {
                    break;
                }
                // The ends of a pipe exchange buffers.
                let old = self.read_slot(to, theirs);
                self.write_slot(to, theirs, SlotWords { flags: (slot.flags & MORE) | CHANGED, ..slot });
                self.write_slot(offset, taken, SlotWords { buffer: old.buffer, len: 0, flags: CHANGED });
                self.rings[other].given = self.next(theirs);
            } else if side == RingKind::HostTx {
                self.up.push_back(frame);
            } else {
                self.out.push_back((number, frame));
            }
            taken = self.next(taken);
        }
        let given = if self.tx_stalled { given } else { (taken + self.slots - 1) % self.slots };
        (self.rings[at].taken, self.rings[at].given) = (taken, given);
        self.word(offset + RING_TAIL).store(given, Ordering::Release);
    }

    fn step_receive(&mut self, at: usize) {
        let Ring { offset, mut taken, mut given, .. } = self.rings[at];
        let head = self.head(offset);
        let flags = self.word(offset + RING_FLAGS).load(Ordering::Relaxed);
        while taken != head {
            let slot = self.read_slot(offset, taken);
            if flags & FORWARDING != 0 && slot.flags & FORWARD != 0 {
                let frame = self.buffer(slot.buffer, usize::from(slot.len));
                self.up.push_back(frame);
            }
            taken = self.next(taken);
        }
        while let Some(frame) = self.rings[at].waiting.front() {
            let pieces = frame.len().div_ceil(BUFFER).max(1) as u32;
            let free = (taken + self.slots - 1 - given) % self.slots;
            if pieces > free {
                break;
            }
            let frame = self.rings[at].waiting.pop_front().unwrap_or_default();
            for (n, piece) in (1..).zip(frame.chunks(BUFFER)) {
                let buffer = self.read_slot(offset, given).buffer;
                for (at, byte) in piece.iter().enumerate() {
                    self.write(self.buffers + buffer as usize * BUFFER + at, *byte);
                }
                let flags = if n < pieces { MORE } else { 0 };
                self.write_slot(offset, given, SlotWords { buffer, len: piece.len() as u16, flags });
                given = self.next(given);
            }
        }
        if flags & TIMESTAMP != 0 {
            self.write(offset + RING_SECONDS, 1_700_000_000i64);
            self.write(offset + RING_SECONDS + 8, 250_000i64);
        }
        (self.rings[at].taken, self.rings[at].given) = (taken, given);
        self.word(offset + RING_TAIL).store(given, Ordering::Release);
    }

    /// The program's `head`, which a kernel checks: a program that writes nonsense there fails its test.
    fn head(&self, ring: usize) -> u32 {
        let head = self.word(ring + RING_HEAD).load(Ordering::Acquire);
        let cur = self.word(ring + RING_CUR).load(Ordering::Relaxed);
        assert!(head < self.slots && cur < self.slots, "head {head} and cur {cur} of {} slots", self.slots);
        head
    }

    pub(super) fn ready(&self, rings: &[usize], transmit: bool) -> bool {
        rings.iter().map(|ring| &self.rings[*ring]).filter(|ring| ring.transmits() == transmit).any(|ring| {
            let tail = self.word(ring.offset + RING_TAIL).load(Ordering::Relaxed);
            self.word(ring.offset + RING_HEAD).load(Ordering::Relaxed) != tail
        })
    }

    pub(super) fn anything_to_receive(&self) -> bool {
        let waits = |ring: &&Ring| {
            let head = self.word(ring.offset + RING_HEAD).load(Ordering::Relaxed);
            ring.open && !ring.transmits() && (!ring.waiting.is_empty() || head != ring.given)
        };
        self.rings.iter().any(|ring| waits(&ring))
    }

    fn place(&self, side: RingKind, number: u16, word: RingWord) -> usize {
        let field = match word {
            RingWord::Head => RING_HEAD,
            RingWord::Cur => RING_CUR,
            RingWord::Tail => RING_TAIL,
            RingWord::Flags => RING_FLAGS,
        };
        self.rings[self.at(side, number)].offset + field
    }

    pub(super) fn poke(&mut self, side: RingKind, number: u16, word: RingWord, value: u32) {
        self.word(self.place(side, number, word)).store(value, Ordering::Release);
    }

    /// Has all rings say that their buffers lie at `base`.
    #[cfg(test)]
    pub(super) fn move_buffers(&mut self, base: usize) {
        for ring in &self.rings {
            self.write(ring.offset + RING_BUFFERS, base as i64 - ring.offset as i64);
        }
    }

    /// Where the first ring starts, and where the slots of the last one end.
    #[cfg(test)]
    pub(super) fn span(&self) -> (usize, usize) {
        let ends = self.rings.iter().map(|ring| ring.offset + RING_FIRST_SLOT + self.slots as usize * SLOT);
        (self.rings.iter().map(|ring| ring.offset).min().unwrap_or(0), ends.max().unwrap_or(0))
    }

    pub(super) fn peek(&self, side: RingKind, number: u16, word: RingWord) -> u32 {
        self.word(self.place(side, number, word)).load(Ordering::Acquire)
    }

    pub(super) fn poke_slot(&mut self, side: RingKind, number: u16, slot: u32, words: SlotWords) {
        self.write_slot(self.rings[self.at(side, number)].offset, slot, words);
    }

    pub(super) fn peek_slot(&self, side: RingKind, number: u16, slot: u32) -> SlotWords {
        self.read_slot(self.rings[self.at(side, number)].offset, slot)
    }

    pub(super) fn buffers_are_unique(&self) -> bool {
        let mut seen = HashSet::new();
        let all = self.rings.iter().flat_map(|ring| (0..self.slots).map(|slot| self.read_slot(ring.offset, slot).buffer));
        let count = self.rings.len() * self.slots as usize;
        all.filter(|buffer| (2..2 + count as u32).contains(buffer)).filter(|buffer| seen.insert(*buffer)).count() == count
    }
}
