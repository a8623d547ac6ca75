//! Fence for one ring in shared memory: its header's words and its slots, each read and written once and whole.
//!
//! Nothing is believed: where the ring and its buffers lie was checked against the region once and is kept here, and the words that the kernel may
//! change at any time are handed on as they were read, for the callers to check.
#![allow(unsafe_code)]

use crate::device::Kernel;
use crate::memory::Region;
use netmap_sys::netmap::{netmap_if, netmap_ring, netmap_slot};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What a slot says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Number of its buffer.
    pub(crate) buffer: u32,
    /// Bytes in it.
    pub(crate) len: u16,
    /// `NS_…`
    pub(crate) flags: u16,
}

/// Which way a ring goes, as its header says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Receive.
    Receive = 0,
    /// Transmit. (The comment in netmap's header says the reverse; this is what its kernel writes.)
    Transmit = 1,
}

/// One ring.
pub(crate) struct RawRing {
    header: NonNull<netmap_ring>,
    slots: NonNull<netmap_slot>,
    count: u32,
    buffer_size: usize,
    region: Arc<Region>,
    /// Keeps the ring ours: rings can be moved out of the port that they were opened with, and may outlive it.
    _kernel: Arc<dyn Kernel>,
}

// SAFETY: the ring belongs to no thread, and this value is the only one for it in the process (ports are opened exclusively).
unsafe impl Send for RawRing {}

impl std::fmt::Debug for RawRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawRing").field("count", &self.count).field("buffer_size", &self.buffer_size).finish_non_exhaustive()
    }
}

/// The rings of a port, as its interface structure counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) tx: u32,
    pub(crate) rx: u32,
    pub(crate) host_tx: u32,
    pub(crate) host_rx: u32,
}

/// The structure at the head of a port's rings.
pub(crate) struct Interface<'r> {
    region: &'r Arc<Region>,
    kernel: &'r Arc<dyn Kernel>,
    offset: usize,
    counts: Counts,
}

impl<'r> Interface<'r> {
    /// Finds it at `offset`. `kernel` is what has its rings open.
    pub(crate) fn at(region: &'r Arc<Region>, kernel: &'r Arc<dyn Kernel>, offset: usize) -> Result<Self, &'static str> {
        /// No machine has so many rings; it keeps the arithmetic far from its limits.
        const MAX_RINGS: u32 = 1 << 16;
        let found = region.at::<netmap_if>(offset).ok_or("the interface lies outside of the region")?;
        // SAFETY: it lies in the region and is aligned; any bytes are valid for it.
        let found = unsafe { found.as_ptr().read_volatile() };
        let [host_tx, host_rx, ..] = found.ni_spare1;
        let counts = Counts { tx: found.ni_tx_rings, rx: found.ni_rx_rings, host_tx, host_rx };
        if [counts.tx, counts.rx, counts.host_tx, counts.host_rx].iter().any(|count| *count > MAX_RINGS) {
            return Err("the interface has more rings than there can be");
        }
        Ok(Interface { region, kernel, offset, counts })
    }

    /// How many rings it has.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// A ring by its place in the list: transmit, to the host, receive, from the host.
    pub(crate) fn ring(&self, place: u32, direction: Direction) -> Result<RawRing, &'static str> {
        let entry = self.offset + size_of::<netmap_if>() + place as usize * size_of::<isize>();
        let entry = self.region.at::<isize>(entry).ok_or("the list of rings leaves the region")?;
        // SAFETY: it lies in the region and is aligned.
        let distance = unsafe { entry.as_ptr().read_volatile() };
        let offset = self.offset.checked_add_signed(distance).filter(|_| distance != 0).ok_or("a ring lies outside of the region")?;
        let header = self.region.at::<netmap_ring>(offset).ok_or("a ring lies outside of the region")?;
        // SAFETY: it lies in the region and is aligned; any bytes are valid for it.
        let said = unsafe { header.as_ptr().read_volatile() };
        let slots = offset + size_of::<netmap_ring>();
        let last = (said.num_slots as usize).checked_sub(1).and_then(|last| slots.checked_add(last * size_of::<netmap_slot>()));
        let fits = last.and_then(|last| self.region.at::<netmap_slot>(last)).is_some();
        let slots =
            self.region.at::<netmap_slot>(slots).filter(|_| fits && said.num_slots >= 2).ok_or("the slots of a ring leave the region")?;
        if said.dir != direction as u16 {
            return Err("a ring goes the wrong way");
        }
        let base = isize::try_from(said.buf_ofs).ok().and_then(|distance| offset.checked_add_signed(distance));
        let buffer_size = said.nr_buf_size as usize;
        // Buffers are shown as plain bytes: no ring may lie among them.
        let end = last.map_or(usize::MAX, |last| last + size_of::<netmap_slot>());
        match base {
            Some(base) if buffer_size >= 64 && base >= end && self.region.set_buffers(base, buffer_size) => (),
            _ => return Err("the buffers of a ring lie outside of the region, or elsewhere than those of another"),
        }
        Ok(RawRing { header, slots, count: said.num_slots, buffer_size, region: Arc::clone(self.region), _kernel: Arc::clone(self.kernel) })
    }
}

