//! Faults on the way in, on top of any other io: frames lost, doubled, damaged, cut short, out of order. The same seed makes the same faults.

use super::{BATCH, Io, Turn, Work};
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::time::Time;
use guideway_packet::verdict::Verdict;
use std::collections::VecDeque;
use std::time::Duration;

/// How many of 1,000 received frames suffer each fault, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// The frame never comes.
    pub lose: u32,
    /// A second one comes in a later turn.
    pub double: u32,
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
    below: I,
    rates: Rates,
    random: Random,
    late: VecDeque<Vec<u8>>,
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

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % (limit.max(1) as u64)) as usize
    }
}

impl<I: Io> Fault<I> {
    /// Puts faults on top of `below`.
    pub fn new(below: I, seed: u64, rates: Rates) -> Fault<I> {
        // A state of zero would stay zero.
        Fault { below, rates, random: Random((seed ^ 0x9e37_79b9_7f4a_7c15) | 1), late: VecDeque::new(), spare: Vec::new() }
    }

    /// The io below.
    pub fn below(&mut self) -> &mut I {
        &mut self.below
    }

    /// Delivers the late frames of earlier turns, at most a batch.
    fn deliver_late(&mut self, due: usize, work: &mut Work<'_>) -> std::io::Result<Turn> {
        let due = due.min(BATCH).min(self.late.len());
        let mut turn = Turn { received: due, ..Turn::default() };
        if due == 0 {
            return Ok(turn);
        }
        let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
        for (frame, buffer) in frames.iter_mut().zip(self.late.iter_mut().take(due)) {
            let len = buffer.len() - HEADROOM;
            *frame = Frame::new(buffer, HEADROOM, len);
        }
        work(self.below.now(), &mut frames[..due]);
        for frame in &frames[..due] {
            if frame.verdict == Verdict::Transmit && !self.below.send(frame.bytes())? {
                turn.transmit_full += 1;
            }
        }
        self.spare.extend(self.late.drain(..due));
        Ok(turn)
    }
}

fn keep(late: &mut VecDeque<Vec<u8>>, spare: &mut Vec<Vec<u8>>, frame: &Frame<'_>) {
    let mut buffer = spare.pop().unwrap_or_default();
    buffer.clear();
    buffer.resize(HEADROOM, 0);
    buffer.extend_from_slice(frame.bytes());
    late.push_back(buffer);
}

impl<I: Io> Io for Fault<I> {
    fn turn(&mut self, wait: Duration, work: &mut Work<'_>) -> std::io::Result<Turn> {
        let Fault { below, rates, random, late, spare } = self;
        let due = late.len();
        let wait = if due > 0 { Duration::ZERO } else { wait };
        let mut lost = 0;
        let mut turn = below.turn(wait, &mut |now, frames| {
            // Frames that are not shown go behind the others while `work` runs, and back to their places after it.
            let mut shown = [0u8; BATCH];
            let mut count = 0;
            for (at, frame) in frames.iter_mut().enumerate().take(BATCH) {
                if random.hits(rates.corrupt) && !frame.is_empty() {
                    let bit = random.below(frame.len() * 8);
                    frame.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
                }
                if random.hits(rates.truncate) {
                    frame.truncate(random.below(frame.len()));
                }
                let (lose, delay, double) = (random.hits(rates.lose), random.hits(rates.delay), random.hits(rates.double));
                if !lose && (delay || double) {
                    keep(late, spare, frame);
                }
                if !lose && !delay {
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
        turn.received -= lost;
        let late = self.deliver_late(due, work)?;
        turn.received += late.received;
        turn.transmit_full += late.transmit_full;
        turn.end &= self.late.is_empty();
        Ok(turn)
    }

    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        self.below.send(frame)
    }

    fn now(&self) -> Time {
        self.below.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Bench};
    use crate::memory::Memory;

    impl Bench for Fault<Memory> {
        fn io(&mut self) -> &mut dyn Io {
            self
        }
        fn give(&mut self, frame: &[u8]) {
            self.below().push(frame);
        }
        fn take(&mut self) -> Option<Vec<u8>> {
            self.below().pop()
        }
    }

    /// Numbered frames sent through; the numbers in the order in which they came out, and how many were shown to the work.
    fn through(rates: Rates, seed: u64) -> (Vec<u32>, usize) {
        let mut io = Fault::new(Memory::new(64), seed, rates);
        let mut received = 0;
        for n in 0..10_000u32 {
            io.below().push(&[n.to_be_bytes(); 10].concat());
        }
        loop {
            let turn = io.turn(Duration::ZERO, &mut |_, frames| {
                for frame in frames {
                    frame.verdict = Verdict::Transmit;
                }
            });
            match turn.unwrap().received {
                0 if io.late.is_empty() && io.below.waiting() == 0 => break,
                more => received += more,
            }
        }
        let out = io.below.transmitted();
        assert_eq!(out.len(), received);
        (out.map(|f| f.first_chunk().map_or(u32::MAX, |n| u32::from_be_bytes(*n))).collect(), received)
    }

    #[test]
    fn without_faults_it_conforms() {
        conformance::all(&mut Fault::new(Memory::new(2048), 1, Rates::default()));
    }

    #[test]
    fn frames_are_lost_doubled_and_delayed_at_the_rate_asked_for() {
        let (lost, _) = through(Rates { lose: 100, ..Rates::default() }, 7);
        assert!((8_800..9_200).contains(&lost.len()), "{}", lost.len());
        assert!(lost.is_sorted());
        let (doubled, _) = through(Rates { double: 100, ..Rates::default() }, 7);
        assert!((10_800..11_200).contains(&doubled.len()), "{}", doubled.len());
        let (delayed, _) = through(Rates { delay: 100, ..Rates::default() }, 7);
        assert!(!delayed.is_sorted());
        let mut sorted = delayed;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10_000).collect::<Vec<_>>(), "each once");
    }

    #[test]
    fn the_same_seed_makes_the_same_faults() {
        let rates = Rates { lose: 50, double: 50, corrupt: 50, truncate: 50, delay: 50 };
        assert_eq!(through(rates, 3), through(rates, 3));
        assert_ne!(through(rates, 3), through(rates, 4));
    }

    #[test]
    fn damage_is_one_bit_and_cuts_are_at_the_end() {
        let mut io = Fault::new(Memory::new(64), 9, Rates { corrupt: 1000, truncate: 500, ..Rates::default() });
        for _ in 0..1000 {
            io.below().push(&[0; 40]);
        }
        let (mut cut, mut damaged) = (0, 0);
        while io.below.waiting() > 0 {
            let work = &mut |_: Time, frames: &mut [Frame<'_>]| {
                for frame in frames {
                    let bits: u32 = frame.bytes().iter().map(|b| b.count_ones()).sum();
                    assert!(bits <= 1);
                    damaged += bits;
                    cut += usize::from(frame.len() < 40);
                }
            };
            io.turn(Duration::ZERO, work).unwrap();
        }
        assert!((400..600).contains(&cut) && damaged > 600, "{cut} {damaged}");
    }
}
