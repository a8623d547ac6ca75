//! A frame in a buffer with room before and after it, so that headers are taken off and put on in place.

use crate::verdict::{Reason, Verdict};

/// Room that every io leaves for the front of a received frame to grow into, in bytes: enough to wrap plain IPv4 in GRE over IPv6 (40 + 4), and
/// then some. It lies before the frame, or behind it where cards write to the start of a buffer: then a frame that grows is moved, once.
pub const HEADROOM: usize = 64;

/// One received frame, from its Ethernet header on, in place in the buffer of the io that received it.
#[derive(Debug)]
pub struct Frame<'a> {
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    /// What the path decided. Starts as a drop so that a frame nobody looked at is never sent.
    pub verdict: Verdict,
    /// Where the frame leaves if the verdict is to transmit it.
    pub output: Output,
}

/// The interface that a frame leaves by: the kernel's index of it, or 0 for the interface of the io.
pub type Output = u32;

/// The interface of the io itself.
pub const OWN_INTERFACE: Output = 0;

/// The loopback, which has this index in every network namespace: by it leaves GRE to a server of this host.
pub const LOOPBACK: Output = 1;

impl<'a> Frame<'a> {
    /// A frame of `len` bytes that starts at `start` in `buffer`. Bounds that do not fit the buffer are cut to it.
    pub fn new(buffer: &'a mut [u8], start: usize, len: usize) -> Self {
        let start = start.min(buffer.len());
        let end = start.saturating_add(len).min(buffer.len());
        Frame { buffer, start, end, verdict: Verdict::Drop(Reason::Truncated), output: OWN_INTERFACE }
    }

    /// The bytes of the frame.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The bytes of the frame, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Where the frame starts in its buffer.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes by which the front can grow.
    pub fn room(&self) -> usize {
        self.buffer.len() - self.len()
    }

    /// The `N` bytes from `at` on; of the buffer behind the frame, where the frame is shorter. For what was found in the frame before.
    #[inline(always)]
    pub fn peek<const N: usize>(&self, at: u16) -> Option<&[u8; N]> {
        // No buffer has 4 GiB. Said like this, the compiler knows that the sum does not overflow.
        let from = self.start as u32 as usize + usize::from(at);
        self.buffer.get(from..from + N)?.first_chunk()
    }

    /// Takes `old` bytes off the front and puts `new` in their place (not initialised: the caller writes them all).
    /// `None`, and nothing changed, when the frame has less than `old` bytes or the buffer too little room.
    #[inline]
    pub fn replace_front(&mut self, old: usize, new: usize) -> Option<&mut [u8]> {
        if old > self.len() {
            return None;
        }
        self.start = match (self.start + old).checked_sub(new) {
            Some(start) => start,
            None => self.move_back(old, new)?,
        };
        Some(&mut self.buffer[self.start..self.start + new])
    }

    /// Moves all but the first `old` bytes so far back that `new` bytes fit before them, and says where these start.
    #[cold]
    fn move_back(&mut self, old: usize, new: usize) -> Option<usize> {
        let kept = self.start + old..self.end;
        let end = new.checked_add(kept.len()).filter(|end| *end <= self.buffer.len())?;
        self.buffer.copy_within(kept, new);
        self.end = end;
        Some(0)
    }

    /// Keeps of the frame the `len` bytes from `old` on, and puts `HEAD` bytes before them (not initialised: the caller writes them all).
    /// `None`, and nothing changed, when the frame has not so many bytes or the buffer too little headroom.
    #[inline(always)]
    pub fn replace_header<const HEAD: usize>(&mut self, old: u16, len: u16) -> Option<&mut [u8; HEAD]> {
        // No sum of these overflows: a buffer has at most `isize::MAX` bytes.
        let kept = self.start + usize::from(old);
        let end = kept + usize::from(len);
        if end > self.end {
            return None;
        }
        let Some(start) = kept.checked_sub(HEAD) else { return self.replace_header_moved(old, end) };
        let head = self.buffer.get_mut(start..kept)?.first_chunk_mut()?;
        (self.start, self.end) = (start, end);
        Some(head)
    }

    /// The same where there is no headroom: what is kept is moved.
    #[cold]
    fn replace_header_moved<const HEAD: usize>(&mut self, old: u16, end: usize) -> Option<&mut [u8; HEAD]> {
        let before = std::mem::replace(&mut self.end, end);
        let Some(start) = self.move_back(usize::from(old), HEAD) else {
            self.end = before;
            return None;
        };
        self.start = start;
        self.buffer.first_chunk_mut()
    }

    /// Cuts the frame to its first `len` bytes; longer than the frame changes nothing.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start.saturating_add(len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_shrinks_and_grows_within_the_headroom() {
        let mut buffer = [7u8; 20];
        let mut frame = Frame::new(&mut buffer, 8, 10);
        assert_eq!(frame.replace_front(4, 6).map(|head| head.len()), Some(6));
        assert_eq!((frame.start(), frame.len()), (6, 12));
        assert!(frame.replace_front(0, 9).is_none(), "the buffer has room for 8 bytes more");
        assert!(frame.replace_front(13, 0).is_none(), "the frame has 12 bytes");
        assert_eq!((frame.start(), frame.len()), (6, 12));
        frame.truncate(5);
        assert_eq!(frame.len(), 5);
    }

    #[test]
    fn a_new_head_takes_the_place_of_the_old_one_and_the_rest_is_cut() {
        let mut buffer: [u8; 20] = std::array::from_fn(|n| n as u8);
        let mut frame = Frame::new(&mut buffer, 8, 10);
        assert_eq!(frame.replace_header::<6>(4, 3).map(|head| *head), Some([6, 7, 8, 9, 10, 11]));
        assert_eq!(frame.bytes(), [6, 7, 8, 9, 10, 11, 12, 13, 14]);
        for (old, len) in [(0, 10), (10, 0), (u16::MAX, 1), (3, u16::MAX)] {
            assert!(frame.replace_header::<2>(old, len).is_none(), "{old} {len}");
        }
        assert_eq!((frame.start(), frame.len()), (6, 9));
        frame.replace_header::<8>(1, 3).unwrap().fill(0xee);
        assert_eq!(frame.bytes(), [0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 7, 8, 9], "6 bytes of headroom were left");
        assert!(frame.replace_header::<18>(0, 3).is_none() && frame.len() == 11);
    }

    #[test]
    fn a_frame_without_headroom_is_moved_to_grow() {
        let mut buffer: Vec<u8> = (0..20).collect();
        let mut frame = Frame::new(&mut buffer, 1, 10);
        assert_eq!(frame.room(), 10);
        frame.replace_front(2, 9).unwrap().fill(0xee);
        assert_eq!((frame.start(), frame.bytes()), (0, &[[0xee; 9].as_slice(), &[3, 4, 5, 6, 7, 8, 9, 10]].concat()[..]));
        assert_eq!(frame.replace_front(9, 12).map(|head| head.len()), Some(12));
        assert_eq!((frame.room(), &frame.bytes()[12..]), (0, &[3, 4, 5, 6, 7, 8, 9, 10][..]));
        assert!(frame.replace_front(0, 1).is_none() && frame.replace_front(0, usize::MAX).is_none());
        assert_eq!(frame.len(), 20);
    }

    #[test]
    fn bounds_outside_the_buffer_are_cut_to_it() {
        let mut buffer = [0u8; 4];
        assert_eq!(Frame::new(&mut buffer, 2, 9).len(), 2);
        assert!(Frame::new(&mut buffer, 9, usize::MAX).is_empty());
    }
}
