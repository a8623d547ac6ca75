//! Unsafe fence of the benchmarks: memory like that of the flow table, read in the same way, as a reference for it.
#![allow(unsafe_code)]

/// One cache line.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Line([u64; 8]);

/// So many bytes of lines, backed with huge pages where the flow table would be, and touched.
pub fn lines(bytes: usize) -> Vec<Line> {
    const PAGE: usize = 4096;
    let count = bytes.div_ceil(size_of::<Line>());
    let mut lines: Vec<Line> = Vec::with_capacity(count);
    let start = (lines.as_mut_ptr() as usize).next_multiple_of(PAGE);
    let end = (lines.as_mut_ptr() as usize + count * size_of::<Line>()) & !(PAGE - 1);
    if start < end {
        // SAFETY: whole pages inside one allocation that we hold exclusively; MADV_HUGEPAGE changes how it is backed, not what it holds.
        let _ = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
    lines.resize(count, Line([1; 8]));
    lines
}

impl Line {
    /// Asks for it, so that a later read need not wait for memory.
    #[inline(always)]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86_64 has SSE; a prefetch neither faults nor changes memory, and this one is of a live reference.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(self).cast());
        }
    }

    /// A word of it.
    #[inline(always)]
    pub fn read(&self) -> u64 {
        self.0[0]
    }
}
