//! Frames that do not leave in the buffer they came in: released fragments, further fragments, ICMP. Fixed room, made once.

use guideway_packet::frame::{Frame, HEADROOM, Output};

/// Frames that one batch may originate or release.
pub const SLOTS: usize = 256;

/// Frames to be sent after a batch, in order.
#[derive(Debug)]
pub struct Outbox {
    bytes: Box<[u8]>,
    slot: usize,
    used: Vec<Used>,
}

/// A frame in a slot.
#[derive(Clone, Copy, Debug)]
struct Used {
    start: usize,
    len: usize,
    output: Output,
    /// Made by us; else a received packet that was held.
    originated: bool,
}

impl Outbox {
    /// An outbox for frames of up to `frame` bytes.
    pub fn new(frame: usize) -> Outbox {
        let slot = HEADROOM + frame;
        Outbox { bytes: vec![0; slot * SLOTS].into_boxed_slice(), slot, used: Vec::with_capacity(SLOTS) }
    }

    /// Makes room for frames of up to `frame` bytes, if there is less. Between batches: the outbox is empty.
    pub fn make_room(&mut self, frame: usize) {
        if HEADROOM + frame > self.slot && self.used.is_empty() {
            *self = Outbox::new(frame);
        }
    }

    /// How many more frames fit.
    pub fn room(&self) -> usize {
        SLOTS - self.used.len()
    }

    /// Originates a frame of `len` bytes, made by `fill`, which may wrap it further. It is kept only if `fill` succeeds.
    /// `None` when there is no slot, or the frame does not fit one.
    pub fn originate<E>(&mut self, len: usize, fill: impl FnOnce(&mut Frame<'_>) -> Result<(), E>) -> Option<Result<(), E>> {
        if self.room() == 0 || HEADROOM + len > self.slot {
            return None;
        }
        let at = self.used.len() * self.slot;
        let mut frame = Frame::new(&mut self.bytes[at..at + self.slot], HEADROOM, len);
        let result = fill(&mut frame);
        if result.is_ok() {
            let (start, len, output) = (frame.start(), frame.len(), frame.output);
            self.used.push(Used { start, len, output, originated: true });
        }
        Some(result)
    }

    /// Takes a copy of a received frame that was held. `false` when there is no room.
    pub fn release(&mut self, frame: &[u8], output: Output) -> bool {
        if self.room() == 0 || frame.len() > self.slot {
            return false;
        }
        let at = self.used.len() * self.slot;
        self.bytes[at..at + frame.len()].copy_from_slice(frame);
        self.used.push(Used { start: 0, len: frame.len(), output, originated: false });
        true
    }

    /// Hands every frame, where it leaves, and whether we originated it, to `send`, and empties the outbox.
    pub fn drain(&mut self, mut send: impl FnMut(&[u8], Output, bool)) {
        for (index, used) in self.used.drain(..).enumerate() {
            let at = index * self.slot + used.start;
            send(&self.bytes[at..at + used.len], used.output, used.originated);
        }
    }
}
