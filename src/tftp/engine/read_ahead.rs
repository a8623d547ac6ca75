//! Read-ahead of file content: a bounded number of slots, each used by the transfer that reads.
//!
//! A transfer that keeps its slot reads further ahead each time, so that reads cost little per block. With more busy transfers than slots, each
//! reads only what it sends. The slots bound the memory for any number of transfers. Transfers at the same offset of one content, as when many
//! machines boot at once, share slots instead of reading again.

use super::key::Key;
use crate::content::Source;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Size of a slot: the largest block fits.
const SLOT_SIZE: usize = 64 * 1024;
/// Bytes of the first read.
const INITIAL_READ: usize = 4 * 1024;
/// Largest read-ahead in bytes, unless a window needs more.
const MAX_READ_AHEAD: usize = 16 * 1024;

/// References to a content by a single transfer: its own, the one in use, and its slot's.
const HOLDERS: usize = 3;

/// The slots.
pub struct ReadAhead {
    slots: Vec<Slot>,
    max_slots: usize,
    hand: usize,
}

#[derive(Default)]
struct Slot {
    owner: Option<Key>,
    /// The content of its bytes. The reference ensures that no other content gets the same address.
    content: Option<Arc<dyn Source>>,
    /// Offset of its first byte in the content.
    start: u64,
    len: usize,
    /// Whether the content ends after its last byte.
    end: bool,
    /// Generation of the outbox that last queued bytes of it.
    queued: Option<u32>,
    /// Whether it was used since the clock hand last passed.
    used: bool,
    buffer: Vec<u8>,
}

/// A transfer's position in the slots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    slot: Option<u16>,
    ahead: u32,
}

/// A request to read content.
pub struct ReadRequest<'a> {
    /// The transfer.
    pub owner: Key,
    /// The content.
    pub content: &'a Arc<dyn Source>,
    /// Its size, if known.
    pub size: Option<u64>,
    /// Offset of the first byte.
    pub offset: u64,
    /// Smallest useful number of bytes, unless the content ends.
    pub block: usize,
    /// Bytes that can be sent at once.
    pub window: usize,
    /// The current generation of the outbox.
    pub outbox: u32,
}

/// Result of a read.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadResult {
    /// Bytes of a slot, at least a block unless the content ends.
    Bytes {
        /// The slot.
        slot: u16,
        /// The range in it.
        range: Range<usize>,
        /// Whether the content ends after them.
        end: bool,
    },
    /// No bytes before the waker is woken.
    Pending,
    /// The outbox must be flushed first.
    Busy,
}

impl ReadAhead {
    /// Creates at most `max_slots` slots, which take memory when they are first used.
    pub fn new(max_slots: u16) -> ReadAhead {
        ReadAhead { slots: Vec::new(), max_slots: usize::from(max_slots.max(1)), hand: 0 }
    }

    /// Returns bytes of a slot.
    pub fn bytes(&self, slot: u16, range: Range<usize>) -> &[u8] {
        self.slots.get(usize::from(slot)).and_then(|slot| slot.buffer.get(range)).unwrap_or_default()
    }

    /// Records that the outbox of this generation has queued bytes of the slot.
    pub fn queued(&mut self, slot: u16, outbox: u32) {
        self.slots[usize::from(slot)].queued = Some(outbox);
    }

    /// Releases the slot of a transfer.
    pub fn release(&mut self, cursor: &mut Cursor, owner: Key) {
        if let Some(slot) = cursor.slot.take().and_then(|slot| self.slots.get_mut(usize::from(slot)))
            && slot.owner == Some(owner)
        {
            slot.owner = None;
            slot.content = None;
            slot.used = false;
        }
    }

    /// Makes the requested bytes available.
    ///
    /// # Errors
    /// Errors of the content, also when it ends before its size.
    pub fn read(&mut self, cursor: &mut Cursor, wanted: &ReadRequest<'_>, context: &mut Context<'_>) -> io::Result<ReadResult> {
        let near = cursor.slot.filter(|&slot| self.slots[usize::from(slot)].is_of(wanted.content));
        if let Some(have) = near.and_then(|slot| self.buffered(slot, wanted)) {
            return Ok(have);
        }
        let own = near.filter(|&slot| self.slots[usize::from(slot)].owner == Some(wanted.owner));
        // Only content of several transfers can be in another slot.
        if Arc::strong_count(wanted.content) > HOLDERS
            && let Some((slot, have)) = self.find_shared(wanted)
        {
            self.release(cursor, wanted.owner);
            cursor.slot = Some(slot);
            return Ok(have);
        }
        cursor.ahead =
            if near.is_some() { (cursor.ahead * 2).clamp(INITIAL_READ as u32, MAX_READ_AHEAD as u32) } else { INITIAL_READ as u32 };
        let index = match own {
            Some(index) if self.slots[usize::from(index)].queued == Some(wanted.outbox) => return Ok(ReadResult::Busy),
            Some(index) => index,
            None => {
                let Some(index) = self.acquire(wanted) else { return Ok(ReadResult::Busy) };
                cursor.slot = Some(index);
                index
            }
        };
        let blocks = (wanted.window.max(cursor.ahead as usize) / wanted.block).clamp(1, (SLOT_SIZE / wanted.block).max(1));
        let pending = self.slots[usize::from(index)].fill(wanted, blocks * wanted.block, context)?.is_pending();
        match self.buffered(index, wanted) {
            Some(have) => Ok(have),
            None if pending => Ok(ReadResult::Pending),
            None => Err(io::Error::other("the content returned neither bytes nor an end")),
        }
    }

