//! Fence for the memory that is shared with the kernel: where buffers lie in it, and the book of which are in somebody's hands.
//!
//! The kernel says by number which buffer is whose, and a wrong kernel may give one buffer twice. So every buffer whose bytes are shown stands
//! in a book, in release builds too: it is shown again only after it was put back, and no two references ever overlap.
#![allow(unsafe_code)]

use std::any::Any;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Numbers 0 and 1 are the kernel's own.
const FIRST: u32 = 2;

/// Who keeps the memory alive.
enum Owner {
    /// We have mapped it, and unmap it.
    Mapping,
    /// Somebody else, as long as this lives.
    #[cfg_attr(not(any(test, feature = "simulated")), expect(dead_code, reason = "only a simulation lends its memory"))]
    Borrowed { _owner: Arc<dyn Any + Send + Sync> },
}

/// The buffers of a region. All its rings agree on them.
struct Buffers {
    /// Where number 0 starts.
    base: usize,
    /// Bytes of each.
    size: usize,
    /// Whether somebody holds it, by number.
    held: Box<[AtomicBool]>,
}

/// A memory region of netmap: its rings and buffers. Buffers move without a copy between rings of one region, whatever ports these are of.
pub struct Region {
    start: NonNull<u8>,
    len: usize,
    id: u16,
    owner: Owner,
    buffers: OnceLock<Buffers>,
}

// SAFETY: the memory belongs to no thread; what is read and written in it goes through atomics, through slots of rings that one value owns, or
// through buffers that stand in the book.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("id", &self.id).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Region {
    /// Maps the region of the device `fd`.
    pub(crate) fn map(fd: std::os::fd::BorrowedFd<'_>, id: u16, len: usize) -> std::io::Result<Region> {
        use std::os::fd::AsRawFd;
        // SAFETY: a new mapping, at an address that the kernel chooses, touches no memory that exists.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Region { start, len, id, owner: Owner::Mapping, buffers: OnceLock::new() })
    }

    /// Memory of a simulation.
    ///
    /// # Safety
    /// `start` must be aligned to 4,096 bytes and valid for reads and writes of `len` bytes for as long as `owner` lives, and the owner must
    /// touch only what netmap leaves to a kernel, slots and buffers by plain accesses and the words of a ring's header by atomic ones.
    #[cfg(any(test, feature = "simulated"))]
    pub(crate) unsafe fn from_raw_parts(start: NonNull<u8>, len: usize, owner: Arc<dyn Any + Send + Sync>) -> Region {
        Region { start, len, id: 1, owner: Owner::Borrowed { _owner: owner }, buffers: OnceLock::new() }
    }

    /// The number that the kernel calls it by; 1 is the one that interfaces share by default.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Bytes of all of it.
    pub fn size(&self) -> usize {
        self.len
    }

    /// Where a `T` lies at `offset`. `None` when it is not all inside, or not aligned.
    pub(crate) fn at<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let end = offset.checked_add(size_of::<T>())?;
        // The start is aligned to a page, whether mapped or borrowed.
        let fits = end <= self.len && offset.is_multiple_of(align_of::<T>());
        // SAFETY: `offset` lies in the memory.
        fits.then(|| unsafe { self.start.add(offset) }.cast())
    }

    /// Says where the buffers lie, the first time; afterwards whether they lie there.
    pub(crate) fn set_buffers(&self, base: usize, size: usize) -> bool {
        let count = self.len.checked_sub(base).and_then(|room| room.checked_div(size)).unwrap_or(0);
        let new = || Buffers { base, size, held: (0..count).map(|_| AtomicBool::new(false)).collect() };
        let set = self.buffers.get_or_init(new);
        (set.base, set.size) == (base, size) && count > FIRST as usize
    }

    /// Whether there can be a buffer of this number.
    #[inline]
    pub(crate) fn has_buffer(&self, number: u32) -> bool {
        number >= FIRST && self.buffers.get().is_some_and(|buffers| (number as usize) < buffers.held.len())
    }

    /// Takes a buffer in hand. `None` when there is none of this number, or somebody has it.
    #[inline]
    pub(crate) fn acquire(&self, number: u32) -> Option<BufferGuard<'_>> {
        let buffers = self.buffers.get()?;
        let held = buffers.held.get(number as usize)?;
        if number < FIRST || held.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(BufferGuard { start: self.start, buffers, number })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if matches!(self.owner, Owner::Mapping) {
            // SAFETY: exactly what `map` mapped, once; every ring and every buffer in hand keeps this value alive.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}

/// A buffer in hand: nobody else in this process has its bytes.
pub(crate) struct BufferGuard<'r> {
    start: NonNull<u8>,
    buffers: &'r Buffers,
    number: u32,
}

impl std::fmt::Debug for BufferGuard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufferGuard({})", self.number)
    }
}

impl BufferGuard<'_> {
    /// Its number.
    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// All its bytes.
    #[inline]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let Buffers { base, size, .. } = *self.buffers;
        // SAFETY: the book has an entry for each buffer that lies in the memory, so this one lies there, and the memory outlives `'r`. The book
        // gives it to this value alone until that is dropped, and the borrow of `self` to one reference. The slot it came from is ours, so that
        // a kernel that keeps its word does not touch it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(base + self.number as usize * size), size) }
    }
}

impl Drop for BufferGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(held) = self.buffers.held.get(self.number as usize) {
            held.store(false, Ordering::Release);
        }
    }
}