impl RawRing {
    /// Slots that it has.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of a buffer.
    pub(crate) fn buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// Where its buffers live.
    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    fn word(&self, word: *mut u32) -> &AtomicU32 {
        // SAFETY: the callers below pass words of the header, which is aligned and lies in the region, which `self` keeps; the kernel and we
        // use them by whole loads and stores only.
        unsafe { AtomicU32::from_ptr(word) }
    }

    fn head_word(&self) -> &AtomicU32 {
        // SAFETY: the place of a field of the header; nothing is read here.
        self.word(unsafe { &raw mut (*self.header.as_ptr()).head })
    }

    fn cur_word(&self) -> &AtomicU32 {
        // SAFETY: as above.
        self.word(unsafe { &raw mut (*self.header.as_ptr()).cur })
    }

    fn flags_word(&self) -> &AtomicU32 {
        // SAFETY: as above.
        self.word(unsafe { &raw mut (*self.header.as_ptr()).flags })
    }

    /// First slot that is the kernel's.
    #[inline]
    pub(crate) fn tail(&self) -> u32 {
        // SAFETY: as above.
        self.word(unsafe { &raw mut (*self.header.as_ptr()).tail }).load(Ordering::Acquire)
    }

    /// `head` and `cur` as they stand there.
    #[inline]
    pub(crate) fn head_and_cur(&self) -> (u32, u32) {
        (self.head_word().load(Ordering::Relaxed), self.cur_word().load(Ordering::Relaxed))
    }

    /// Hands all slots before `head` to the kernel, at its next look.
    #[inline]
    pub(crate) fn set_head_and_cur(&self, head: u32) {
        self.cur_word().store(head, Ordering::Relaxed);
        self.head_word().store(head, Ordering::Release);
    }

    /// Switches flags of the ring on or off.
    pub(crate) fn set_flags(&self, flags: u32, on: bool) {
        // Only we write this word.
        let before = self.flags_word().load(Ordering::Relaxed);
        self.flags_word().store(if on { before | flags } else { before & !flags }, Ordering::Relaxed);
    }

    /// When the kernel last looked at the ring, since 1970.
    pub(crate) fn time(&self) -> Duration {
        // SAFETY: a field of the header, which lies in the region; any bytes are valid for it.
        let time = unsafe { (&raw const (*self.header.as_ptr()).ts).read_volatile() };
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)) + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
    }

    /// What slot `number` says; one beyond the ring says nothing of use.
    #[inline]
    pub(crate) fn slot(&self, number: u32) -> Slot {
        if number >= self.count {
            return Slot::default();
        }
        // SAFETY: `count` slots lie in the region.
        let slot = unsafe { self.slots.add(number as usize).as_ptr().read_volatile() };
        Slot { buffer: slot.buf_idx, len: slot.len, flags: slot.flags }
    }

    /// Writes slot `number`, which must be ours.
    #[inline]
    pub(crate) fn set_slot(&mut self, number: u32, slot: Slot) {
        if number < self.count {
            let slot = netmap_slot { buf_idx: slot.buffer, len: slot.len, flags: slot.flags, ptr: 0 };
            // SAFETY: `count` slots lie in the region.
            unsafe { self.slots.add(number as usize).as_ptr().write_volatile(slot) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netmap_sys::netmap::nmreq;
    use std::mem::offset_of;

    #[test]
    fn the_bindings_are_laid_out_as_netmap_documents_it() {
        assert_eq!((size_of::<nmreq>(), size_of::<netmap_if>(), size_of::<netmap_ring>(), size_of::<netmap_slot>()), (60, 56, 256, 16));
        assert_eq!([offset_of!(netmap_ring, head), offset_of!(netmap_ring, cur), offset_of!(netmap_ring, tail)], [20, 24, 28]);
        assert_eq!([offset_of!(netmap_ring, flags), offset_of!(netmap_ring, ts), offset_of!(netmap_ring, slot)], [32, 40, 256]);
        assert_eq!([offset_of!(netmap_if, ni_tx_rings), offset_of!(netmap_if, ni_spare1), offset_of!(netmap_if, ring_ofs)], [24, 36, 56]);
    }
}
