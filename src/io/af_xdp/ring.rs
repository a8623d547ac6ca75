//! Fence for a ring with one producer and one consumer in memory shared with the kernel.
//!
//! Two counters of 32 bits run on for ever and wrap; an entry's place is its counter modulo the size, a power of two. What the other side
//! writes is not trusted: a counter that would mean more entries than there are places makes the ring broken, in release builds too.
#![allow(unsafe_code)]

use guideway_sys::Mapping;
use std::io::{Error, ErrorKind, Result};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a ring may carry.
///
/// # Safety
/// Every bit pattern must be a valid value.
pub unsafe trait Entry: Copy {}
// SAFETY: an integer.
unsafe impl Entry for u64 {}
// SAFETY: three integers.
unsafe impl Entry for libc::xdp_desc {}

/// Where the parts of a ring stand in its mapping, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The counter of entries produced.
    pub producer: u64,
    /// The counter of entries consumed.
    pub consumer: u64,
    /// The flags.
    pub flags: u64,
    /// The entries.
    pub entries: u64,
}

impl From<libc::xdp_ring_offset> for Layout {
    fn from(offset: libc::xdp_ring_offset) -> Layout {
        Layout { producer: offset.producer, consumer: offset.consumer, flags: offset.flags, entries: offset.desc }
    }
}

impl Layout {
    /// Bytes of a mapping with so many entries of `T`.
    pub fn len<T>(&self, size: u32) -> usize {
        usize::try_from(self.entries).unwrap_or(usize::MAX).saturating_add(size as usize * size_of::<T>())
    }
}

#[derive(Debug)]
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _map: Arc<Mapping>,
    _entry: PhantomData<T>,
}

// SAFETY: the pointers lead into the mapping, which is held; one value has one user.
unsafe impl<T: Entry> Send for Shared<T> {}

impl<T: Entry> Shared<T> {
    fn new(map: Arc<Mapping>, layout: Layout, size: u32) -> Result<Shared<T>> {
        let invalid = || Error::new(ErrorKind::InvalidData, "the kernel describes a ring that does not fit its mapping");
        let at = |offset: u64, len: usize, align: usize| {
            let offset = usize::try_from(offset).ok().filter(|o| o.is_multiple_of(align)).ok_or_else(invalid)?;
            offset.checked_add(len).filter(|end| *end <= map.len()).ok_or_else(invalid)?;
            // SAFETY: the offset lies within the mapping.
            Ok::<_, Error>(unsafe { map.start().add(offset) })
        };
        if !size.is_power_of_two() || size > 1 << 30 {
            return Err(invalid());
        }
        let producer = at(layout.producer, 4, 4)?.cast();
        let consumer = at(layout.consumer, 4, 4)?.cast();
        let flags = at(layout.flags, 4, 4)?.cast();
        let entries = at(layout.entries, size as usize * size_of::<T>(), align_of::<T>())?.cast();
        Ok(Shared { producer, consumer, flags, entries, size, _map: map, _entry: PhantomData })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, aligned, checked in `new`; both sides use it as an atomic word.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }
    }

    fn entry(&self, counter: u32) -> *mut T {
        // SAFETY: masked to below `size`, for which `new` has checked the room.
        unsafe { self.entries.as_ptr().add((counter & (self.size - 1)) as usize) }
    }
}

fn broken() -> Error {
    Error::new(ErrorKind::InvalidData, "a ring shared with the kernel has counters that cannot be")
}

/// Our end of a ring that we fill.
#[derive(Debug)]
pub struct Producer<T> {
    shared: Shared<T>,
    /// Ours to count; what is published may lag behind.
    next: u32,
}

impl<T: Entry> Producer<T> {
    /// Takes the producer's end of a ring.
    pub fn new(map: Arc<Mapping>, layout: Layout, size: u32) -> Result<Producer<T>> {
        let shared = Shared::new(map, layout, size)?;
        let next = shared.producer().load(Ordering::Relaxed);
        Ok(Producer { shared, next })
    }

    /// Entries that the other side has not consumed yet, those not published included.
    pub fn pending(&self) -> Result<u32> {
        let pending = self.next.wrapping_sub(self.shared.consumer().load(Ordering::Acquire));
        if pending > self.shared.size { Err(broken()) } else { Ok(pending) }
    }

    /// Returns how many more entries fit.
    pub fn room(&self) -> Result<u32> {
        Ok(self.shared.size - self.pending()?)
    }

