//! A batch of frames on its way to a worker and back: copies, each in a slot with room before it.

use crate::path::outbox;
use guideway_packet::frame::{Frame, HEADROOM, OWN_INTERFACE, Output};
use guideway_packet::io::{BATCH, Io};
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};

/// Received frames, and those that a worker may add to them.
const SLOTS: usize = BATCH + outbox::SLOTS;
/// Bytes that a frame may have beyond the MTU of the interface: as in `path::State`.
const BEYOND_MTU: usize = 18 + 44;
const LINE: usize = 64;

/// Frames in slots of one piece of memory. Slots that were never used cost no memory: the system gives it page by page.
#[derive(Debug)]
pub struct FrameBatch {
    bytes: Box<[u8]>,
    slot: usize,
    used: Vec<Used>,
    now: Time,
    sent: usize,
}

#[derive(Clone, Copy, Debug)]
struct Used {
    start: usize,
    len: usize,
    verdict: Verdict,
    output: Output,
}

impl FrameBatch {
    /// An empty one, for an interface with this MTU in bytes.
    pub fn new(mtu: u16) -> FrameBatch {
        let slot = slot_size(mtu);
        FrameBatch { bytes: vec![0; slot * SLOTS].into_boxed_slice(), slot, used: Vec::with_capacity(SLOTS), now: Time(0), sent: 0 }
    }

    /// Adds a received frame; it is cut to a slot, and so to what an interface with this MTU can have received. The first one gives the batch its time.
    #[inline]
    pub fn put(&mut self, frame: &[u8], now: Time) {
        if self.used.is_empty() {
            self.now = now;
        }
        let frame = frame.get(..self.slot - HEADROOM).unwrap_or(frame);
        self.copy(frame, HEADROOM, Verdict::Drop(Reason::Truncated), OWN_INTERFACE);
    }

    /// Adds a frame that is to be sent after the received ones. `false` when there is no room.
    pub fn append(&mut self, frame: &[u8], output: Output) -> bool {
        frame.len() <= self.slot && self.copy(frame, 0, Verdict::Transmit, output)
    }

    #[inline]
    fn copy(&mut self, frame: &[u8], start: usize, verdict: Verdict, output: Output) -> bool {
        let at = self.used.len() * self.slot + start;
        let Some(room) = self.bytes.get_mut(at..at + frame.len()) else { return false };
        room.copy_from_slice(frame);
        self.used.push(Used { start, len: frame.len(), verdict, output });
        true
    }

    /// Whether it holds a batch.
    pub fn is_full(&self) -> bool {
        self.used.len() >= BATCH
    }

    /// Has `work` decide over the frames; how many there were.
    #[inline]
    pub fn process(&mut self, work: &mut guideway_packet::io::BatchHandler<'_>) -> usize {
        let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
        let count = self.used.len().min(BATCH);
        for ((frame, bytes), used) in frames.iter_mut().zip(self.bytes.chunks_exact_mut(self.slot)).zip(&self.used) {
            *frame = Frame::new(bytes, used.start, used.len);
        }
        work(self.now, &mut frames[..count]);
        for (used, frame) in self.used.iter_mut().zip(&frames[..count]) {
            *used = Used { start: frame.start(), len: frame.len(), verdict: frame.verdict, output: frame.output };
        }
        count
    }

    /// Sends the frames that are to be transmitted; goes on where it stopped. `false` when the io has no room for more now.
    #[inline]
    pub fn send(&mut self, io: &mut dyn Io) -> std::io::Result<bool> {
        while let Some(used) = self.used.get(self.sent) {
            let at = self.sent * self.slot + used.start;
            if used.verdict == Verdict::Transmit && !io.send_by(&self.bytes[at..at + used.len], used.output)? {
                return Ok(false);
            }
            self.sent += 1;
        }
        Ok(true)
    }

    /// Empties it, and makes room for frames of an interface with this MTU in bytes, if there is less.
    pub fn reset(&mut self, mtu: u16) {
        if slot_size(mtu) > self.slot {
            *self = FrameBatch::new(mtu);
        }
        self.used.clear();
        self.sent = 0;
    }
}

/// Bytes of a slot: an odd number of cache lines. The heads of all frames would fall into the same few sets of the cache otherwise.
fn slot_size(mtu: u16) -> usize {
    ((HEADROOM + usize::from(mtu) + BEYOND_MTU).div_ceil(LINE) | 1) * LINE
}
