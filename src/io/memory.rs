//! Packets in and out of queues in memory: for tests and benchmarks.

use super::{BATCH, BatchHandler, Io, PollResult};
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::time::Time;
use guideway_packet::verdict::Verdict;
use std::collections::VecDeque;
use std::time::Duration;

#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn frame(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

/// A queue of frames to receive, one of frames transmitted, one of frames handed to the host.
///
/// Allocates nothing in a turn once it has seen as many frames at a time as it will see: buffers go round.
#[derive(Debug)]
pub struct Memory {
    incoming: VecDeque<Buffer>,
    transmitted: VecDeque<Buffer>,
    to_host: VecDeque<Buffer>,
    spare: Vec<Buffer>,
    frame_size: usize,
    room: usize,
    end_of_input: bool,
    now: Time,
}

impl Memory {
    /// Empty queues, for frames of at most `frame_size` bytes; time starts at 0.
    pub fn new(frame_size: usize) -> Memory {
        Memory {
            incoming: VecDeque::new(),
            transmitted: VecDeque::new(),
            to_host: VecDeque::new(),
            spare: Vec::new(),
            frame_size,
            room: usize::MAX,
            end_of_input: false,
            now: Time(0),
        }
    }

    /// Makes buffers beforehand so that even the first `frames` frames find one.
    pub fn reserve(&mut self, frames: usize) {
        while self.spare.len() < frames {
            let buffer = self.new_buffer();
            self.spare.push(buffer);
        }
        for queue in [&mut self.incoming, &mut self.transmitted, &mut self.to_host] {
            queue.reserve(frames);
        }
    }

    /// Queues a frame to be received; bytes beyond the frame size given to `new` are cut off.
    pub fn push(&mut self, frame: &[u8]) {
        let buffer = self.fill(frame);
        self.incoming.push_back(buffer);
    }

    /// The oldest frame transmitted, taken out of the queue.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let buffer = self.transmitted.pop_front()?;
        let frame = buffer.frame().to_vec();
        self.spare.push(buffer);
        Some(frame)
    }

    /// The frames transmitted and not yet taken out, oldest first.
    pub fn transmitted(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.transmitted.iter().map(Buffer::frame)
    }

    /// The frames handed to the host and not yet taken out, oldest first.
    pub fn to_host(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.to_host.iter().map(Buffer::frame)
    }

    /// Frames still to be received.
    pub fn waiting(&self) -> usize {
        self.incoming.len()
    }

    /// Forgets what was transmitted and what was handed to the host.
    pub fn clear(&mut self) {
        self.spare.extend(self.transmitted.drain(..));
        self.spare.extend(self.to_host.drain(..));
    }

    /// Lets the queue of transmitted frames hold at most `frames`: beyond, `transmit_full` is counted.
    pub fn set_room(&mut self, frames: usize) {
        self.room = frames;
    }

    /// With `true`, a turn that finds nothing to receive says that nothing will come again.
    pub fn set_end_of_input(&mut self, end_of_input: bool) {
        self.end_of_input = end_of_input;
    }

    /// Sets the time; earlier than now changes nothing.
    pub fn set_now(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    fn new_buffer(&self) -> Buffer {
        Buffer { bytes: vec![0; HEADROOM + self.frame_size].into_boxed_slice(), start: HEADROOM, len: 0 }
    }

    fn fill(&mut self, frame: &[u8]) -> Buffer {
        let mut buffer = self.spare.pop().unwrap_or_else(|| self.new_buffer());
        let len = frame.len().min(self.frame_size);
        buffer.bytes[HEADROOM..HEADROOM + len].copy_from_slice(&frame[..len]);
        (buffer.start, buffer.len) = (HEADROOM, len);
        buffer
    }
}

impl Io for Memory {
    /// When nothing is there, time goes on by `wait` at once.
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let count = self.incoming.len().min(BATCH);
        if count == 0 {
            self.now = self.now.plus(wait);
            return Ok(PollResult { end: self.end_of_input, ..PollResult::default() });
        }
        let mut outcome = [(0, 0, Verdict::ToHost); BATCH];
        {
            let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
            for (frame, buffer) in frames.iter_mut().zip(self.incoming.iter_mut()) {
                *frame = Frame::new(&mut buffer.bytes, buffer.start, buffer.len);
            }
            work(self.now, &mut frames[..count]);
            for (outcome, frame) in outcome.iter_mut().zip(&frames[..count]) {
                *outcome = (frame.start(), frame.len(), frame.verdict);
            }
        }
        let mut poll = PollResult { received: count, ..PollResult::default() };
        for ((start, len, verdict), mut buffer) in outcome.into_iter().zip(self.incoming.drain(..count)) {
            (buffer.start, buffer.len) = (start, len);
            match verdict {
                Verdict::Transmit if self.transmitted.len() < self.room => self.transmitted.push_back(buffer),
                Verdict::ToHost => self.to_host.push_back(buffer),
                other => {
                    poll.transmit_full += usize::from(other == Verdict::Transmit);
                    self.spare.push(buffer);
                }
            }
        }
        Ok(poll)
    }

    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        if self.transmitted.len() >= self.room {
            return Ok(false);
        }
        let buffer = self.fill(frame);
        self.transmitted.push_back(buffer);
        Ok(true)
    }

    fn now(&self) -> Time {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, IoFixture};

    struct Queues(Memory);

    impl IoFixture for Queues {
        fn io(&mut self) -> &mut dyn Io {
            &mut self.0
        }
        fn inject(&mut self, frame: &[u8]) {
            self.0.push(frame);
        }
        fn take_transmitted(&mut self) -> Option<Vec<u8>> {
            self.0.pop()
        }
    }

    #[test]
    fn conforms() {
        conformance::all(&mut Queues(Memory::new(2048)));
    }

    #[test]
    fn no_room_is_counted_and_the_host_gets_its_frames() {
        let mut io = Memory::new(64);
        io.set_room(2);
        for n in 0..5u8 {
            io.push(&[n; 20]);
        }
        let poll = io
            .poll(Duration::ZERO, &mut |_, frames| {
                for frame in frames {
                    frame.verdict = if frame.bytes()[0] == 0 { Verdict::ToHost } else { Verdict::Transmit };
                }
            })
            .unwrap();
        assert_eq!(poll, PollResult { received: 5, transmit_full: 2, end: false });
        assert_eq!(io.transmitted().collect::<Vec<_>>(), [[1u8; 20], [2; 20]]);
        assert_eq!(io.to_host().collect::<Vec<_>>(), [[0u8; 20]]);
        assert!(!io.send(&[9; 20]).unwrap());
        io.clear();
        assert!(io.send(&[9; 20]).unwrap());
        assert_eq!(io.spare.len(), 4, "every buffer is somewhere");
    }

    #[test]
    fn time_goes_on_while_waiting_and_an_end_is_said() {
        let mut io = Memory::new(64);
        assert_eq!(io.poll(Duration::from_millis(3), &mut |_, _| panic!("nothing came")).unwrap(), PollResult::default());
        assert_eq!(io.now(), Time(3_000_000));
        io.set_now(Time(1));
        assert_eq!(io.now(), Time(3_000_000), "time never goes back");
        io.set_end_of_input(true);
        assert!(io.poll(Duration::ZERO, &mut |_, _| ()).unwrap().end);
    }
}
