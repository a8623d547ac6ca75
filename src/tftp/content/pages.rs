//! The pages of a file as a mapping, populated on other threads: a page that is not in memory would make a system call of the event loop wait.

use super::source::Borrowed;
use guideway_sys::Mapping;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Smallest file that is mapped: for smaller ones, a mapping costs more than reads.
const MIN_MAPPED_SIZE: u64 = 64 * 1024;
/// Bytes that are populated at once.
const CHUNK: u64 = 1 << 20;

/// State of a chunk; 0 is a chunk that nobody needed yet.
const REQUESTED: u8 = 1;
const POPULATED: u8 = 2;

/// The pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    mapping: OnceLock<Option<Mapping>>,
    chunks: OnceLock<Box<[AtomicU8]>>,
}

impl Pages {
    /// Returns bytes of a file of `size` bytes, which must be the same each time; `None` if it is small, or if their pages are not populated yet.
    /// `populate` starts [`Pages::populate`] for a chunk on another thread.
    pub fn borrow_at(&self, size: u64, offset: u64, len: usize, populate: impl Fn(usize)) -> Option<Borrowed<'_>> {
        let end = offset.checked_add(len as u64).filter(|end| size >= MIN_MAPPED_SIZE && *end <= size && len > 0)?;
        let chunks = self.chunks.get_or_init(|| (0..size.div_ceil(CHUNK)).map(|_| AtomicU8::new(0)).collect());
        let range = usize::try_from(offset / CHUNK).ok()?..=usize::try_from((end - 1) / CHUNK).ok()?;
        let mut ready = true;
        for index in range {
            let chunk = chunks.get(index)?;
            if chunk.load(Ordering::Acquire) != POPULATED {
                ready = false;
                if chunk.compare_exchange(0, REQUESTED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    populate(index);
                }
            }
        }
        let mapping = self.mapping.get().filter(|_| ready)?.as_ref()?;
        let start = mapping.start().as_ptr().wrapping_add(usize::try_from(offset).ok()?);
        Some(Borrowed::of_memory(start, len))
    }

    /// Maps the file if needed, and brings the pages of a chunk into memory. Blocks.
    pub fn populate(&self, file: impl AsFd, size: u64, chunk: usize) {
        let map = || Mapping::file(file.as_fd(), usize::try_from(size).ok()?).ok();
        let Some(mapping) = self.mapping.get_or_init(map) else { return };
        let start = chunk * CHUNK as usize;
        // On failure, with kernels before 5.14 for one, the bytes are read instead.
        if mapping.populate(start..mapping.len().min(start + CHUNK as usize)).is_ok()
            && let Some(chunk) = self.chunks.get().and_then(|chunks| chunks.get(chunk))
        {
            chunk.store(POPULATED, Ordering::Release);
        }
    }
}
