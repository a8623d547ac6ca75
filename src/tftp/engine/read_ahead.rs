//! File content on its way to clients: a bounded number of slots, each lent to the transfer that reads.
//!
//! A transfer that has its slot to itself reads further ahead each time, so that reading costs little per block; when there are more busy
//! transfers than slots, each reads just what it sends. Memory is bounded by the slots, whatever the number of transfers. Transfers of one
//! content that are at the same place, as when a hall of machines boots, look into each other's slots instead of reading again.

use super::Key;
use crate::content::Content;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Most bytes of a slot: the largest block fits.
const SLOT: usize = 64 * 1024;
/// Bytes read at first.
const FIRST: usize = 4 * 1024;
/// Bytes read ahead at most when a window needs no more.
const AHEAD: usize = 16 * 1024;

/// References to a content that one transfer alone makes: its own, the one it works with, and its slot's.
const HOLDERS: usize = 3;

/// The slots.
pub struct ReadAhead {
    slots: Vec<Slot>,
    most: usize,
    hand: usize,
}

#[derive(Default)]
struct Slot {
    owner: Option<Key>,
    /// What its bytes are of; held, so that no other content can come to stand at the same address.
    content: Option<Arc<dyn Content>>,
    /// Offset of its first byte in the content.
    start: u64,
    len: usize,
    /// Whether the content ends behind its last byte.
    end: bool,
    /// The outbox that last queued bytes of it.
    queued: Option<u32>,
    /// Whether it was read since the hand last passed.
    used: bool,
    buffer: Vec<u8>,
}

/// A transfer's place in the slots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    slot: Option<u16>,
    ahead: u32,
}

/// What is wanted of a content.
pub struct Wanted<'a> {
    /// Whose.
    pub owner: Key,
    /// The content.
    pub content: &'a Arc<dyn Content>,
    /// Its size as promised.
    pub size: Option<u64>,
    /// From where.
    pub offset: u64,
    /// Bytes without which nothing can be sent, unless the content ends.
    pub block: usize,
    /// Bytes that could be sent at once.
    pub window: usize,
    /// The number of the outbox of now.
    pub outbox: u32,
}

/// What there is.
#[derive(Debug, PartialEq, Eq)]
pub enum Have {
    /// Bytes of a slot, at least a block of them unless the content ends there.
    Bytes {
        /// The slot.
        slot: u16,
        /// The place in it.
        range: Range<usize>,
        /// Whether the content ends behind them.
        end: bool,
    },
    /// None before the waker is woken.
    Pending,
    /// The outbox must be flushed first.
    Busy,
}

impl ReadAhead {
    /// At most so many slots; they take memory when they are used.
    pub fn new(most: u16) -> ReadAhead {
        ReadAhead { slots: Vec::new(), most: usize::from(most.max(1)), hand: 0 }
    }

    /// Bytes of a slot.
    pub fn bytes(&self, slot: u16, range: Range<usize>) -> &[u8] {
        self.slots.get(usize::from(slot)).and_then(|slot| slot.buffer.get(range)).unwrap_or_default()
    }

    /// The outbox of this number has queued bytes of the slot.
    pub fn queued(&mut self, slot: u16, outbox: u32) {
        self.slots[usize::from(slot)].queued = Some(outbox);
    }

    /// The transfer needs its slot no more.
    pub fn release(&mut self, cursor: &mut Cursor, owner: Key) {
        if let Some(slot) = cursor.slot.take().and_then(|slot| self.slots.get_mut(usize::from(slot)))
            && slot.owner == Some(owner)
        {
            slot.owner = None;
            slot.content = None;
            slot.used = false;
        }
    }

