//! What must hold whatever a stranger sends: bodies that property tests call with random bytes, and fuzz targets (`tests/fuzz/`, run
//! by `tools/fuzz`) with bytes that find new ways through the code.
//!
//! Each reads from its bytes what happens, an event after the other, so that a byte that changes changes one event.

use super::options::{BLKSIZE, Limits, Rollover, Terms, negotiate};
use super::packet::Packet;
use super::transfer::{Ack, Pace, Silence, Step, Transfer};
use super::upload::{self, Answer, Took, Upload};
use guideway_packet::time::Time;
use std::time::Duration;

/// What happens, read from the bytes of a fuzzer; zeroes when there are no more.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn below(&mut self, bound: u16) -> u16 {
        self.number() % bound
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn terms(&mut self) -> Terms {
        Terms {
            blksize: 8 + self.below(64),
            window: 1 + self.below(70),
            timeout: Some(self.byte()).filter(|seconds| *seconds > 127).map(|seconds| Duration::from_secs(u64::from(seconds - 127))),
            rollover: if self.byte().is_multiple_of(2) { Rollover::Zero } else { Rollover::One },
        }
    }

    /// From a microsecond to half an hour, about as often of each order of magnitude.
    fn wait(&mut self) -> Duration {
        let exponent = self.byte() % 32;
        Duration::from_micros(1 << exponent)
    }
}

/// Any datagram: it is understood or refused, what was understood is written back to the same, and options are granted within all limits.
pub fn packet(bytes: &[u8]) {
    let Ok(packet) = Packet::parse(bytes) else { return };
    let mut again = Vec::new();
    packet.emit(&mut again);
    assert_eq!(Packet::parse(&again), Ok(packet));
    let Packet::Request(request) = packet else { return };
    let limits = Limits::default();
    for (cap, size) in [(u16::MAX, None), (1468, Some(0)), (8, Some(u64::MAX))] {
        let (terms, oack) = negotiate(request.options, &limits, || cap, size);
        assert!(BLKSIZE.contains(&u64::from(terms.blksize)) && (1..=limits.window).contains(&terms.window), "{terms:?}");
        assert!(terms.window == 1 || u32::from(terms.window) * u32::from(terms.blksize) <= limits.window_bytes, "{terms:?}");
        let Some(oack) = oack else {
            assert_eq!(terms, Terms::plain(&limits));
            continue;
        };
        let Ok(Packet::Oack(granted)) = Packet::parse(&oack) else { unreachable!("{oack:?} is no OACK") };
        for (name, _) in granted.iter() {
            assert!(request.options.iter().any(|(asked, _)| asked.eq_ignore_ascii_case(name)), "{name:?} was not asked for");
        }
    }
}

/// Any acknowledgements at any times: never more than a window under way, nothing sent that was acknowledged, no end but the file's or that of
/// patience.
pub fn transfer(bytes: &[u8]) {
    let mut script = Script(bytes);
    let (pace, terms, oack) = (Pace::default(), script.terms(), script.byte() % 2 == 0);
    let last = 1 + u64::from(script.number()) * if script.byte() % 4 == 0 { 50 } else { 1 };
    let mut now = Time(0).plus(Duration::from_secs(1));
    let mut transfer = Transfer::new(terms, oack, &pace, now);
    transfer.ends_with(last);
    let (mut highest, mut heard) = (0, false);
    // What is wanted at the beginning is sent with the first event.
    while !script.is_over() {
        let before = transfer.acked();
        let step = match script.byte() % 6 {
            event @ 0..=2 => {
                let near = transfer.wire(before + u64::from(script.below(terms.window + 2)));
                let (ack, step) = transfer.on_ack(if event == 0 { script.number() } else { near }, &pace, now);
                heard |= ack == Ack::New;
                assert!(ack == Ack::New || transfer.acked() == before, "{ack:?} changed {before}");
                // The Sorcerer's Apprentice.
                assert!(ack == Ack::New || terms.window > 1 || step == Step::Wait, "{ack:?} in lock-step: {step:?}");
                step
            }
            3 => {
                now = now.plus(script.wait());
                transfer.on_timer(&pace, now)
            }
            4 => {
                now = now.max(transfer.deadline());
                transfer.on_timer(&pace, now)
            }
            _ => {
                // Content need not be at hand at once.
                let wanted = transfer.wanted();
                let upto = wanted.start().saturating_add(u64::from(script.byte())).min(*wanted.end());
                if upto >= *wanted.start() {
                    transfer.sent(upto, now);
                    highest = highest.max(upto);
                }
                Step::Wait
            }
        };
        let (acked, wanted) = (transfer.acked(), transfer.wanted());
        assert!(before <= acked && acked <= highest && highest <= last, "{before} {acked} {highest} {last}");
        assert!(wanted.is_empty() || (*wanted.start() > acked && *wanted.end() <= last.min(acked + u64::from(terms.window))), "{wanted:?}");
        assert_eq!(transfer.everything_sent(), highest == last && (!oack || heard), "{highest} of {last}");
        match step {
            Step::Done => {
                assert_eq!(acked, last);
                return;
            }
            Step::GiveUp(why) => {
                assert!(acked < last && (why != Silence::AtTheEnd || highest == last), "{why:?}");
                assert!(why != Silence::Never || !heard, "{why:?}, and it was heard");
                return;
            }
            Step::Oack => assert!(oack && !heard),
            Step::Wait | Step::Blocks => assert!(acked < last),
        }
    }
}

