//! Where we stand in a ring, kept on our side and compared with what the shared memory says.

use crate::error::RingError;
use crate::raw::RawRing;

/// Our place in a ring. The shared words are only written, and read to find out whether somebody else wrote them.
#[derive(Debug)]
pub(crate) struct Cursor {
    slots: u32,
    head: u32,
    /// Slots from `head` on that were ours when last looked.
    available: u32,
}

impl Cursor {
    /// Starts where the kernel has put us.
    pub(crate) fn new(ring: &RawRing) -> Result<Cursor, &'static str> {
        let (head, cur) = ring.head_and_cur();
        let fits = head < ring.count() && cur == head && ring.tail() < ring.count();
        fits.then_some(Cursor { slots: ring.count(), head, available: 0 }).ok_or("a ring begins outside of its slots")
    }

    /// Slots that are ours now.
    #[inline]
    pub(crate) fn refresh(&mut self, ring: &RawRing) -> Result<u32, RingError> {
        let tail = ring.tail();
        if tail >= self.slots {
            return Err(RingError::Tail { tail, slots: self.slots });
        }
        let (head, cur) = ring.head_and_cur();
        if head != self.head || cur != self.head {
            return Err(RingError::Reset { head, cur, ours: self.head });
        }
        let available = if tail >= self.head { tail - self.head } else { self.slots - self.head + tail };
        if available < self.available {
            return Err(RingError::Backwards { before: self.slot_at(self.available), tail });
        }
        self.available = available;
        Ok(available)
    }

    /// Slots that were ours when last looked, less those handed over since.
    #[inline]
    pub(crate) fn cached(&self) -> u32 {
        self.available
    }

    /// The slot `distance` after the first of ours; less than one round.
    #[inline]
    pub(crate) fn slot_at(&self, distance: u32) -> u32 {
        let to_end = self.slots - self.head;
        if distance < to_end { self.head + distance } else { distance - to_end }
    }

    /// Hands the first `count` slots of ours to the kernel.
    #[inline]
    pub(crate) fn advance(&mut self, count: u32, ring: &RawRing) {
        let count = count.min(self.available);
        self.head = self.slot_at(count);
        self.available -= count;
        ring.set_head_and_cur(self.head);
    }
}
