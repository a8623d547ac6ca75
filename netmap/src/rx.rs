//! Receive rings, and the batches of frames that are taken from them.

use crate::cursor::Cursor;
use crate::error::RingError;
use crate::memory::{BufferGuard, Region};
use crate::raw::{RawRing, Slot};
use crate::tx::TxRing;
use netmap_sys::netmap::{NR_FORWARD, NR_TIMESTAMP, NS_BUF_CHANGED, NS_FORWARD, NS_MOREFRAG};
use std::sync::Arc;
use std::time::Duration;

/// Most frames in a batch.
pub const BATCH: usize = 64;

/// Frames that were not shown, by reason. They are handed back to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Frames in more than one buffer (`NS_MOREFRAG`). A batch shows frames in one piece only.
    pub fragmented: u64,
    /// Frames of more bytes than a buffer has: the kernel lied.
    pub too_long: u64,
    /// Frames in a buffer that is none, or that somebody has: the kernel lied.
    pub bad_buffer: u64,
}

/// A ring that frames are received by.
#[derive(Debug)]
pub struct RxRing {
    ring: RawRing,
    region: Arc<Region>,
    cursor: Cursor,
    dropped: Dropped,
    /// The next slot goes on with a frame whose first piece was dropped.
    mid_frame: bool,
}

impl RxRing {
    pub(crate) fn new(ring: RawRing) -> Result<RxRing, &'static str> {
        let cursor = Cursor::new(&ring)?;
        let region = Arc::clone(ring.region());
        Ok(RxRing { ring, region, cursor, dropped: Dropped::default(), mid_frame: false })
    }

    /// Slots of the ring; at most one less than these can hold frames.
    pub fn slots(&self) -> u32 {
        self.ring.count()
    }

    /// Bytes of a buffer.
    pub fn buffer_size(&self) -> usize {
        self.ring.buffer_size()
    }

    /// Slots with frames, or pieces of frames, that have come and were not taken yet.
    ///
    /// # Errors
    /// When the ring says what cannot be.
    pub fn waiting(&mut self) -> Result<u32, RingError> {
        self.cursor.refresh(&self.ring)
    }

    /// What was not shown so far.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Whether the kernel shall write down when it last looked at the ring (`NR_TIMESTAMP`). It may also do so unasked.
    pub fn set_timestamps(&mut self, on: bool) {
        self.ring.set_flags(NR_TIMESTAMP, on);
    }

    /// When the kernel last looked at the ring and wrote it down: time since 1970, to the microsecond.
    pub fn timestamp(&self) -> Duration {
        self.ring.time()
    }

    /// Whether frames may be passed on to the other side by [`Batch::forward`] (`NR_FORWARD`): from the card to the host's network stack,
    /// or back if all transmit rings of the card belong to the same port as this one.
    pub fn set_forwarding(&mut self, on: bool) {
        self.ring.set_flags(NR_FORWARD, on);
    }

    /// The frames that have come, at most [`BATCH`] and at most `most`. When the batch is dropped, their slots go back to the kernel.
    ///
    /// # Errors
    /// When the ring says what cannot be.
    pub fn batch(&mut self, most: usize) -> Result<Batch<'_>, RingError> {
        let here = self.waiting()?;
        let RxRing { ring, region, cursor, dropped, mid_frame } = self;
        let mut batch = Batch { ring, cursor, region, taken: 0, entries: [const { None }; BATCH], frames: 0 };
        // Goes on past what is not shown, so that a batch is empty only when the ring is.
        while batch.taken < here && batch.frames < most.min(BATCH) {
            let at = batch.cursor.slot_at(batch.taken);
            let slot = batch.ring.slot(at);
            batch.taken += 1;
            let more = slot.flags & NS_MOREFRAG != 0;
            let fits = usize::from(slot.len) <= batch.ring.buffer_size();
            if more || *mid_frame {
                // An empty piece before a frame is none of it: native e1000 shows one where its card had no buffer.
                if *mid_frame || (slot.len > 0 && fits) {
                    dropped.fragmented += u64::from(!*mid_frame);
                    *mid_frame = more;
                }
                batch.give_back(at, slot);
                continue;
            }
            if !fits {
                dropped.too_long += 1;
                batch.give_back(at, slot);
                continue;
            }
            let Some(buffer_guard) = region.acquire(slot.buffer) else {
                dropped.bad_buffer += 1;
                continue;
            };
            batch.entries[batch.frames] = Some(Entry { buffer_guard, slot: at, len: slot.len });
            batch.frames += 1;
        }
        Ok(batch)
    }
}

