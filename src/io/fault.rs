//! Faults on the way in, on top of any other io: frames lost, doubled, damaged, cut short, out of order. The same seed makes the same faults.

use super::{BATCH, BatchHandler, Io, PollResult};
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::loss::Losses;
use guideway_packet::time::Time;
use guideway_packet::verdict::Verdict;
use std::collections::VecDeque;
use std::time::Duration;

/// How many of 1,000 received frames suffer each fault, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// The frame never comes.
    pub loss: u32,
    /// A second one comes in a later turn.
    pub duplicate: u32,
    /// One bit is turned over.
    pub corrupt: u32,
    /// Some bytes at the end are missing.
    pub truncate: u32,
    /// The frame comes in a later turn, behind others.
    pub delay: u32,
}

/// An io whose received frames suffer faults.
///
/// Frames that come late are copies: transmitted with `send` of the io below, and one with the verdict `ToHost` ends here.
#[derive(Debug)]
pub struct Fault<I> {
    inner: I,
    rates: FaultRates,
    random: Random,
    delayed: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

/// Marsaglia's xorshift64 (2003): no more than repeatable.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn hits(&mut self, of_1000: u32) -> bool {
        self.next() % 1000 < u64::from(of_1000)
    }

    fn random_below(&mut self, limit: usize) -> usize {
        (self.next() % (limit.max(1) as u64)) as usize
    }
}

impl<I: Io> Fault<I> {
    /// Puts faults on top of `below`.
    pub fn new(inner: I, seed: u64, rates: FaultRates) -> Fault<I> {
        // A state of zero would stay zero.
        Fault { inner, rates, random: Random((seed ^ 0x9e37_79b9_7f4a_7c15) | 1), delayed: VecDeque::new(), spare: Vec::new() }
    }

    /// The io below.
    pub fn inner(&mut self) -> &mut I {
        &mut self.inner
    }

    /// Delivers the late frames of earlier turns, at most a batch.
    fn deliver_delayed(&mut self, due: usize, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let due = due.min(BATCH).min(self.delayed.len());
        let mut poll = PollResult { received: due, ..PollResult::default() };
        if due == 0 {
            return Ok(poll);
        }
        let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
        for (frame, buffer) in frames.iter_mut().zip(self.delayed.iter_mut().take(due)) {
            let len = buffer.len() - HEADROOM;
            *frame = Frame::new(buffer, HEADROOM, len);
        }
        work(self.inner.now(), &mut frames[..due]);
        for frame in &frames[..due] {
            if frame.verdict == Verdict::Transmit && !self.inner.send(frame.bytes())? {
                poll.transmit_full += 1;
            }
        }
        self.spare.extend(self.delayed.drain(..due));
        Ok(poll)
    }
}

fn keep(delayed: &mut VecDeque<Vec<u8>>, spare: &mut Vec<Vec<u8>>, frame: &Frame<'_>) {
    let mut buffer = spare.pop().unwrap_or_default();
    buffer.clear();
    buffer.resize(HEADROOM, 0);
    buffer.extend_from_slice(frame.bytes());
    delayed.push_back(buffer);
}

