//! Fragments of packets to a VIP.

use super::fixture::*;
use crate::counters::PacketCounter;
use crate::path::fragment::HOLD_TIMEOUT;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, Packet};
use std::net::IpAddr;
use std::time::Duration;

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
fn room_grows_with_the_mtu_and_held_fragments_stay() {
    let mut fixture = Fixture::new();
    let held = pieces(STOCK[0], 2000, 77);
    assert_eq!(fixture.gre(&held[1], 0).verdict, Verdict::Hold);
    let payload = [&[0, 3, 0, 1][..], &[0x55; 6000]].concat();
    let long = build::udp(socket(client_of(STOCK[0]), 3000), socket(STOCK[0], 40_000), &payload).fragments(78, 3000);
    assert_eq!(fixture.gre(&long[1], 0).verdict, Verdict::Drop(Reason::FragmentHoldFull));
    fixture.state.make_room(4000);
    assert_eq!(fixture.gre(&long[1], 0).verdict, Verdict::Hold);
    let outcome = fixture.gre(&held[0], 0);
    assert_eq!(outcome.outbox.iter().map(|frame| sent(frame).inner).collect::<Vec<_>>(), [held[1].bytes()]);
    assert!(fixture.counters().balanced());
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
    fixture.state.drain_outbox(|_, _| false);
    assert_eq!((fixture.count(PacketCounter::Transmitted), fixture.counters().dropped(Reason::TransmitFull)), (1, 1));
    assert!(fixture.counters().balanced());
}

/// Two fragments of a datagram to DNS from client number `n`, under this identification.
fn pair(n: u32, id: u32) -> [Vec<u8>; 2] {
    let client = format!("100.64.{}.{}:{}", n >> 8 & 0xff, n & 0xff, 2000 + n % 60_000);
    let fragments = build::udp(client.parse().unwrap(), socket(DNS[0], 53), &[7; 120]).fragments(id, 80);
    [in_gre(&fragments[0], 0), in_gre(&fragments[1], 0)]
}

/// How many of 1,000 datagrams a second pass whole within 20 s, of 5,000 clients, a tenth of them with the later fragment first; `forged` so many first fragments
/// a second beside them that nothing follows.
fn passed_of_20_000(forged: u32) -> u64 {
    let mut fixture = Fixture::new();
    let (mut passed, mut waiting) = (0, Vec::new());
    for millisecond in 0..20_000u32 {
        fixture.now = fixture.now.plus(Duration::from_millis(1));
        let [first, later] = pair(millisecond % 5_000, millisecond);
        // The other fragment comes 5 ms later.
        let (now, then) = if millisecond % 10 == 0 { (later, first) } else { (first, later) };
        let mut batch = vec![now];
        waiting.push(then);
        if waiting.len() > 5 {
            batch.push(waiting.remove(0));
        }
        let stranger = |n: u32| pair(10_000 + (millisecond * 7 + n) % 50_000, millisecond << 3 | n)[0].clone();
        let honest = batch.len();
        batch.extend((0..forged / 1_000).map(stranger));
        let outcomes = fixture.batch(&batch);
        passed += outcomes[..honest].iter().filter(|outcome| outcome.verdict == Verdict::Transmit).count() as u64;
        passed += outcomes.iter().map(|outcome| outcome.outbox.len() as u64).sum::<u64>();
    }
    let rest = fixture.batch(&waiting);
    passed += rest.iter().map(|outcome| u64::from(outcome.verdict == Verdict::Transmit) + outcome.outbox.len() as u64).sum::<u64>();
    passed / 2
}

#[test]
fn a_thousand_datagrams_a_second_pass_for_as_long_as_they_come() {
    assert_eq!(passed_of_20_000(0), 20_000);
}

#[test]
fn forged_first_fragments_do_not_push_out_honest_datagrams() {
    let passed = passed_of_20_000(5_000);
    assert!(passed >= 19_800, "{passed} of 20,000");
}

#[test]
fn forged_later_fragments_leave_time_for_reordered_ones() {
    let mut fixture = Fixture::new();
    for round in 0..200 {
        let [first, later] = pair(round, round);
        assert_eq!(fixture.frame(&later).verdict, Verdict::Hold);
        // 5,000 a second for 50 ms.
        let forged: Vec<_> = (0..250).map(|n| pair(10_000 + n, round << 8 | n)[1].clone()).collect();
        fixture.batch(&forged);
        fixture.now = fixture.now.plus(Duration::from_millis(50));
        assert_eq!(fixture.frame(&first).outbox.len(), 1, "{round}");
    }
    assert!(fixture.counters().dropped(Reason::FragmentHoldFull) > 40_000, "a stranger's oldest leave");
}
