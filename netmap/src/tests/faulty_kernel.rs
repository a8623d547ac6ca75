//! A kernel that lies gets an error or a count, and no more than that.

use super::{frame, rx, tx};
use crate::simulated::{RingKind, RingWord, Simulated, SlotWords};
use crate::{BATCH, Dropped, Port, RingError};

fn bench() -> (Simulated, Port) {
    let network = Simulated::interface(1, 8);
    let mut port = network.open("sim0").unwrap();
    for n in 0..5 {
        network.inject(0, &frame(n, 60));
    }
    port.sync_rx().unwrap();
    assert_eq!(rx(&mut port).waiting(), Ok(5));
    network.set_manual(true);
    (network, port)
}

#[test]
fn tails_outside_of_the_ring() {
    for tail in [8, 9, u32::MAX, 1 << 31] {
        let (network, mut port) = bench();
        network.poke(RingKind::Rx, 0, RingWord::Tail, tail);
        network.poke(RingKind::Tx, 0, RingWord::Tail, tail);
        assert_eq!(rx(&mut port).batch(BATCH).unwrap_err(), RingError::Tail { tail, slots: 8 });
        assert_eq!(tx(&mut port).room(), Err(RingError::Tail { tail, slots: 8 }));
        assert_eq!(tx(&mut port).send(&[0; 60]), Err(RingError::Tail { tail, slots: 8 }));
    }
}

#[test]
fn tails_that_go_backwards() {
    let (network, mut port) = bench();
    network.poke(RingKind::Rx, 0, RingWord::Tail, 4);
    assert_eq!(rx(&mut port).batch(BATCH).unwrap_err(), RingError::Backwards { before: 5, tail: 4 });
    assert_eq!(tx(&mut port).room(), Ok(7));
    network.poke(RingKind::Tx, 0, RingWord::Tail, 6);
    assert_eq!(tx(&mut port).room(), Err(RingError::Backwards { before: 7, tail: 6 }));
}

#[test]
fn heads_and_curs_that_only_we_should_write() {
    for (word, value) in [(RingWord::Head, 1), (RingWord::Cur, 1), (RingWord::Head, u32::MAX), (RingWord::Cur, 8)] {
        let (network, mut port) = bench();
        network.poke(RingKind::Rx, 0, word, value);
        network.poke(RingKind::Tx, 0, word, value);
        assert!(matches!(rx(&mut port).batch(BATCH), Err(RingError::Reset { ours: 0, .. })));
        assert!(matches!(tx(&mut port).room(), Err(RingError::Reset { ours: 0, .. })));
    }
}

#[test]
fn slots_with_nonsense_are_counted_and_the_rest_is_shown() {
    let (network, mut port) = bench();
    let slot = network.peek_slot(RingKind::Rx, 0, 4);
    let bad = [(0, 2049, slot.buffer), (1, 60, 0), (2, 60, u32::MAX), (3, u16::MAX, slot.buffer)];
    for (number, len, buffer) in bad {
        network.poke_slot(RingKind::Rx, 0, number, SlotWords { buffer, len, flags: 0 });
    }
    let mut batch = rx(&mut port).batch(BATCH).unwrap();
    assert_eq!((batch.len(), batch.bytes(0).map(|bytes| bytes.to_vec())), (1, Some(frame(4, 60))));
    drop(batch);
    assert_eq!(rx(&mut port).dropped(), Dropped { fragmented: 0, too_long: 2, bad_buffer: 2 });
}

#[test]
fn every_number_of_a_buffer_that_is_none() {
    // 4 rings of 8 slots, and the kernel's two.
    let numbers = 2..2 + 32;
    for buffer in [0, 1, 34, 35, 1 << 20, 1 << 31, u32::MAX] {
        let (network, mut port) = bench();
        assert!(!numbers.contains(&buffer));
        network.poke_slot(RingKind::Rx, 0, 0, SlotWords { buffer, len: 60, flags: 0 });
        assert_eq!(rx(&mut port).batch(BATCH).unwrap().len(), 4);
        network.poke_slot(RingKind::Tx, 0, 0, SlotWords { buffer, len: 0, flags: 0 });
        assert_eq!(tx(&mut port).send(&[0; 60]), Err(RingError::Buffer { slot: 0, buffer }));
        network.set_manual(false);
        network.inject(0, &frame(1, 60));
        port.sync_rx().unwrap();
        let rings = port.rings();
        let mut batch = rings.rx[0].batch(BATCH).unwrap();
        assert_eq!(batch.send(0, &mut rings.tx[0], 60), Err(RingError::Buffer { slot: 0, buffer }));
    }
}

