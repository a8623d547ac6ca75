//! Transmit rings.

use crate::cursor::Cursor;
use crate::error::RingError;
use crate::memory::BufferGuard;
use crate::raw::{RawRing, Slot};
use netmap_sys::netmap::NS_BUF_CHANGED;

/// A ring that frames are sent by. They go when the port is next synced or waited for.
#[derive(Debug)]
pub struct TxRing {
    ring: RawRing,
    cursor: Cursor,
}

impl TxRing {
    pub(crate) fn new(ring: RawRing) -> Result<TxRing, &'static str> {
        let cursor = Cursor::new(&ring)?;
        Ok(TxRing { ring, cursor })
    }

    /// Slots of the ring; one less than these may be under way.
    pub fn slots(&self) -> u32 {
        self.ring.count()
    }

    /// Bytes of a buffer: the longest frame.
    pub fn buffer_size(&self) -> usize {
        self.ring.buffer_size()
    }

    /// Frames that the ring has room for now. It grows when the kernel looks at the ring and finds frames sent.
    ///
    /// # Errors
    /// When the ring says what cannot be.
    #[inline]
    pub fn room(&mut self) -> Result<u32, RingError> {
        self.cursor.refresh(&self.ring)
    }

    /// Frames handed over that the kernel has not yet said to be sent.
    ///
    /// # Errors
    /// When the ring says what cannot be.
    pub fn in_flight(&mut self) -> Result<u32, RingError> {
        Ok(self.ring.count() - 1 - self.room()?)
    }

    #[inline]
    fn has_room(&mut self) -> Result<bool, RingError> {
        Ok(self.cursor.cached() > 0 || self.room()? > 0)
    }

    /// Copies a frame into the ring. `false` when there is no room now.
    ///
    /// # Errors
    /// When the frame does not fit a buffer, or the ring says what cannot be.
    pub fn send(&mut self, frame: &[u8]) -> Result<bool, RingError> {
        let room = self.buffer_size().min(usize::from(u16::MAX));
        if frame.len() > room {
            return Err(RingError::TooLong { len: frame.len(), room });
        }
        self.send_with(|buffer| {
            buffer[..frame.len()].copy_from_slice(frame);
            frame.len()
        })
    }

    /// Has `write` put a frame into a buffer of the ring, and say its length. `false`, and `write` not called, when there is no room now.
    ///
    /// # Errors
    /// When `write` says more than the buffer has, or the ring says what cannot be.
    pub fn send_with(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> Result<bool, RingError> {
        if !self.has_room()? {
            return Ok(false);
        }
        let at = self.cursor.slot_at(0);
        let slot = self.ring.slot(at);
        let len = {
            let mut buffer_guard = self.ring.region().acquire(slot.buffer).ok_or(RingError::Buffer { slot: at, buffer: slot.buffer })?;
            let buffer = buffer_guard.bytes();
            let room = buffer.len();
            let len = write(buffer);
            u16::try_from(len).ok().filter(|_| len <= room).ok_or(RingError::TooLong { len, room })?
        };
        self.ring.set_slot(at, Slot { len, flags: 0, ..slot });
        self.cursor.advance(1, &self.ring);
        Ok(true)
    }

    /// Sends the first `len` bytes of a received buffer, and leaves another in exchange: its number. `None` when there is no room now.
    #[inline]
    pub(crate) fn exchange(&mut self, buffer_guard: &BufferGuard<'_>, len: u16) -> Result<Option<u32>, RingError> {
        if !self.has_room()? {
            return Ok(None);
        }
        let at = self.cursor.slot_at(0);
        let old = self.ring.slot(at).buffer;
        if !self.ring.region().has_buffer(old) {
            return Err(RingError::Buffer { slot: at, buffer: old });
        }
        self.ring.set_slot(at, Slot { buffer: buffer_guard.number(), len, flags: NS_BUF_CHANGED });
        self.cursor.advance(1, &self.ring);
        Ok(Some(old))
    }

    pub(crate) fn raw(&self) -> &RawRing {
        &self.ring
    }
}
