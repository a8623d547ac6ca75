//! The transfers of a backend that is down go to its successor, whatever kind of packet belongs to them.

use super::fixture::*;
use crate::counters::PacketCounter;
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build;

/// t4 owns 20000–20999, t6 is its only successor.
const SUCCESSOR: u8 = 1;

fn taken(fixture: &mut Fixture, frame: &[u8]) -> u8 {
    let outcome = fixture.frame(frame);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    sent(&outcome.frame).mac[5]
}

#[test]
fn acknowledgements_and_icmp_errors_of_a_dead_owner_go_to_its_successor() {
    let mut fixture = Fixture::new();
    for family in 0..2 {
        let ack = in_gre(&acknowledgement(BOOT[family], 3000, 20_500), family);
        let quoted = build::udp(socket(BOOT[family], 20_500), socket(CLIENT[family], 3000), b"\0\x03\0\x01data");
        let error = build::icmp(ip(CLIENT[family]), ip(BOOT[family]), [3, 1][family], 3, &[&[0; 4], quoted.bytes()].concat());
        let error = in_gre(&error, family);
        fixture.take_over(None);
        assert_eq!((taken(&mut fixture, &ack), taken(&mut fixture, &error)), (0, 0));
        fixture.take_over(Some(0));
        assert_eq!((taken(&mut fixture, &ack), taken(&mut fixture, &error)), (SUCCESSOR, SUCCESSOR));
    }
    assert_eq!((fixture.count(PacketCounter::ByTidRange), fixture.count(PacketCounter::BySuccessor)), (4, 4));
}

#[test]
fn all_fragments_go_to_one_successor() {
    let mut fixture = Fixture::new();
    fixture.take_over(Some(0));
    let data = build::udp(socket(CLIENT[0], 3000), socket(BOOT[0], 20_500), &[&[0, 3, 0, 1][..], &[7; 200]].concat());
    for piece in data.fragments(9, 64) {
        assert_eq!(taken(&mut fixture, &in_gre(&piece, 0)), SUCCESSOR);
    }
    assert_eq!(fixture.count(PacketCounter::BySuccessor), 1);
}

#[test]
fn without_a_successor_that_is_up_the_owner_keeps_its_packets() {
    let mut fixture = Fixture::new();
    fixture.take_over(Some(0));
    fixture.tables.backends[usize::from(SUCCESSOR)].as_mut().unwrap().down = true;
    assert_eq!(taken(&mut fixture, &in_gre(&acknowledgement(BOOT[0], 3000, 20_500), 0)), 0);
    assert_eq!((fixture.count(PacketCounter::ByTidRange), fixture.count(PacketCounter::BySuccessor)), (1, 0));
}

#[test]
fn packets_of_a_port_without_owner_go_to_the_holder_of_the_checkpoint() {
    let mut fixture = Fixture::new();
    fixture.take_over(None);
    taken(&mut fixture, &in_gre(&acknowledgement(BOOT[0], 3000, 50_000), 0));
    assert_eq!(fixture.count(PacketCounter::BySuccessor), 1);
    fixture.tables.backends.iter_mut().flatten().for_each(|backend| backend.down = true);
    taken(&mut fixture, &in_gre(&acknowledgement(BOOT[0], 3000, 50_000), 0));
    let echo = build::icmp(ip(CLIENT[0]), ip(BOOT[0]), 8, 0, b"\0\x01\0\x01ping");
    taken(&mut fixture, &in_gre(&echo, 0));
    assert_eq!(fixture.count(PacketCounter::ByMaglev), 2);
}