    /// Adds an entry. The caller must not add more than [`Self::room`] returned.
    pub fn push(&mut self, entry: T) {
        // SAFETY: the place is within the ring; the other side does not read it before `publish`.
        unsafe { self.shared.entry(self.next).write_volatile(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the other side everything added.
    pub fn publish(&mut self) {
        self.shared.producer().store(self.next, Ordering::Release);
    }

    /// Whether the kernel asks to be woken by a system call.
    pub fn needs_wakeup(&self) -> bool {
        self.shared.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// Our end of a ring that the kernel fills.
#[derive(Debug)]
pub struct Consumer<T> {
    shared: Shared<T>,
    next: u32,
}

impl<T: Entry> Consumer<T> {
    /// Takes the consumer's end of a ring.
    pub fn new(map: Arc<Mapping>, layout: Layout, size: u32) -> Result<Consumer<T>> {
        let shared = Shared::new(map, layout, size)?;
        let next = shared.consumer().load(Ordering::Relaxed);
        Ok(Consumer { shared, next })
    }

    /// How many entries are there.
    pub fn ready(&self) -> Result<u32> {
        let ready = self.shared.producer().load(Ordering::Acquire).wrapping_sub(self.next);
        if ready > self.shared.size { Err(broken()) } else { Ok(ready) }
    }

    /// Takes the next entry. Only within what `ready` said.
    pub fn pop(&mut self) -> T {
        // SAFETY: the place is within the ring; any bytes make an entry; the other side does not write it before `release`.
        let entry = unsafe { self.shared.entry(self.next).read_volatile() };
        self.next = self.next.wrapping_add(1);
        entry
    }

    /// Gives the places of everything taken back.
    pub fn release(&mut self) {
        self.shared.consumer().store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const LAYOUT: Layout = Layout { producer: 0, consumer: 64, flags: 128, entries: 192 };

    /// Both ends of one ring of `size` entries whose counters start at `start`.
    fn both(size: u32, start: u32) -> (Producer<u64>, Consumer<u64>) {
        let map = Arc::new(Mapping::anonymous(LAYOUT.len::<u64>(size)).unwrap());
        let shared = Shared::<u64>::new(map.clone(), LAYOUT, size).unwrap();
        shared.producer().store(start, Ordering::Relaxed);
        shared.consumer().store(start, Ordering::Relaxed);
        (Producer::new(map.clone(), LAYOUT, size).unwrap(), Consumer::new(map, LAYOUT, size).unwrap())
    }

    proptest! {
        #[test]
        fn a_ring_is_a_queue_also_where_its_counters_wrap(before in 0u32..40, steps in prop::collection::vec((0u32..12, 0u32..12), 1..40)) {
            let (mut producer, mut consumer) = both(8, u32::MAX - before);
            let mut plain = VecDeque::new();
            let mut value = 0u64;
            for (add, take) in steps {
                prop_assert_eq!(producer.room().unwrap() as usize, 8 - plain.len());
                for _ in 0..add.min(producer.room().unwrap()) {
                    producer.push(value);
                    plain.push_back(value);
                    value += 1;
                }
                producer.publish();
                prop_assert_eq!(consumer.ready().unwrap() as usize, plain.len());
                for _ in 0..take.min(consumer.ready().unwrap()) {
                    prop_assert_eq!(Some(consumer.pop()), plain.pop_front());
                }
                consumer.release();
            }
        }

        #[test]
        fn counters_that_cannot_be_are_refused(start: u32, jump in 9u32..) {
            let (producer, consumer) = both(8, start);
            consumer.shared.producer().store(start.wrapping_add(jump), Ordering::Relaxed);
            prop_assert!(consumer.ready().is_err());
            producer.shared.consumer().store(start.wrapping_sub(jump), Ordering::Relaxed);
            prop_assert!(producer.room().is_err());
        }
    }

    #[test]
    fn two_threads_pass_every_entry_once_and_in_order() {
        let (mut producer, mut consumer) = both(64, u32::MAX - 5000);
        const COUNT: u64 = 20_000;
        let sender = std::thread::spawn(move || {
            let mut next = 0;
            while next < COUNT {
                for _ in 0..producer.room().unwrap().min(u32::try_from(COUNT - next).unwrap()) {
                    producer.push(next);
                    next += 1;
                }
                producer.publish();
                std::thread::yield_now();
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            for _ in 0..consumer.ready().unwrap() {
                assert_eq!(consumer.pop(), expected);
                expected += 1;
            }
            consumer.release();
            std::thread::yield_now();
        }
        sender.join().unwrap();
    }

    #[test]
    fn a_ring_outside_its_mapping_is_refused() {
        let map = Arc::new(Mapping::anonymous(4096).unwrap());
        for layout in [Layout { entries: 4096 - 56, ..LAYOUT }, Layout { producer: 2, ..LAYOUT }, Layout { flags: u64::MAX - 3, ..LAYOUT }]
        {
            assert!(Consumer::<u64>::new(map.clone(), layout, 8).is_err(), "{layout:?}");
        }
        assert!(Consumer::<u64>::new(map.clone(), LAYOUT, 6).is_err());
        assert!(Consumer::<u64>::new(map, LAYOUT, 8).is_ok());
    }
}