#[derive(Debug)]
struct Entry<'r> {
    buffer_guard: BufferGuard<'r>,
    slot: u32,
    len: u16,
}

/// Frames taken from a ring, in the order in which they came; each lies in a buffer of its own, which may be changed and sent on.
#[derive(Debug)]
pub struct Batch<'r> {
    ring: &'r mut RawRing,
    cursor: &'r mut Cursor,
    region: &'r Arc<Region>,
    /// Slots that go back with the batch.
    taken: u32,
    entries: [Option<Entry<'r>>; BATCH],
    frames: usize,
}

impl Batch<'_> {
    /// Gives the slot of what was not shown back with its buffer, as if the buffer were new: some drivers tell the card only of new ones.
    fn give_back(&mut self, at: u32, slot: Slot) {
        if self.region.has_buffer(slot.buffer) {
            self.ring.set_slot(at, Slot { buffer: slot.buffer, len: 0, flags: NS_BUF_CHANGED });
        }
    }

    /// Frames that it had when taken.
    pub fn len(&self) -> usize {
        self.frames
    }

    /// Whether nothing had come.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Every frame that was not sent on: its number, its whole buffer, and its length from the start of the buffer.
    #[inline]
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut [u8], usize)> {
        let entries = self.entries[..self.frames].iter_mut().enumerate();
        entries.filter_map(|(at, entry)| entry.as_mut().map(|entry| (at, entry.buffer_guard.bytes(), usize::from(entry.len))))
    }

    /// The whole buffer of a frame. `None` when it was sent on.
    #[inline]
    pub fn buffer(&mut self, frame: usize) -> Option<&mut [u8]> {
        self.entries.get_mut(frame)?.as_mut().map(|entry| entry.buffer_guard.bytes())
    }

    /// The bytes of a frame as received. `None` when it was sent on.
    #[inline]
    pub fn bytes(&mut self, frame: usize) -> Option<&mut [u8]> {
        let entry = self.entries.get_mut(frame)?.as_mut()?;
        let len = usize::from(entry.len);
        entry.buffer_guard.bytes().get_mut(..len)
    }

    /// Sends the first `len` bytes of a frame's buffer by `ring`, without copying them: the two rings exchange buffers. `false`, and nothing
    /// done, when the ring has no room now.
    ///
    /// # Errors
    /// When the rings live in different regions, `len` is more than the buffer, the frame was sent on already, or the ring says what cannot be.
    #[inline]
    pub fn send(&mut self, frame: usize, ring: &mut TxRing, len: usize) -> Result<bool, RingError> {
        let place = self.entries.get_mut(frame).ok_or(RingError::AlreadySent(frame))?;
        let entry = place.as_ref().ok_or(RingError::AlreadySent(frame))?;
        if !Arc::ptr_eq(self.region, ring.raw().region()) {
            return Err(RingError::OtherRegion);
        }
        let room = self.ring.buffer_size();
        let short = u16::try_from(len).ok().filter(|_| len <= room).ok_or(RingError::TooLong { len, room })?;
        let Some(buffer) = ring.exchange(&entry.buffer_guard, short)? else { return Ok(false) };
        self.ring.set_slot(entry.slot, Slot { buffer, len: 0, flags: NS_BUF_CHANGED });
        *place = None;
        Ok(true)
    }

    /// Has the kernel pass a frame on to the other side, as it was received and where [`RxRing::set_forwarding`] is on, when it next looks at
    /// this ring. The bytes must still start at the start of the buffer.
    ///
    /// # Errors
    /// When the frame was sent on already.
    pub fn forward(&mut self, frame: usize) -> Result<(), RingError> {
        let place = self.entries.get_mut(frame).ok_or(RingError::AlreadySent(frame))?;
        let entry = place.take().ok_or(RingError::AlreadySent(frame))?;
        self.ring.set_slot(entry.slot, Slot { buffer: entry.buffer_guard.number(), len: entry.len, flags: NS_FORWARD });
        Ok(())
    }
}

impl Drop for Batch<'_> {
    #[inline]
    fn drop(&mut self) {
        // Out of our hands before they are in the kernel's.
        self.entries[..self.frames].fill_with(|| None);
        self.cursor.advance(self.taken, self.ring);
    }
}