/// Any blocks at any times: they are kept in order and once, never longer than agreed, and the answer names the last one kept.
pub fn upload(bytes: &[u8]) {
    let mut script = Script(bytes);
    let (pace, terms, oack) = (Pace::default(), script.terms(), script.byte() % 2 == 0);
    let mut now = Time(0).plus(Duration::from_secs(1));
    let mut upload = Upload::new(terms, oack, &pace, now);
    let mut kept = 0;
    while !script.is_over() {
        match script.byte() % 4 {
            event @ 0..=2 => {
                let due = terms.rollover.wire(kept + 1 + u64::from(script.below(terms.window + 2)));
                let (number, length) = (if event == 0 { script.number() } else { due }, usize::from(script.below(80)));
                let answer = match upload.on_data(number, length, now) {
                    Took::Bytes { answer, last } => {
                        assert_eq!(number, terms.rollover.wire(kept + 1));
                        kept += 1;
                        assert_eq!(last, length < usize::from(terms.blksize));
                        assert!(length <= usize::from(terms.blksize) && !(answer && last));
                        answer
                    }
                    Took::TooLong => {
                        assert!(length > usize::from(terms.blksize));
                        false
                    }
                    Took::Answer => true,
                    Took::Nothing => false,
                };
                if answer {
                    let wanted = if oack && kept == 0 { Answer::Oack } else { Answer::Ack(terms.rollover.wire(kept)) };
                    assert_eq!(upload.answer(false, now), wanted);
                }
            }
            _ => {
                now = if script.byte() % 2 == 0 { now.plus(script.wait()) } else { now.max(upload.deadline()) };
                match upload.on_timer(&pace, now) {
                    upload::Step::Wait => {}
                    upload::Step::Answer => _ = upload.answer(true, now),
                    upload::Step::GiveUp(why) => {
                        assert_eq!(why, if kept > 0 { Silence::Midway } else { Silence::Never });
                        return;
                    }
                }
            }
        }
        assert_eq!((upload.blocks(), upload.heard()), (kept, kept > 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Requests with every option, which random bytes would hardly come to be.
    fn requests() -> impl Strategy<Value = Vec<u8>> {
        let names = vec!["blksize", "TSIZE", "timeout", "utimeout", "windowsize", "rollover", "multicast", "x"];
        let value = prop_oneof![any::<u32>().prop_map(|n| n.to_string().into_bytes()), proptest::collection::vec(1u8..=255, 0..6)];
        let options = proptest::collection::vec((proptest::sample::select(names), value), 0..8);
        options.prop_map(|options| {
            let mut bytes = b"\0\x01file\0octet\0".to_vec();
            for (name, value) in options {
                bytes.extend([name.as_bytes(), b"\0", &value, b"\0"].concat());
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn any_datagram(opcode in 0u8..8, body in proptest::collection::vec(any::<u8>(), 0..200), request in requests()) {
            packet(&[&[0, opcode], &body[..]].concat());
            packet(&body);
            packet(&request);
        }

        #[test]
        fn any_acknowledgements(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            transfer(&bytes);
        }

        #[test]
        fn any_blocks(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            upload(&bytes);
        }
    }
}