#[test]
fn one_buffer_in_two_slots_is_shown_once_at_a_time() {
    let (network, mut port) = bench();
    let twice = network.peek_slot(RingKind::Rx, 0, 0);
    network.poke_slot(RingKind::Rx, 0, 1, twice);
    // And as the buffer that the transmit ring would have us write to.
    network.poke_slot(RingKind::Tx, 0, 0, twice);
    let rings = port.rings();
    let mut batch = rings.rx[0].batch(BATCH).unwrap();
    assert_eq!(batch.len(), 4);
    let mut shown: Vec<&mut [u8]> = batch.iter_mut().map(|(_, buffer, _)| buffer).collect();
    shown.iter_mut().for_each(|buffer| buffer.fill(7));
    assert_eq!(rings.tx[0].send(&[0; 60]), Err(RingError::Buffer { slot: 0, buffer: twice.buffer }));
    drop(batch);
    assert_eq!(rings.rx[0].dropped().bad_buffer, 1);
    assert_eq!(rings.tx[0].send(&[0; 60]), Ok(true), "put back with the batch");
}

#[test]
fn two_ports_in_two_threads_that_are_given_the_same_buffers() {
    let network = Simulated::interface(2, 16);
    let ports = [network.open("sim0-0").unwrap(), network.open("sim0-1").unwrap()];
    for n in 0..15 {
        network.inject(0, &frame(n, 60));
        network.inject(1, &frame(n, 60));
    }
    ports.iter().for_each(|port| port.sync_rx().unwrap());
    network.set_manual(true);
    for slot in 0..15 {
        network.poke_slot(RingKind::Rx, 1, slot, network.peek_slot(RingKind::Rx, 0, slot));
    }
    std::thread::scope(|scope| {
        for mut port in ports {
            scope.spawn(move || {
                for _ in 0..15 {
                    let mut batch = rx(&mut port).batch(1).unwrap();
                    for (_, buffer, _) in batch.iter_mut() {
                        let before = buffer[100];
                        buffer.fill(before.wrapping_add(1));
                        assert!(buffer.iter().all(|byte| *byte == before.wrapping_add(1)), "nobody else writes it");
                    }
                }
            });
        }
    });
}

#[test]
fn layouts_that_do_not_hold_together() {
    // Offsets of words in the ring's header, as documented: slots 8, size of a buffer 12, direction 18; each is written through the word that
    // stands nearest by its distance from `head` (20).
    use crate::name::{PortName, Rings};
    use std::sync::Arc;
    let name = PortName::interface("sim0", Rings::All).unwrap();
    let network = Simulated::interface(1, 8);
    let port = network.open("sim0").unwrap();
    let region = Arc::clone(port.region());
    for offset in [8, region.size(), region.size() - 8, usize::MAX, 4] {
        let kernel = Box::new(NoKernel);
        let error = Port::attach(name.clone(), &region, offset, kernel).map(drop).unwrap_err().to_string();
        assert!(error.contains("not laid out"), "{offset}: {error}");
    }
    network.poke(RingKind::Rx, 0, RingWord::Tail, 8);
    let error = Port::attach(name.clone(), &region, 0, Box::new(NoKernel)).map(drop).unwrap_err().to_string();
    assert!(error.contains("begins outside"), "{error}");
}

#[test]
fn rings_among_the_buffers() {
    let (first, end) = Simulated::interface(1, 8).span();
    for base in [0, first, end - 16, end] {
        let network = Simulated::interface(1, 8);
        network.move_buffers(base);
        let opened = network.open("sim0*").map(drop);
        let refused = matches!(&opened, Err(error) if error.to_string().contains("buffers of a ring"));
        assert_eq!((refused, opened.is_ok()), (base < end, base >= end), "{base} of {first}..{end}: {opened:?}");
    }
}

#[test]
fn rings_that_changed_ports_stay_open() {
    let network = Simulated::interface(2, 8);
    let (mut first, mut second) = (network.open("sim0-0").unwrap(), network.open("sim0-1").unwrap());
    std::mem::swap(rx(&mut first), rx(&mut second));
    drop(first);
    // One ring of each port lives on in `second`: the kernel must not give either to anybody else.
    assert!(matches!(network.open("sim0-0"), Err(crate::OpenError::Busy { .. })));
    drop(second);
    assert!(network.open("sim0-0").is_ok() && network.open("sim0-1").is_ok());
}

/// Does nothing.
#[derive(Debug)]
struct NoKernel;

impl crate::device::Kernel for NoKernel {
    fn sync_transmit(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn sync_receive(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    fn wait(&self, _: crate::Events, _: std::time::Duration) -> std::io::Result<crate::Ready> {
        Ok(crate::Ready::default())
    }
}