    /// Returns bytes that another transfer of the same content has read.
    fn find_shared(&mut self, wanted: &ReadRequest<'_>) -> Option<(u16, ReadResult)> {
        (0..self.slots.len()).filter_map(|index| u16::try_from(index).ok()).find_map(|index| {
            let slot = &self.slots[usize::from(index)];
            // Not a slot with the end alone: reading the end detects a changed content, and each transfer must detect that itself. A slot with the
            // whole content was read completely before that check.
            let near = slot.start <= wanted.offset && (!slot.end || slot.start == 0) && slot.is_of(wanted.content);
            near.then(|| self.buffered(index, wanted)).flatten().map(|have| (index, have))
        })
    }

    fn buffered(&mut self, index: u16, wanted: &ReadRequest<'_>) -> Option<ReadResult> {
        let slot = &mut self.slots[usize::from(index)];
        let from = usize::try_from(wanted.offset.checked_sub(slot.start)?).ok().filter(|&from| from <= slot.len)?;
        if slot.len - from < wanted.block && !slot.end {
            return None;
        }
        slot.used = true;
        Some(ReadResult::Bytes { slot: index, range: from..slot.len, end: slot.end })
    }

    /// Returns a slot for a new owner, approximately the least recently used one. `None` when the outbox holds bytes of all slots.
    fn acquire(&mut self, wanted: &ReadRequest<'_>) -> Option<u16> {
        let free = self.slots.iter().skip(self.hand).take(8).position(|slot| slot.owner.is_none() && slot.queued != Some(wanted.outbox));
        let index = match free {
            Some(ahead) => self.hand + ahead,
            None if self.slots.len() < self.max_slots => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => {
                let len = self.slots.len();
                (self.hand..self.hand + 2 * len).map(|place| place % len).find(|&place| {
                    let slot = &mut self.slots[place];
                    slot.queued != Some(wanted.outbox) && !std::mem::take(&mut slot.used)
                })?
            }
        };
        self.hand = (index + 1) % self.max_slots;
        let slot = &mut self.slots[index];
        (slot.owner, slot.start, slot.len, slot.end, slot.used) = (Some(wanted.owner), wanted.offset, 0, false, true);
        slot.content = Some(Arc::clone(wanted.content));
        u16::try_from(index).ok()
    }
}

impl Slot {
    fn is_of(&self, content: &Arc<dyn Source>) -> bool {
        self.content.as_ref().is_some_and(|own| Arc::ptr_eq(own, content))
    }

    /// Reads at most `max_bytes` bytes, until a block is available, or the content ends or is pending.
    fn fill(&mut self, wanted: &ReadRequest<'_>, max_bytes: usize, context: &mut Context<'_>) -> io::Result<Poll<()>> {
        match usize::try_from(wanted.offset.wrapping_sub(self.start)) {
            // The rest of the previous fill is the start of this one.
            Ok(from) if from <= self.len => {
                self.buffer.copy_within(from..self.len, 0);
                self.len -= from;
            }
            _ => self.len = 0,
        }
        (self.start, self.end) = (wanted.offset, false);
        let left = wanted.size.map_or(u64::MAX, |size| size.saturating_sub(self.start));
        let max_bytes = usize::try_from(left).unwrap_or(usize::MAX).min(max_bytes);
        if self.buffer.len() < max_bytes {
            self.buffer.resize(max_bytes.next_multiple_of(INITIAL_READ), 0);
        }
        let at = |len: usize| wanted.offset + len as u64;
        while self.len < wanted.block {
            if wanted.size.is_some_and(|size| at(self.len) >= size) {
                break;
            }
            match wanted.content.poll_read_at(context, at(self.len), &mut self.buffer[self.len..max_bytes])? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(0) if wanted.size.is_some() => return Err(io::Error::other("the content ends before its size")),
                Poll::Ready(0) => {
                    self.end = true;
                    break;
                }
                Poll::Ready(len) => self.len = (self.len + len).min(max_bytes),
            }
        }
        self.end |= wanted.size.is_some_and(|size| at(self.len) >= size);
        Ok(Poll::Ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Bytes, Version};
    use proptest::prelude::*;
    use std::task::Waker;

    /// Content that returns a few bytes at a time and has no known size.
    struct Drops(Bytes);

