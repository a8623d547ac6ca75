//! A dead backend's transfers go to its heir, by whatever packet they show themselves.

use super::world::*;
use crate::counters::Number;
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build;

/// t4 owns 20000–20999, t6 is its only heir.
const HEIR: u8 = 1;

fn taken(world: &mut World, frame: &[u8]) -> u8 {
    let outcome = world.frame(frame);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    sent(&outcome.frame).mac[5]
}

#[test]
fn acknowledgements_and_icmp_errors_of_a_dead_owner_go_to_its_heir() {
    let mut world = World::new();
    for family in 0..2 {
        let ack = in_gre(&acknowledgement(BOOT[family], 3000, 20_500), family);
        let quoted = build::udp(socket(BOOT[family], 20_500), socket(CLIENT[family], 3000), b"\0\x03\0\x01data");
        let error = build::icmp(ip(CLIENT[family]), ip(BOOT[family]), [3, 1][family], 3, &[&[0; 4], quoted.bytes()].concat());
        let error = in_gre(&error, family);
        world.take_over(None);
        assert_eq!((taken(&mut world, &ack), taken(&mut world, &error)), (0, 0));
        world.take_over(Some(0));
        assert_eq!((taken(&mut world, &ack), taken(&mut world, &error)), (HEIR, HEIR));
    }
    assert_eq!((world.count(Number::ByTidRange), world.count(Number::ByHeir)), (4, 4));
}

#[test]
fn all_fragments_go_to_one_heir() {
    let mut world = World::new();
    world.take_over(Some(0));
    let data = build::udp(socket(CLIENT[0], 3000), socket(BOOT[0], 20_500), &[&[0, 3, 0, 1][..], &[7; 200]].concat());
    for piece in data.fragments(9, 64) {
        assert_eq!(taken(&mut world, &in_gre(&piece, 0)), HEIR);
    }
    assert_eq!(world.count(Number::ByHeir), 1);
}

#[test]
fn without_an_heir_that_is_up_the_owner_keeps_its_packets() {
    let mut world = World::new();
    world.take_over(Some(0));
    world.tables.backends[usize::from(HEIR)].as_mut().unwrap().down = true;
    assert_eq!(taken(&mut world, &in_gre(&acknowledgement(BOOT[0], 3000, 20_500), 0)), 0);
    assert_eq!((world.count(Number::ByTidRange), world.count(Number::ByHeir)), (1, 0));
}

#[test]
fn a_port_that_is_nobodys_goes_to_who_would_be_told_of_the_transfer() {
    let mut world = World::new();
    world.take_over(None);
    taken(&mut world, &in_gre(&acknowledgement(BOOT[0], 3000, 50_000), 0));
    assert_eq!(world.count(Number::ByHeir), 1);
    world.tables.backends.iter_mut().flatten().for_each(|backend| backend.down = true);
    taken(&mut world, &in_gre(&acknowledgement(BOOT[0], 3000, 50_000), 0));
    let echo = build::icmp(ip(CLIENT[0]), ip(BOOT[0]), 8, 0, b"\0\x01\0\x01ping");
    taken(&mut world, &in_gre(&echo, 0));
    assert_eq!(world.count(Number::ByMaglev), 2);
}
