//! Batches and rings of an interface, one promise each.

use super::{ROUNDS, frame, rx, tx};
use crate::simulated::{RingKind, RingWord, Simulated, SlotWords};
use crate::{BATCH, Dropped, Events, OpenError, Port, PortName, RingError, Rings};
use netmap_sys::netmap::{NS_BUF_CHANGED, NS_MOREFRAG};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn names_open_the_rings_that_they_name_and_no_ring_twice() {
    let network = Simulated::interface(3, 8);
    let count = |name: &str| {
        let mut port = network.open(name).unwrap();
        let rings = port.rings();
        [rings.tx.len(), rings.rx.len(), rings.host_tx.len(), rings.host_rx.len()]
    };
    assert_eq!(count("netmap:sim0"), [3, 3, 0, 0]);
    assert_eq!(count("netmap:sim0*"), [3, 3, 1, 1]);
    assert_eq!(count("netmap:sim0^"), [0, 0, 1, 1]);
    assert_eq!(count("netmap:sim0-2"), [1, 1, 0, 0]);
    let (first, host) = (network.open("netmap:sim0-0").unwrap(), network.open("netmap:sim0^").unwrap());
    assert!(Arc::ptr_eq(first.region(), host.region()));
    assert_eq!(first.ring_counts(), (3, 3), "all that there are");
    for (name, expected) in
        [("netmap:sim0-0", "in use"), ("sim0*", "in use"), ("sim0-3", "3 to transmit and 3 to receive"), ("eth9", "eth9")]
    {
        let error = network.open(name).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    drop((first, host));
    assert!(network.open("netmap:sim0*").is_ok(), "free again");
}

#[test]
fn the_right_ring_of_several() {
    let network = Simulated::interface(3, 8);
    let mut port = network.open_named(&PortName::interface("sim0", Rings::One(1)).unwrap()).unwrap();
    network.inject(0, &frame(1, 60));
    network.inject(1, &frame(2, 61));
    port.sync_rx().unwrap();
    assert_eq!(rx(&mut port).batch(BATCH).unwrap().bytes(0).unwrap(), frame(2, 61));
    tx(&mut port).send(&frame(3, 62)).unwrap();
    assert_eq!(network.take_transmitted(), None, "sent when the kernel looks");
    port.sync_tx().unwrap();
    assert_eq!(network.take_transmitted(), Some((1, frame(3, 62))));
}

#[test]
fn a_batch_that_is_dropped_gives_its_slots_back() {
    let network = Simulated::interface(1, 4);
    let mut port = network.open("sim0").unwrap();
    for round in 0..ROUNDS as u32 {
        for n in 0..3 {
            network.inject(0, &frame(round * 3 + n, 60));
        }
        port.sync_rx().unwrap();
        assert_eq!(rx(&mut port).batch(2).unwrap().len(), 2);
        let mut batch = rx(&mut port).batch(BATCH).unwrap();
        assert_eq!((batch.len(), batch.is_empty()), (1, false));
        assert_eq!(batch.bytes(0).unwrap(), frame(round * 3 + 2, 60));
        drop(batch);
        assert!(rx(&mut port).batch(BATCH).unwrap().is_empty());
    }
    assert!(network.buffers_are_unique());
}

#[test]
fn frames_move_between_card_and_host_by_exchange_of_buffers() {
    let network = Simulated::interface(1, 16);
    let (mut card, mut host) = (network.open("sim0-0").unwrap(), network.open("sim0^").unwrap());
    for number in 0..ROUNDS as u32 {
        network.inject(0, &frame(number, 60));
        network.host_send(&frame(!number, 77));
        assert!(Port::wait(&[&card, &host], Events::Receive, Duration::from_secs(1)).unwrap().ready);
        let before = network.peek_slot(RingKind::Rx, 0, number % 16).buffer;
        {
            let (card, host) = (card.rings(), host.rings());
            let mut up = card.rx[0].batch(BATCH).unwrap();
            assert!(up.send(0, &mut host.host_tx[0], 60).unwrap());
            let mut down = host.host_rx[0].batch(BATCH).unwrap();
            assert!(down.send(0, &mut card.tx[0], 77).unwrap());
        }
        let moved = network.peek_slot(RingKind::HostTx, 0, number % 16);
        assert_eq!((moved.buffer, moved.flags & 1), (before, 1), "the buffer itself, and the kernel is notified");
        assert_eq!(network.peek_slot(RingKind::Rx, 0, number % 16).flags & 1, 1);
        card.sync_tx().unwrap();
        host.sync_tx().unwrap();
        assert_eq!(network.take_transmitted(), Some((0, frame(!number, 77))));
        assert_eq!(network.host_receive(), Some(frame(number, 60)));
        assert!(network.buffers_are_unique());
    }
}

#[test]
fn what_finds_no_room_stays_in_the_batch() {
    let network = Simulated::interface(1, 4);
    let mut port = network.open("sim0").unwrap();
    network.set_tx_stalled(true);
    for n in 0..3 {
        assert!(tx(&mut port).send(&frame(n, 60)).unwrap());
    }
    assert!(!tx(&mut port).send(&frame(3, 60)).unwrap());
    port.sync_tx().unwrap();
    assert_eq!((tx(&mut port).room(), tx(&mut port).in_flight()), (Ok(0), Ok(3)));
    network.inject(0, &frame(4, 60));
    port.sync_rx().unwrap();
    let rings = port.rings();
    let mut batch = rings.rx[0].batch(BATCH).unwrap();
    assert_eq!(batch.send(0, &mut rings.tx[0], 60), Ok(false));
    assert_eq!(batch.bytes(0).unwrap(), frame(4, 60));
    drop(batch);
    network.set_tx_stalled(false);
    port.sync_tx().unwrap();
    assert_eq!(tx(&mut port).in_flight(), Ok(0));
    assert!(network.buffers_are_unique());
}

#[test]
fn frames_of_several_buffers_are_counted_and_passed_over_also_between_batches() {
    let network = Simulated::interface(1, 16);
    let mut port = network.open("sim0").unwrap();
    for len in [60, 5000, 61, 2049, 2048, 62] {
        network.inject(0, &frame(1, len));
    }
    port.sync_rx().unwrap();
    let mut seen = Vec::new();
    loop {
        let mut batch = rx(&mut port).batch(1).unwrap();
        let Some(len) = batch.bytes(0).map(|bytes| bytes.len()) else { break };
        seen.push(len);
    }
    assert_eq!(seen, [60, 61, 2048, 62]);
    assert_eq!(rx(&mut port).dropped(), Dropped { fragmented: 2, ..Dropped::default() });
}

#[test]
fn an_empty_piece_before_a_frame_costs_no_frame_and_its_buffer_is_given_to_the_card_anew() {
    // Length 0, or what a driver makes of it that takes off a checksum of 4 bytes.
    for len in [0, 0u16.wrapping_sub(4)] {
        let network = Simulated::interface(1, 8);
        let mut port = network.open("sim0").unwrap();
        for n in 0..4 {
            network.inject(0, &frame(n, 60));
        }
        port.sync_rx().unwrap();
        let slot = network.peek_slot(RingKind::Rx, 0, 1);
        network.poke_slot(RingKind::Rx, 0, 1, SlotWords { len, flags: NS_MOREFRAG, ..slot });
        let mut batch = rx(&mut port).batch(BATCH).unwrap();
        assert_eq!((batch.len(), batch.bytes(1).map(|bytes| bytes.to_vec())), (3, Some(frame(2, 60))));
        drop(batch);
        let back = network.peek_slot(RingKind::Rx, 0, 1);
        assert_eq!((back.buffer, back.flags), (slot.buffer, NS_BUF_CHANGED));
        assert_eq!(rx(&mut port).dropped(), Dropped::default());
        assert!(network.buffers_are_unique());
    }
}

#[test]
fn the_kernel_forwards_frames_on_request() {
    let network = Simulated::interface(1, 8);
    let mut port = network.open("sim0").unwrap();
    rx(&mut port).set_forwarding(true);
    for n in 0..3 {
        network.inject(0, &frame(n, 60));
    }
    port.sync_rx().unwrap();
    let mut batch = rx(&mut port).batch(BATCH).unwrap();
    batch.forward(1).unwrap();
    assert_eq!((batch.forward(1), batch.forward(99)), (Err(RingError::AlreadySent(1)), Err(RingError::AlreadySent(99))));
    assert!(batch.bytes(1).is_none() && batch.buffer(1).is_none() && batch.buffer(0).is_some());
    assert_eq!(batch.iter_mut().map(|(at, ..)| at).collect::<Vec<_>>(), [0, 2]);
    drop(batch);
    port.sync_rx().unwrap();
    assert_eq!((network.host_receive(), network.host_receive()), (Some(frame(1, 60)), None));
    rx(&mut port).set_forwarding(false);
    assert_eq!(network.peek(RingKind::Rx, 0, RingWord::Flags), 0);
}

#[test]
fn the_timestamp_is_written_on_request() {
    let network = Simulated::interface(1, 8);
    let mut port = network.open("sim0").unwrap();
    port.sync_rx().unwrap();
    assert_eq!(rx(&mut port).timestamp(), Duration::ZERO);
    rx(&mut port).set_timestamps(true);
    port.sync_rx().unwrap();
    assert_eq!(rx(&mut port).timestamp(), Duration::from_millis(1_700_000_000_250));
}

#[test]
fn buffers_do_not_move_to_another_region() {
    let (here, there) = (Simulated::interface(1, 8), Simulated::interface(1, 8));
    let (mut one, mut other) = (here.open("sim0").unwrap(), there.open("sim0").unwrap());
    here.inject(0, &frame(1, 60));
    one.sync_rx().unwrap();
    let mut batch = rx(&mut one).batch(BATCH).unwrap();
    assert_eq!(batch.send(0, tx(&mut other), 60), Err(RingError::OtherRegion));
    assert_eq!(batch.send(0, tx(&mut other), 60), Err(RingError::OtherRegion), "and the frame is still there");
    assert!(tx(&mut other).send(batch.bytes(0).unwrap()).unwrap());
}

#[test]
fn lengths_beyond_a_buffer_are_refused_and_change_nothing() {
    let network = Simulated::interface(1, 8);
    let mut port = network.open("sim0").unwrap();
    assert!(matches!(tx(&mut port).send_with(|buffer| buffer.len() + 1), Err(RingError::TooLong { len: 2049, .. })));
    assert!(matches!(tx(&mut port).send_with(|_| usize::MAX), Err(RingError::TooLong { .. })));
    network.inject(0, &frame(1, 60));
    port.sync_rx().unwrap();
    let rings = port.rings();
    let mut batch = rings.rx[0].batch(BATCH).unwrap();
    for len in [2049, 65536 + 60, usize::MAX] {
        assert!(matches!(batch.send(0, &mut rings.tx[0], len), Err(RingError::TooLong { .. })));
    }
    assert!(batch.send(0, &mut rings.tx[0], 2048).unwrap());
    drop(batch);
    port.sync_tx().unwrap();
    assert_eq!(network.take_transmitted().map(|(_, frame)| frame.len()), Some(2048));
}

#[test]
fn errors_of_opening_say_what_to_do() {
    let name = "eth0".to_owned();
    let cases = [
        (OpenError::NoModule, "modprobe netmap"),
        (OpenError::Permission, "run as root"),
        (OpenError::Version { ours: 14 }, "API version 14"),
        (OpenError::NoInterface { name: name.clone() }, "ip link"),
        (OpenError::Memory { name: name.clone() }, "buf_num"),
        (OpenError::NoRing { name, ring: 4, tx: 2, rx: 2 }, "ethtool -l eth0"),
    ];
    for (error, expected) in cases {
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(matches!(Port::open("netmap:far-too-long-a-name"), Err(OpenError::Name(_))));
}
