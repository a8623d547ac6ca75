//! Invariants for any input from the network. Property tests call these functions with random bytes, fuzz targets (`tests/fuzz/`, run
//! by `tools/fuzz`) with bytes chosen by coverage.
//!
//! Each function reads its bytes as a sequence of events, so that a changed byte changes one event.

use super::options::{BLKSIZE, Limits, Terms, negotiate};
use super::packet::Packet;
use super::rollover::Rollover;
use super::rto::RetransmissionPolicy;
use super::transfer::{Ack, Step, Transfer, Unresponsive};
use super::upload::{self, Answer, DataAction, Upload};
use guideway_packet::time::Time;
use std::time::Duration;

/// Events read from the bytes of a fuzzer; zeroes after their end.
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

    /// Returns a duration from a microsecond to half an hour, uniform over orders of magnitude.
    fn wait(&mut self) -> Duration {
        let exponent = self.byte() % 32;
        Duration::from_micros(1 << exponent)
    }
}

/// Checks any datagram: it is parsed or refused, a parsed packet is emitted unchanged, and options are granted within all limits.
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
        let Ok(Packet::Oack(granted)) = Packet::parse(&oack) else { unreachable!("{oack:?} is not an OACK") };
        for (name, _) in granted.iter() {
            assert!(request.options.iter().any(|(requested, _)| requested.eq_ignore_ascii_case(name)), "{name:?} was not requested");
        }
    }
}

/// Checks any acknowledgements at any times: at most a window is in flight, no acknowledged block is sent, and the transfer ends only at the
/// end of the file or by giving up.
pub fn transfer(bytes: &[u8]) {
    let mut script = Script(bytes);
    let (retransmission, terms, oack) = (RetransmissionPolicy::default(), script.terms(), script.byte() % 2 == 0);
    let last = 1 + u64::from(script.number()) * if script.byte() % 4 == 0 { 50 } else { 1 };
    let mut now = Time(0).plus(Duration::from_secs(1));
    let mut transfer = Transfer::new(terms, oack, &retransmission, now);
    transfer.ends_with(last);
    let (mut highest, mut established) = (0, false);
    // Blocks that are wanted at the beginning are sent with the first event.
    while !script.is_over() {
        let before = transfer.acked();
        let step = match script.byte() % 6 {
            event @ 0..=2 => {
                let near = transfer.wire(before + u64::from(script.below(terms.window + 2)));
                let (ack, step) = transfer.on_ack(if event == 0 { script.number() } else { near }, &retransmission, now);
                established |= ack == Ack::New;
                assert!(ack == Ack::New || transfer.acked() == before, "{ack:?} changed {before}");
                // The Sorcerer's Apprentice.
                assert!(ack == Ack::New || terms.window > 1 || step == Step::Wait, "{ack:?} in lock-step: {step:?}");
                step
            }
            3 => {
                now = now.plus(script.wait());
                transfer.on_timer(&retransmission, now)
            }
            4 => {
                now = now.max(transfer.deadline());
                transfer.on_timer(&retransmission, now)
            }
            _ => {
                // Content need not be available at once.
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
        assert_eq!(transfer.all_sent(), highest == last && (!oack || established), "{highest} of {last}");
        match step {
            Step::Done => {
                assert_eq!(acked, last);
                return;
            }
            Step::GiveUp(why) => {
                assert!(acked < last && (why != Unresponsive::FinalAck || highest == last), "{why:?}");
                assert!(why != Unresponsive::HalfOpen || !established, "{why:?}, but it has answered");
                return;
            }
            Step::Oack => assert!(oack && !established),
            Step::Wait | Step::Blocks => assert!(acked < last),
        }
    }
}

/// Checks any blocks at any times: they are stored once and in order, never longer than negotiated, and the answer names the last one.
pub fn upload(bytes: &[u8]) {
    let mut script = Script(bytes);
    let (retransmission, terms, oack) = (RetransmissionPolicy::default(), script.terms(), script.byte() % 2 == 0);
    let mut now = Time(0).plus(Duration::from_secs(1));
    let mut upload = Upload::new(terms, oack, &retransmission, now);
    let mut kept = 0;
    while !script.is_over() {
        match script.byte() % 4 {
            event @ 0..=2 => {
                let due = terms.rollover.wire(kept + 1 + u64::from(script.below(terms.window + 2)));
                let (number, length) = (if event == 0 { script.number() } else { due }, usize::from(script.below(80)));
                let answer = match upload.on_data(number, length, now) {
                    DataAction::Append { answer, last } => {
                        assert_eq!(number, terms.rollover.wire(kept + 1));
                        kept += 1;
                        assert_eq!(last, length < usize::from(terms.blksize));
                        assert!(length <= usize::from(terms.blksize) && !(answer && last));
                        answer
                    }
                    DataAction::TooLong => {
                        assert!(length > usize::from(terms.blksize));
                        false
                    }
                    DataAction::Acknowledge => true,
                    DataAction::Ignore => false,
                };
                if answer {
                    let wanted = if oack && kept == 0 { Answer::Oack } else { Answer::Ack(terms.rollover.wire(kept)) };
                    assert_eq!(upload.answer(false, now), wanted);
                }
            }
            _ => {
                now = if script.byte() % 2 == 0 { now.plus(script.wait()) } else { now.max(upload.deadline()) };
                match upload.on_timer(&retransmission, now) {
                    upload::Step::Wait => {}
                    upload::Step::Answer => _ = upload.answer(true, now),
                    upload::Step::GiveUp(why) => {
                        assert_eq!(why, if kept > 0 { Unresponsive::MidTransfer } else { Unresponsive::HalfOpen });
                        return;
                    }
                }
            }
        }
        assert_eq!((upload.blocks(), upload.established()), (kept, kept > 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Requests with every option, which random bytes would hardly ever contain.
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
