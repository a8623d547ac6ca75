//! Fragments of packets to a VIP.

use super::fixture::*;
use crate::counters::PacketCounter;
use crate::path::fragment::HOLD_TIMEOUT;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, Packet};
use std::net::IpAddr;

fn pieces(vip: &str, port: u16, id: u32) -> Vec<Packet> {
    let payload = [&[0, 3, 0, 1][..], &[0x55; 100]].concat();
    build::udp(socket(client_of(vip), port), socket(vip, 40_000), &payload).fragments(id, 40)
}

fn to(frame: &[u8]) -> IpAddr {
    sent(frame).outer.destination
}

#[test]
fn later_fragments_follow_the_first() {
    for vip in STOCK {
        let mut fixture = Fixture::new();
        for port in 2000..2020 {
            let whole = sent(&fixture.gre(&acknowledgement(vip, port, 40_000), 0).frame).outer.destination;
            for piece in pieces(vip, port, port.into()) {
                let outcome = fixture.gre(&piece, 1);
                assert_eq!(outcome.verdict, Verdict::Transmit);
                assert_eq!(to(&outcome.frame), whole, "a fragment goes where the whole packet would");
                assert_eq!(sent(&outcome.frame).inner, piece.bytes());
            }
        }
    }
}

#[test]
fn early_fragments_wait_for_the_first_and_leave_after_it_in_order() {
    for vip in STOCK {
        let mut fixture = Fixture::new();
        let pieces = pieces(vip, 2000, 77);
        assert_eq!(pieces.len(), 3);
        for early in &pieces[1..] {
            assert_eq!(fixture.gre(early, 0).verdict, Verdict::Hold);
        }
        assert_eq!(fixture.count(PacketCounter::Held), 2);
        let outcome = fixture.gre(&pieces[0], 0);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        let released: Vec<_> = outcome.outbox.iter().map(|frame| sent(frame).inner).collect();
        assert_eq!(released, pieces[1..].iter().map(|p| p.bytes().to_vec()).collect::<Vec<_>>());
        assert!(outcome.outbox.iter().all(|frame| to(frame) == to(&outcome.frame)));
        assert_eq!(
            (fixture.count(PacketCounter::Held), fixture.count(PacketCounter::Transmitted), fixture.count(PacketCounter::Originated)),
            (0, 3, 0)
        );
    }
}

#[test]
fn all_orders_within_one_batch_come_out_whole() {
    let pieces: Vec<Vec<u8>> = pieces(STOCK[0], 2000, 5).iter().map(|p| in_gre(p, 0)).collect();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut fixture = Fixture::new();
        let outcomes = fixture.batch(&order.map(|n| pieces[n].clone()));
        let in_place = outcomes.iter().filter(|o| o.verdict == Verdict::Transmit).count();
        assert_eq!(in_place + outcomes[2].outbox.len(), 3, "{order:?}");
        assert_eq!(fixture.count(PacketCounter::Transmitted), 3, "{order:?}");
    }
}

#[test]
fn fragments_of_two_packets_are_not_mixed() {
    let mut fixture = Fixture::new();
    let (a, b) = (pieces(STOCK[0], 2000, 1), pieces(STOCK[0], 2000, 2));
    assert_eq!(fixture.gre(&a[1], 0).verdict, Verdict::Hold);
    assert!(fixture.gre(&b[0], 0).outbox.is_empty());
    assert_eq!(fixture.gre(&a[0], 0).outbox.len(), 1);
}

#[test]
fn a_fragment_whose_first_never_comes_expires_also_when_no_packet_comes() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.gre(&pieces(STOCK[0], 2000, 1)[1], 0).verdict, Verdict::Hold);
    fixture.state.tick(fixture.now.plus(HOLD_TIMEOUT / 2));
    assert_eq!(fixture.count(PacketCounter::Held), 1);
    fixture.state.tick(fixture.now.plus(HOLD_TIMEOUT));
    assert_eq!((fixture.count(PacketCounter::Held), fixture.counters().dropped(Reason::FragmentHoldExpired)), (0, 1));
    assert!(fixture.counters().balanced());
    assert!(fixture.gre(&pieces(STOCK[0], 2000, 1)[0], 0).outbox.is_empty());
}

#[test]
fn a_released_fragment_that_finds_no_room_in_the_ring_is_counted() {
    let mut fixture = Fixture::new();
    let pieces = pieces(STOCK[0], 2000, 1);
    fixture.gre(&pieces[1], 0);
    let mut buffer = [&[0; 64][..], &in_gre(&pieces[0], 0)].concat();
    let len = buffer.len() - 64;
    crate::path::run(&mut [guideway_packet::frame::Frame::new(&mut buffer, 64, len)], &fixture.tables, &mut fixture.state, fixture.now);
    fixture.state.drain_outbox(|_| false);
    assert_eq!((fixture.count(PacketCounter::Transmitted), fixture.counters().dropped(Reason::TransmitFull)), (1, 1));
    assert!(fixture.counters().balanced());
}