    /// Makes what is wanted available.
    ///
    /// # Errors
    /// Those of the content, and one when it ends before its size.
    pub fn read(&mut self, cursor: &mut Cursor, wanted: &Wanted<'_>, context: &mut Context<'_>) -> io::Result<Have> {
        let near = cursor.slot.filter(|&slot| self.slots[usize::from(slot)].is_of(wanted.content));
        if let Some(have) = near.and_then(|slot| self.at_hand(slot, wanted)) {
            return Ok(have);
        }
        let own = near.filter(|&slot| self.slots[usize::from(slot)].owner == Some(wanted.owner));
        // Only content that several transfers hold is worth looking for.
        if Arc::strong_count(wanted.content) > HOLDERS
            && let Some((slot, have)) = self.of_others(wanted)
        {
            self.release(cursor, wanted.owner);
            cursor.slot = Some(slot);
            return Ok(have);
        }
        cursor.ahead = if near.is_some() { (cursor.ahead * 2).clamp(FIRST as u32, AHEAD as u32) } else { FIRST as u32 };
        let index = match own {
            Some(index) if self.slots[usize::from(index)].queued == Some(wanted.outbox) => return Ok(Have::Busy),
            Some(index) => index,
            None => {
                let Some(index) = self.acquire(wanted) else { return Ok(Have::Busy) };
                cursor.slot = Some(index);
                index
            }
        };
        let blocks = (wanted.window.max(cursor.ahead as usize) / wanted.block).clamp(1, (SLOT / wanted.block).max(1));
        let pending = self.slots[usize::from(index)].fill(wanted, blocks * wanted.block, context)?.is_pending();
        match self.at_hand(index, wanted) {
            Some(have) => Ok(have),
            None if pending => Ok(Have::Pending),
            None => Err(io::Error::other("the content gave neither bytes nor an end")),
        }
    }

    /// What another transfer of the same content has read.
    fn of_others(&mut self, wanted: &Wanted<'_>) -> Option<(u16, Have)> {
        (0..self.slots.len()).filter_map(|index| u16::try_from(index).ok()).find_map(|index| {
            let slot = &self.slots[usize::from(index)];
            // Not the end alone: whether a content was changed shows when its end is read, and each transfer must see that for itself. A slot
            // that holds all of it was read whole before that was looked at.
            let near = slot.start <= wanted.offset && (!slot.end || slot.start == 0) && slot.is_of(wanted.content);
            near.then(|| self.at_hand(index, wanted)).flatten().map(|have| (index, have))
        })
    }

    fn at_hand(&mut self, index: u16, wanted: &Wanted<'_>) -> Option<Have> {
        let slot = &mut self.slots[usize::from(index)];
        let from = usize::try_from(wanted.offset.checked_sub(slot.start)?).ok().filter(|&from| from <= slot.len)?;
        if slot.len - from < wanted.block && !slot.end {
            return None;
        }
        slot.used = true;
        Some(Have::Bytes { slot: index, range: from..slot.len, end: slot.end })
    }

