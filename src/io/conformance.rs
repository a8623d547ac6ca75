//! One body of tests that every kind of io has to pass.

use super::{Io, PollResult};
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use std::collections::HashMap;
use std::time::Duration;

/// MAC address of the interface under test.
pub const LOCAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
/// MAC address of the other end.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
/// The destination of every frame given: what a filter has to take.
pub const VIP: [u8; 4] = [192, 0, 2, 69];

/// An io and the other end of its wire.
pub trait IoFixture {
    /// The io under test.
    fn io(&mut self) -> &mut dyn Io;
    /// Sends a frame towards the io.
    fn inject(&mut self, frame: &[u8]);
    /// The next frame that the io has transmitted; `None` when none has come for a while.
    fn take_transmitted(&mut self) -> Option<Vec<u8>>;
    /// Checks the books of the io when nothing is under way.
    fn check(&mut self) {}
}

/// What the work of these tests does with a frame: said by the frame itself.
const ECHO: u8 = 0;
const DROP: u8 = 1;
const GROW: u8 = 2;
const SHRINK: u8 = 3;
const TO_HOST: u8 = 4;
const ACTIONS: u8 = 5;
const SIZES: [usize; 5] = [60, 64, 65, 590, 1514];
/// GRE over IPv6 put on or taken off.
const TUNNEL: usize = 44;
const ACTION_AT: usize = 34;

/// A frame to the VIP that says what is to be done with it.
pub fn frame(seq: u32, action: u8, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at as u32 ^ seq) as u8).collect();
    frame[..6].copy_from_slice(&LOCAL_MAC);
    frame[6..12].copy_from_slice(&PEER_MAC);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 198, 51, 100, 7, VIP[0], VIP[1], VIP[2], VIP[3]]);
    frame[16..18].copy_from_slice(&u16::try_from(len - 14).unwrap().to_be_bytes());
    frame[ACTION_AT] = action;
    frame[ACTION_AT + 1..ACTION_AT + 5].copy_from_slice(&seq.to_be_bytes());
    frame
}

/// Ethernet header of what goes out: the sequence number stands in the source address, whatever becomes of the rest.
fn header(seq: u32) -> [u8; 14] {
    let s = seq.to_be_bytes();
    let t = PEER_MAC;
    [t[0], t[1], t[2], t[3], t[4], t[5], 2, 0, s[0], s[1], s[2], s[3], 0x88, 0xb5]
}

fn expected(given: &[u8], seq: u32) -> Option<Vec<u8>> {
    let head = header(seq).to_vec();
    match given[ACTION_AT] {
        ECHO => Some([head, given[14..].to_vec()].concat()),
        GROW => Some([head, vec![0xee; TUNNEL], given[14..].to_vec()].concat()),
        SHRINK => Some([head, given[14 + TUNNEL..].to_vec()].concat()),
        _ => None,
    }
}