impl<I: Io> Io for Fault<I> {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let Fault { inner, rates, random, delayed, spare } = self;
        let due = delayed.len();
        let wait = if due > 0 { Duration::ZERO } else { wait };
        let mut lost = 0;
        let mut poll = inner.poll(wait, &mut |now, frames| {
            // Frames that are not shown go behind the others while `work` runs, and back to their places after it.
            let mut shown = [0u8; BATCH];
            let mut count = 0;
            for (at, frame) in frames.iter_mut().enumerate().take(BATCH) {
                if random.hits(rates.corrupt) && !frame.is_empty() {
                    let bit = random.random_below(frame.len() * 8);
                    frame.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
                }
                if random.hits(rates.truncate) {
                    frame.truncate(random.random_below(frame.len()));
                }
                let (loss, delay, duplicate) = (random.hits(rates.loss), random.hits(rates.delay), random.hits(rates.duplicate));
                if !loss && (delay || duplicate) {
                    keep(delayed, spare, frame);
                }
                if !loss && !delay {
                    shown[count] = at as u8;
                    count += 1;
                }
            }
            for (to, from) in shown[..count].iter().enumerate() {
                frames.swap(to, usize::from(*from));
            }
            if count > 0 {
                work(now, &mut frames[..count]);
            }
            for (to, from) in shown[..count].iter().enumerate().rev() {
                frames.swap(to, usize::from(*from));
            }
            lost += frames.len() - count;
        })?;
        poll.received -= lost;
        let delayed = self.deliver_delayed(due, work)?;
        poll.received += delayed.received;
        poll.transmit_full += delayed.transmit_full;
        poll.end &= self.delayed.is_empty();
        Ok(poll)
    }

    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        self.inner.send(frame)
    }

    fn losses(&self) -> Losses {
        self.inner.losses()
    }

    fn now(&self) -> Time {
        self.inner.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, IoFixture};
    use crate::memory::Memory;

    impl IoFixture for Fault<Memory> {
        fn io(&mut self) -> &mut dyn Io {
            self
        }
        fn inject(&mut self, frame: &[u8]) {
            self.inner().push(frame);
        }
        fn take_transmitted(&mut self) -> Option<Vec<u8>> {
            self.inner().pop()
        }
    }

    /// Numbered frames sent through; the numbers in the order in which they came out, and how many were shown to the work.
    fn through(rates: FaultRates, seed: u64) -> (Vec<u32>, usize) {
        let mut io = Fault::new(Memory::new(64), seed, rates);
        let mut received = 0;
        for n in 0..10_000u32 {
            io.inner().push(&[n.to_be_bytes(); 10].concat());
        }
        loop {
            let poll = io.poll(Duration::ZERO, &mut |_, frames| {
                for frame in frames {
                    frame.verdict = Verdict::Transmit;
                }
            });
            match poll.unwrap().received {
                0 if io.delayed.is_empty() && io.inner.waiting() == 0 => break,
                more => received += more,
            }
        }
        let out = io.inner.transmitted();
        assert_eq!(out.len(), received);
        (out.map(|f| f.first_chunk().map_or(u32::MAX, |n| u32::from_be_bytes(*n))).collect(), received)
    }

    #[test]
    fn without_faults_it_conforms() {
        conformance::all(&mut Fault::new(Memory::new(2048), 1, FaultRates::default()));
    }

    #[test]
    fn frames_are_lost_doubled_and_delayed_at_the_configured_rate() {
        let (lost, _) = through(FaultRates { loss: 100, ..FaultRates::default() }, 7);
        assert!((8_800..9_200).contains(&lost.len()), "{}", lost.len());
        assert!(lost.is_sorted());
        let (doubled, _) = through(FaultRates { duplicate: 100, ..FaultRates::default() }, 7);
        assert!((10_800..11_200).contains(&doubled.len()), "{}", doubled.len());
        let (delayed, _) = through(FaultRates { delay: 100, ..FaultRates::default() }, 7);
        assert!(!delayed.is_sorted());
        let mut sorted = delayed;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10_000).collect::<Vec<_>>(), "each once");
    }

    #[test]
    fn the_same_seed_makes_the_same_faults() {
        let rates = FaultRates { loss: 50, duplicate: 50, corrupt: 50, truncate: 50, delay: 50 };
        assert_eq!(through(rates, 3), through(rates, 3));
        assert_ne!(through(rates, 3), through(rates, 4));
    }

    #[test]
    fn damage_is_one_bit_and_cuts_are_at_the_end() {
        let mut io = Fault::new(Memory::new(64), 9, FaultRates { corrupt: 1000, truncate: 500, ..FaultRates::default() });
        for _ in 0..1000 {
            io.inner().push(&[0; 40]);
        }
        let (mut cut, mut damaged) = (0, 0);
        while io.inner.waiting() > 0 {
            let work = &mut |_: Time, frames: &mut [Frame<'_>]| {
                for frame in frames {
                    let bits: u32 = frame.bytes().iter().map(|b| b.count_ones()).sum();
                    assert!(bits <= 1);
                    damaged += bits;
                    cut += usize::from(frame.len() < 40);
                }
            };
            io.poll(Duration::ZERO, work).unwrap();
        }
        assert!((400..600).contains(&cut) && damaged > 600, "{cut} {damaged}");
    }
}