    /// A slot for a new owner, taken from whom has not used it for longest, roughly. None when the outbox holds bytes of all of them.
    fn acquire(&mut self, wanted: &Wanted<'_>) -> Option<u16> {
        let free = self.slots.iter().skip(self.hand).take(8).position(|slot| slot.owner.is_none() && slot.queued != Some(wanted.outbox));
        let index = match free {
            Some(ahead) => self.hand + ahead,
            None if self.slots.len() < self.most => {
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
        self.hand = (index + 1) % self.most;
        let slot = &mut self.slots[index];
        (slot.owner, slot.start, slot.len, slot.end, slot.used) = (Some(wanted.owner), wanted.offset, 0, false, true);
        slot.content = Some(Arc::clone(wanted.content));
        u16::try_from(index).ok()
    }
}

impl Slot {
    fn is_of(&self, content: &Arc<dyn Content>) -> bool {
        self.content.as_ref().is_some_and(|own| Arc::ptr_eq(own, content))
    }

    /// Reads until there is a block, or the content ends or is pending; up to `most` bytes.
    fn fill(&mut self, wanted: &Wanted<'_>, most: usize, context: &mut Context<'_>) -> io::Result<Poll<()>> {
        match usize::try_from(wanted.offset.wrapping_sub(self.start)) {
            // The rest of the last fill is the start of this one.
            Ok(from) if from <= self.len => {
                self.buffer.copy_within(from..self.len, 0);
                self.len -= from;
            }
            _ => self.len = 0,
        }
        (self.start, self.end) = (wanted.offset, false);
        let left = wanted.size.map_or(u64::MAX, |size| size.saturating_sub(self.start));
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(most);
        if self.buffer.len() < most {
            self.buffer.resize(most.next_multiple_of(FIRST), 0);
        }
        let at = |len: usize| wanted.offset + len as u64;
        while self.len < wanted.block {
            if wanted.size.is_some_and(|size| at(self.len) >= size) {
                break;
            }
            match wanted.content.poll_read_at(context, at(self.len), &mut self.buffer[self.len..most])? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(0) if wanted.size.is_some() => return Err(io::Error::other("the content ends before its size")),
                Poll::Ready(0) => {
                    self.end = true;
                    break;
                }
                Poll::Ready(len) => self.len = (self.len + len).min(most),
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

    /// Gives a few bytes at a time and does not know its size.
    struct Drops(Bytes);

    impl Content for Drops {
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

    fn read(ahead: &mut ReadAhead, cursor: &mut Cursor, wanted: &Wanted<'_>) -> io::Result<Option<(Vec<u8>, bool)>> {
        Ok(match ahead.read(cursor, wanted, &mut Context::from_waker(Waker::noop()))? {
            Have::Bytes { slot, range, end } => Some((ahead.bytes(slot, range).to_vec(), end)),
            Have::Pending => panic!("everything is at hand"),
            Have::Busy => None,
        })
    }

    proptest! {
        #[test]
        fn transfers_that_share_few_slots_read_their_own_bytes(size in 0usize..50_000, block in 8usize..3000, slots in 1u16..4, known: bool,
                                                               order in proptest::collection::vec((0u32..5, -1i64..4), 1..100)) {
            let bytes: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
            let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
            let apart: Arc<dyn Content> = Arc::new(Bytes::new(&other[..]));
            let whole: Arc<dyn Content> = if known { Arc::new(Bytes::new(&bytes[..])) } else { Arc::new(Drops(Bytes::new(&bytes[..]))) };
            let holders = [(); 5].map(|()| Arc::clone(&whole));
            let content = &holders[0];
            let mut ahead = ReadAhead::new(slots);
            let mut cursors = [Cursor::default(); 5];
            let mut offsets = [0u64; 5];
            for (outbox, (who, step)) in order.into_iter().enumerate() {
                let index = who as usize;
                // The last one has bytes of its own.
                let (bytes, content) = if who == 4 { (&other, &apart) } else { (&bytes, content) };
                let wanted = Wanted { owner: key(who), content, size: content.size(), offset: offsets[index], block, window: block * 2, outbox: outbox as u32 };
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
    fn what_the_outbox_holds_does_not_move() {
        let content: Arc<dyn Content> = Arc::new(Bytes::new(vec![1; 100_000]));
        let wanted = |who, offset, outbox| Wanted {
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
    fn transfers_at_one_place_of_one_content_read_it_once() {
        let content: Arc<dyn Content> = Arc::new(Bytes::new(vec![1; 100_000]));
        let _others = [(); 9].map(|()| Arc::clone(&content));
        let mut ahead = ReadAhead::new(100);
        let mut cursors = [Cursor::default(); 9];
        for block in 0..90u64 {
            for (who, cursor) in cursors.iter_mut().enumerate() {
                let wanted = Wanted {
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
        assert!(ahead.slots.iter().all(|slot| slot.content.is_none()), "no content is held for nobody");
    }

    #[test]
    fn a_content_that_breaks_its_promise_is_an_error() {
        let content: Arc<dyn Content> = Arc::new(Bytes::new(vec![1; 100]));
        let wanted = Wanted { owner: key(0), content: &content, size: Some(200), offset: 0, block: 512, window: 512, outbox: 0 };
        assert!(read(&mut ReadAhead::new(1), &mut Cursor::default(), &wanted).is_err());
    }
}