fn work(frames: &mut [Frame<'_>]) {
    for received in frames {
        assert!(received.room() >= HEADROOM, "{} bytes for a frame to grow by", received.room());
        let bytes = received.bytes();
        let (action, seq) = (bytes[ACTION_AT], u32::from_be_bytes(bytes[ACTION_AT + 1..ACTION_AT + 5].try_into().unwrap()));
        assert_eq!(bytes, frame(seq, action, bytes.len()), "received as it was sent");
        let (old, new) = match action {
            GROW => (14, 14 + TUNNEL),
            SHRINK => (14 + TUNNEL, 14),
            _ => (14, 14),
        };
        let front = received.replace_front(old, new).expect("there is room before the frame");
        front.fill(0xee);
        front[..14].copy_from_slice(&header(seq));
        received.verdict = match action {
            DROP => Verdict::Drop(Reason::NotVip),
            TO_HOST => Verdict::ToHost,
            _ => Verdict::Transmit,
        };
    }
}

/// Gives frames, turns until all are received, and compares what comes out with what has to. Returns what the turns summed up to.
fn round(bench: &mut dyn IoFixture, given: &[Vec<u8>], first_seq: u32) -> PollResult {
    let mut due = HashMap::new();
    let mut sum = PollResult::default();
    for (frame, seq) in given.iter().zip(first_seq..) {
        bench.inject(frame);
        if let Some(frame) = expected(frame, seq) {
            due.insert(seq, frame);
        }
    }
    let mut in_flight = 0;
    let mut idle = 0;
    while (sum.received < given.len() || in_flight > 0) && idle < 20 {
        let mut before = None;
        let mut offered = 0;
        let wait = Duration::from_millis(if in_flight > 0 { 0 } else { 100 });
        let poll = bench
            .io()
            .poll(wait, &mut |now, frames| {
                assert!(!frames.is_empty() && before <= Some(now));
                before = Some(now);
                offered += frames.len();
                work(frames);
                in_flight += frames.iter().filter(|f| f.verdict == Verdict::Transmit).count();
            })
            .unwrap();
        assert_eq!(poll.received, offered);
        sum.received += poll.received;
        sum.transmit_full += poll.transmit_full;
        in_flight -= poll.transmit_full;
        idle += 1;
        if poll.received > 0 {
            idle = 0;
        }
        // Taken out as they come: the far end may have little room.
        while in_flight > 0 {
            let Some(frame) = bench.take_transmitted() else { break };
            let seq = u32::from_be_bytes(frame[8..12].try_into().unwrap());
            let due = due.remove(&seq).unwrap_or_else(|| panic!("frame {seq} came out twice, or should not have"));
            assert_eq!(frame, due);
            in_flight -= 1;
        }
    }
    assert_eq!((sum.received, in_flight), (given.len(), 0), "everything given is received, and what was transmitted comes out");
    assert_eq!(due.len(), sum.transmit_full);
    sum
}

/// Everything that holds for every kind.
pub fn all(bench: &mut dyn IoFixture) {
    every_size_and_action_one_by_one(bench);
    own_frames_are_sent(bench);
    the_wait_is_honoured(bench);
    bursts_balance_for_a_long_time(bench);
    every_size_and_action_one_by_one(bench);
    own_frames_are_sent(bench);
    assert_eq!(bench.take_transmitted(), None, "nothing comes out unasked");
    bench.check();
}

fn every_size_and_action_one_by_one(bench: &mut dyn IoFixture) {
    for (seq, len) in (0..).zip(SIZES) {
        for action in 0..ACTIONS {
            assert_eq!(round(bench, &[frame(seq, action, len)], seq).transmit_full, 0);
        }
    }
}

/// More frames than any kind has buffers, in bursts that fit its rings.
fn bursts_balance_for_a_long_time(bench: &mut dyn IoFixture) {
    const BURST: u32 = 512;
    for burst in 0..40u32 {
        let frames: Vec<_> = (0..BURST)
            .map(|n| {
                let seq = burst * BURST + n;
                frame(seq, (seq % 7).min(u32::from(ACTIONS - 1)) as u8, SIZES[(seq % 5) as usize])
            })
            .collect();
        round(bench, &frames, burst * BURST);
    }
}

fn own_frames_are_sent(bench: &mut dyn IoFixture) {
    for seq in 0..100u32 {
        let own = [header(seq).to_vec(), vec![seq as u8; 46 + seq as usize]].concat();
        assert!(bench.io().send(&own).unwrap());
        bench.io().poll(Duration::ZERO, &mut |_, _| panic!("nothing was given")).unwrap();
        assert_eq!(bench.take_transmitted(), Some(own));
    }
}

fn the_wait_is_honoured(bench: &mut dyn IoFixture) {
    let wait = Duration::from_millis(30);
    let before: Time = bench.io().now();
    let poll = bench.io().poll(wait, &mut |_, _| panic!("nothing was given")).unwrap();
    assert_eq!((poll.received, poll.transmit_full), (0, 0));
    let waited = bench.io().now() - before;
    assert!(waited >= wait, "{waited:?}");
}
