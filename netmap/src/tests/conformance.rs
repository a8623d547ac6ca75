//! What holds for any two ports that are connected: everything sent by one comes out of the other, in order and whole.

use super::{ROUNDS, frame, rx, tx};
use crate::simulated::Simulated;
use crate::{BATCH, Events, Port, RingError};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(if cfg!(miri) { 3600 } else { 10 });
/// Slots of the simulated pipe.
const SLOTS: u32 = if cfg!(miri) { 8 } else { 64 };

/// The length of frame `number`: all kinds, none too short for an interface.
fn length(number: u32) -> usize {
    let long = if cfg!(miri) { 200 } else { 1514 };
    [60, 61, 64, 590.min(long), long, 1000.min(long), 128, 77][number as usize % 8]
}

/// Takes up to `most` frames, waiting for the first. Each must be the next.
fn take(port: &mut Port, next: &mut u32, most: usize) -> usize {
    if rx(port).waiting().unwrap() == 0 {
        Port::wait(&[port], Events::Receive, LONG).unwrap();
    }
    let mut batch = rx(port).batch(most).unwrap();
    for (at, buffer, len) in batch.iter_mut() {
        assert!(buffer.len() >= 2048, "frame {at} in a buffer of {}", buffer.len());
        assert_eq!(buffer[..len], frame(*next, length(*next)), "frame {next}");
        *next += 1;
    }
    batch.len()
}

/// The conformance test. Between ports that are `lossless`, what the receiver has no room for waits at the sender; a switch, and the kernel between
/// emulated adapters, drop it.
pub(super) fn connected(a: &mut Port, b: &mut Port, lossless: bool) {
    one_by_one(a, b);
    one_by_one(b, a);
    bursts_wrap_many_times(a, b);
    if lossless {
        a_full_ring_holds_back(a, b);
    }
    echoes_move_buffers(a, b);
    bursts_wrap_many_times(b, a);
    the_wait_is_honoured(a, b);
}

fn one_by_one(a: &mut Port, b: &mut Port) {
    let mut next = 0;
    for number in 0..40 {
        assert!(tx(a).send(&frame(number, length(number))).unwrap());
        a.sync_tx().unwrap();
        assert_eq!(take(b, &mut next, BATCH), 1);
    }
    assert_eq!(tx(a).send(&[0; 2049]), Err(RingError::TooLong { len: 2049, room: 2048 }));
}

fn bursts_wrap_many_times(a: &mut Port, b: &mut Port) {
    let (mut sent, mut next) = (0, 0);
    for round in 0..ROUNDS {
        let burst = 1 + (round * 37) as u32 % (tx(a).slots().min(rx(b).slots()) / 2);
        for _ in 0..burst {
            let bytes = frame(sent, length(sent));
            let since = Instant::now();
            while !tx(a).send_with(|buffer| write(buffer, &bytes)).unwrap() {
                a.sync_tx().unwrap();
                assert!(since.elapsed() < LONG, "no room for frame {sent}");
            }
            sent += 1;
        }
        let since = Instant::now();
        while next < sent {
            // Once is not enough where the other end had no room for all.
            a.sync_tx().unwrap();
            take(b, &mut next, 1 + round % BATCH);
            assert!(since.elapsed() < LONG, "{next} of {sent} frames have come");
        }
    }
}

fn write(buffer: &mut [u8], bytes: &[u8]) -> usize {
    buffer[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}

/// Sends without anybody taking, until the ring is full: what was taken in comes out, no more and no less.
fn a_full_ring_holds_back(a: &mut Port, b: &mut Port) {
    let (mut sent, mut next) = (0, 0);
    let most = tx(a).slots() - 1;
    while sent < most && tx(a).send(&frame(sent, length(sent))).unwrap() {
        sent += 1;
    }
    assert!(tx(a).room().unwrap() == 0 || sent == most, "{sent} of {most}");
    let since = Instant::now();
    while next < sent {
        a.sync_tx().unwrap();
        take(b, &mut next, BATCH);
        assert!(since.elapsed() < LONG, "{next} of {sent} frames have come");
    }
    // What is sent is given back, if only after a look.
    let since = Instant::now();
    while tx(a).in_flight().unwrap() > 0 && tx(a).room().unwrap() == 0 {
        a.sync_tx().unwrap();
        assert!(since.elapsed() < LONG, "{} frames under way", tx(a).in_flight().unwrap());
    }
}

/// `b` sends back what it gets, by exchange of buffers where the ring has room.
fn echoes_move_buffers(a: &mut Port, b: &mut Port) {
    let mut next = 0;
    for round in 0..ROUNDS as u32 {
        let number = round;
        assert!(tx(a).send(&frame(number, length(number))).unwrap());
        a.sync_tx().unwrap();
        Port::wait(&[b], Events::Receive, LONG).unwrap();
        let rings = b.rings();
        let mut batch = rings.rx[0].batch(BATCH).unwrap();
        assert_eq!(batch.len(), 1);
        let len = batch.bytes(0).unwrap().len();
        assert!(batch.send(0, &mut rings.tx[0], len).unwrap());
        assert_eq!(batch.send(0, &mut rings.tx[0], len), Err(RingError::AlreadySent(0)));
        drop(batch);
        b.sync_tx().unwrap();
        let since = Instant::now();
        while next <= number {
            take(a, &mut next, BATCH);
            assert!(since.elapsed() < LONG, "frame {number} does not come back");
        }
    }
}

fn the_wait_is_honoured(a: &mut Port, b: &mut Port) {
    let wait = Duration::from_millis(20);
    let since = Instant::now();
    assert!(!Port::wait(&[a, b], Events::Receive, wait).unwrap().ready);
    assert!(since.elapsed() >= wait);
    assert!(Port::wait(&[a, b], Events::Transmit, wait).unwrap().ready);
}

#[test]
fn a_simulated_pipe() {
    let pipe = Simulated::pipe(SLOTS);
    let (mut a, mut b) = (pipe.open("netmap:sim{1").unwrap(), pipe.open("netmap:sim}1").unwrap());
    connected(&mut a, &mut b, true);
    assert!(pipe.buffers_are_unique());
}

#[test]
fn a_tiny_simulated_pipe() {
    let pipe = Simulated::pipe(3);
    let (mut a, mut b) = (pipe.open("netmap:sim{1").unwrap(), pipe.open("netmap:sim}1").unwrap());
    connected(&mut b, &mut a, true);
    assert!(pipe.buffers_are_unique());
}
