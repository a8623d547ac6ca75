//! Unsafe fence: two hints to the machine for which there is no safe call, a prefetch and a wish for huge pages. Neither changes what any memory holds.
#![allow(unsafe_code)]

/// Asks for the cache line of `place`, so that a later access need not wait for memory. Does nothing where there is no such instruction.
#[inline(always)]
pub(super) fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86_64 has SSE; a prefetch neither faults nor changes memory, whatever the address, and this one is of a live reference.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Asks the kernel to back the spare room of `room` with huge pages once it is touched: random lookups then miss the TLB half as often. A kernel that
/// has none, or does not want to, is no error.
pub(super) fn wish_huge_pages<T>(room: &mut Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let spare = room.spare_capacity_mut();
        let start = spare.as_mut_ptr() as usize;
        let end = (start + std::mem::size_of_val(spare)) & !(PAGE - 1);
        let start = start.next_multiple_of(PAGE);
        if start < end {
            // SAFETY: the range is whole pages inside one allocation that we hold exclusively; MADV_HUGEPAGE changes how it is backed, not what it holds.
            let _ = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = room;
}