    impl Source for Drops {
        fn size(&self) -> Option<u64> {
            None
        }
        fn version(&self) -> Version {
            self.0.version()
        }
        fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
            let len = buffer.len().min(7);
            self.0.poll_read_at(context, offset, &mut buffer[..len])
        }
    }

    fn key(index: u32) -> Key {
        Key { index, generation: 1 }
    }

    fn read(ahead: &mut ReadAhead, cursor: &mut Cursor, wanted: &ReadRequest<'_>) -> io::Result<Option<(Vec<u8>, bool)>> {
        Ok(match ahead.read(cursor, wanted, &mut Context::from_waker(Waker::noop()))? {
            ReadResult::Bytes { slot, range, end } => Some((ahead.bytes(slot, range).to_vec(), end)),
            ReadResult::Pending => panic!("never pending"),
            ReadResult::Busy => None,
        })
    }

    proptest! {
        #[test]
        fn transfers_that_share_few_slots_read_their_own_bytes(size in 0usize..50_000, block in 8usize..3000, slots in 1u16..4, known: bool,
                                                               order in proptest::collection::vec((0u32..5, -1i64..4), 1..100)) {
            let bytes: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
            let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
            let apart: Arc<dyn Source> = Arc::new(Bytes::new(&other[..]));
            let whole: Arc<dyn Source> = if known { Arc::new(Bytes::new(&bytes[..])) } else { Arc::new(Drops(Bytes::new(&bytes[..]))) };
            let holders = [(); 5].map(|()| Arc::clone(&whole));
            let content = &holders[0];
            let mut ahead = ReadAhead::new(slots);
            let mut cursors = [Cursor::default(); 5];
            let mut offsets = [0u64; 5];
            for (outbox, (who, step)) in order.into_iter().enumerate() {
                let index = who as usize;
                // The last transfer has another content.
                let (bytes, content) = if who == 4 { (&other, &apart) } else { (&bytes, content) };
                let wanted = ReadRequest { owner: key(who), content, size: content.size(), offset: offsets[index], block, window: block * 2, outbox: outbox as u32 };
                let (got, end) = read(&mut ahead, &mut cursors[index], &wanted).unwrap().unwrap();
                let expected = &bytes[offsets[index] as usize..];
                prop_assert!(expected.starts_with(&got));
                prop_assert!(got.len() >= block || end);
                prop_assert!(!end || got.len() == expected.len());
                let next = offsets[index].saturating_add_signed(step * block as i64);
                if next <= size as u64 {
                    offsets[index] = next;
                }
            }
        }
    }

    #[test]
    fn queued_bytes_do_not_move() {
        let content: Arc<dyn Source> = Arc::new(Bytes::new(vec![1; 100_000]));
        let wanted = |who, offset, outbox| ReadRequest {
            owner: key(who),
            content: &content,
            size: content.size(),
            offset,
            block: 1000,
            window: 1000,
            outbox,
        };
        let mut ahead = ReadAhead::new(1);
        let (mut a, mut b) = (Cursor::default(), Cursor::default());
        assert!(read(&mut ahead, &mut a, &wanted(0, 0, 7)).unwrap().is_some());
        ahead.queued(0, 7);
        assert!(read(&mut ahead, &mut b, &wanted(1, 0, 7)).unwrap().is_none(), "another transfer must wait for the flush");
        assert!(read(&mut ahead, &mut a, &wanted(0, 50_000, 7)).unwrap().is_none(), "and so must the owner");
        assert!(read(&mut ahead, &mut b, &wanted(1, 0, 8)).unwrap().is_some());
    }

    #[test]
    fn transfers_at_one_offset_of_one_content_read_it_once() {
        let content: Arc<dyn Source> = Arc::new(Bytes::new(vec![1; 100_000]));
        let _others = [(); 9].map(|()| Arc::clone(&content));
        let mut ahead = ReadAhead::new(100);
        let mut cursors = [Cursor::default(); 9];
        for block in 0..90u64 {
            for (who, cursor) in cursors.iter_mut().enumerate() {
                let wanted = ReadRequest {
                    owner: key(who as u32),
                    content: &content,
                    size: content.size(),
                    offset: block * 1000,
                    block: 1000,
                    window: 1000,
                    outbox: 0,
                };
                assert_eq!(read(&mut ahead, cursor, &wanted).unwrap().unwrap().0[..1000], [1; 1000]);
            }
        }
        assert!(ahead.slots.len() < 10, "{} slots", ahead.slots.len());
        cursors.iter_mut().enumerate().for_each(|(who, cursor)| ahead.release(cursor, key(who as u32)));
        assert!(ahead.slots.iter().all(|slot| slot.content.is_none()), "no slot holds a content without an owner");
    }

    #[test]
    fn content_shorter_than_its_size_is_an_error() {
        let content: Arc<dyn Source> = Arc::new(Bytes::new(vec![1; 100]));
        let wanted = ReadRequest { owner: key(0), content: &content, size: Some(200), offset: 0, block: 512, window: 512, outbox: 0 };
        assert!(read(&mut ReadAhead::new(1), &mut Cursor::default(), &wanted).is_err());
    }
}
