//! Frames that do not leave in the buffer they came in: released fragments, further fragments, ICMP. Fixed room, made once.

use crate::frame::{Frame, HEADROOM};

/// Frames that one batch may originate or release.
pub const SLOTS: usize = 128;

/// Frames to be sent after a batch, in order.
#[derive(Debug)]
pub struct Outbox {
    bytes: Box<[u8]>,
    slot: usize,
    /// Start and length of each frame, within its slot.
    used: Vec<(usize, usize)>,
}

impl Outbox {
    /// An outbox for frames of up to `frame` bytes.
    pub fn new(frame: usize) -> Outbox {
        let slot = HEADROOM + frame;
        Outbox { bytes: vec![0; slot * SLOTS].into_boxed_slice(), slot, used: Vec::with_capacity(SLOTS) }
    }

    /// Makes a frame of `len` bytes by `fill`, which may wrap it further; kept only if `fill` says so.
    /// `None` when there is no slot, or the frame does not fit one.
    pub fn push<E>(&mut self, len: usize, fill: impl FnOnce(&mut Frame<'_>) -> Result<(), E>) -> Option<Result<(), E>> {
        if self.used.len() == SLOTS || HEADROOM + len > self.slot {
            return None;
        }
        let at = self.used.len() * self.slot;
        let mut frame = Frame::new(&mut self.bytes[at..at + self.slot], HEADROOM, len);
        let result = fill(&mut frame);
        if result.is_ok() {
            let bounds = (frame.start(), frame.len());
            self.used.push(bounds);
        }
        Some(result)
    }

    /// Hands every frame to `send` and empties the outbox.
    pub fn drain(&mut self, mut send: impl FnMut(&[u8])) {
        for (index, (start, len)) in self.used.drain(..).enumerate() {
            let at = index * self.slot + start;
            send(&self.bytes[at..at + len]);
        }
    }
}
