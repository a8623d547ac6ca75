//! Requests through the whole path: who is asked after whom, and who is not asked at all.

use super::suspicion::Suspicion;
use crate::counters::Number;
use crate::path::tests::world::*;
use crate::tables::Admission;
use crate::tables::{BackendId, Routers};
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, Packet};
use std::collections::BTreeSet;
use std::time::Duration;

fn after(world: &mut World, wait: Duration) {
    world.now = world.now.plus(wait);
}

/// Sends a packet; who got it, by the last byte of the link-layer address.
fn backend(world: &mut World, packet: &Packet) -> BackendId {
    let outcome = world.gre(packet, 0);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    BackendId::from(sent(&outcome.frame).mac[5])
}

/// Sends a packet that somebody gets.
fn forwarded(world: &mut World, packet: &Packet) {
    backend(world, packet);
}

/// The same request `times` times, a second apart; who got it each time.
fn ask(world: &mut World, packet: &Packet, times: usize) -> Vec<BackendId> {
    let mut asked = Vec::new();
    for _ in 0..times {
        asked.push(backend(world, packet));
        after(world, Duration::from_secs(1));
    }
    asked
}

fn from(client: u8, vip: &str) -> Packet {
    build::udp(socket(&format!("198.51.100.{client}"), 2000), socket(vip, 69), b"\0\x01pxelinux.0\0octet\0")
}

#[test]
fn the_third_sending_goes_to_another_backend_and_each_is_asked_twice() {
    let mut world = World::new();
    let asked = ask(&mut world, &read_request(STOCK[0], 2000), 8);
    assert_eq!(asked[0], asked[1]);
    assert_eq!([asked[2], asked[4], asked[6]], [asked[3], asked[5], asked[7]]);
    assert_eq!(asked[..6].iter().collect::<BTreeSet<_>>().len(), 3, "{asked:?}");
    assert_eq!((world.count(Number::SecondChances), world.count(Number::ByHeir), world.count(Number::ByMaglev)), (6, 6, 2));
    // Without TID ranges the acknowledgements must follow.
    assert_eq!(backend(&mut world, &acknowledgement(STOCK[0], 2000, 40_000)), asked[7]);
}

#[test]
fn a_pool_with_ranges_has_second_chances_too_and_over_ipv6() {
    let mut world = World::new();
    let asked = ask(&mut world, &read_request(BOOT[1], 2000), 3);
    assert!(asked[0] == asked[1] && asked[2] != asked[0], "{asked:?}");
}

#[test]
fn who_acknowledges_has_heard_its_server_by_either_way() {
    for options in [&[][..], &[1, 1, 1, 0]] {
        let mut world = World::new();
        let first = ask(&mut world, &read_request(STOCK[0], 2000), 2)[0];
        let ack = acknowledgement(STOCK[0], 2000, 40_000);
        let ack = if options.is_empty() { ack } else { ack.options(options) };
        assert_eq!(backend(&mut world, &ack), first);
        assert_eq!(ask(&mut world, &read_request(STOCK[0], 2000), 2), [first; 2], "it starts anew");
        let other = acknowledgement(STOCK[0], 2001, 40_000);
        assert_eq!(world.gre(&other, 0).verdict, Verdict::Transmit, "somebody else");
        assert_ne!(ask(&mut world, &read_request(STOCK[0], 2000), 1), [first]);
    }
}

#[test]
fn duplicates_other_files_and_other_ports_are_no_repeats() {
    let mut world = World::new();
    let first = backend(&mut world, &read_request(STOCK[0], 2000));
    for _ in 0..9 {
        after(&mut world, Duration::from_millis(20));
        assert_eq!(backend(&mut world, &read_request(STOCK[0], 2000)), first);
    }
    for name in ["a", "b", "c", "d"] {
        let other = build::udp(socket(CLIENT[0], 2000), socket(STOCK[0], 69), format!("\0\x01{name}\0octet\0").as_bytes());
        assert_eq!(ask(&mut world, &other, 2), [first; 2]);
    }
    (0..20).for_each(|port| forwarded(&mut world, &read_request(STOCK[0], 3000 + port)));
    assert_eq!(world.count(Number::SecondChances), 0);
}

#[test]
fn no_chance_where_there_is_nobody_else() {
    let mut world = World::new();
    let first = backend(&mut world, &read_request(BOOT[0], 2000));
    world.tables.backends[usize::from(1 - first)].as_mut().unwrap().down = true;
    after(&mut world, Duration::from_secs(1));
    assert_eq!(ask(&mut world, &read_request(BOOT[0], 2000), 4), [first; 4]);
    assert_eq!(world.count(Number::SecondChances), 0);
}

#[test]
fn a_slow_origin_behind_all_takes_few_to_another_backend() {
    let mut world = World::new();
    let mut moved = 0;
    for _ in 0..6 {
        let before = world.count(Number::SecondChances);
        (0..200).for_each(|client| forwarded(&mut world, &from(client, STOCK[0])));
        let now = world.count(Number::SecondChances) - before;
        assert!(now <= 20, "{now} in a second");
        moved += now;
        after(&mut world, Duration::from_secs(1));
    }
    assert!(moved <= 20, "when most backends look mute it is not the backends: {moved}");
}

#[test]
fn several_clients_that_wait_for_one_backend_raise_a_suspicion() {
    let mut world = World::new();
    let suspected = |world: &mut World| {
        let mut found: Vec<Suspicion> = Vec::new();
        world.state.drain_suspected(|suspicion| found.push(suspicion));
        found
    };
    let all: Vec<(u8, BackendId)> = (1..=60).map(|client| (client, backend(&mut world, &from(client, STOCK[0])))).collect();
    let mute = all[0].1;
    let waiting: Vec<u8> = all.iter().filter(|(_, backend)| *backend == mute).map(|(client, _)| *client).collect();
    after(&mut world, Duration::from_secs(1));
    waiting.iter().take(2).for_each(|client| forwarded(&mut world, &from(*client, STOCK[0])));
    assert!(suspected(&mut world).is_empty());
    waiting.iter().skip(2).for_each(|client| forwarded(&mut world, &from(*client, STOCK[0])));
    let found = suspected(&mut world);
    assert!(found.len() == 1 && found[0].backend == mute, "{found:?}");
    assert!(found[0].to_string().starts_with("at least 3 clients repeat requests"), "{}", found[0]);
    after(&mut world, Duration::from_secs(1));
    let chances = waiting.iter().filter(|client| backend(&mut world, &from(**client, STOCK[0])) != mute).count();
    assert!((5..=6).contains(&chances), "as many as the budget allows: {chances}");
}

#[test]
fn a_shed_request_was_not_asked_of_anybody() {
    let mut world = World::new();
    guarded(&mut world, |guard| guard.admission = Some(Admission { per_vip: Some(1), ..Admission::default() }));
    world.gre(&read_request(STOCK[0], 1999), 0);
    for _ in 0..4 {
        assert_eq!(world.gre(&read_request(STOCK[0], 2000), 0).verdict, Verdict::Drop(Reason::Shed));
        after(&mut world, Duration::from_millis(210));
    }
    assert_eq!(world.count(Number::ShedByVip), 4);
    assert_eq!(world.gre(&acknowledgement(STOCK[0], 1999, 40_000), 0).verdict, Verdict::Transmit, "acknowledgements are never touched");
    after(&mut world, Duration::from_secs(1));
    backend(&mut world, &read_request(STOCK[0], 2000));
    assert_eq!(world.count(Number::SecondChances), 0);
}

#[test]
fn each_limit_has_its_counter() {
    for (limits, number) in [
        (Admission { per_backend: Some(1), ..Admission::default() }, Number::ShedByBackend),
        (Admission { per_prefix: Some(1), ..Admission::default() }, Number::ShedByPrefix),
    ] {
        let mut world = World::new();
        guarded(&mut world, |guard| guard.admission = Some(limits));
        let shed = (0..20).filter(|port| world.gre(&read_request(BOOT[0], 2000 + port), 0).verdict == Verdict::Drop(Reason::Shed)).count();
        assert!(shed >= 18 && world.count(number) == shed as u64, "{shed}");
    }
}

#[test]
fn write_requests_and_clients_are_forwarded_where_they_are_wanted() {
    let mut world = World::new();
    guarded(&mut world, |guard| {
        guard.writes = true;
        guard.clients = Some(Routers::new(&["198.51.100.0/24".parse().unwrap(), "2001:db8:c::/48".parse().unwrap()]));
    });
    backend(&mut world, &write_request(BOOT[0], CLIENT[0]));
    backend(&mut world, &read_request(BOOT[1], 2000));
    let stranger = world.gre(&write_request(BOOT[0], "203.0.113.9"), 0);
    assert_eq!(stranger.verdict, Verdict::Drop(Reason::ClientNotAllowed));
    let stray = build::udp(socket("203.0.113.9", 2000), socket(BOOT[0], 20_500), &[0, 4, 0, 1]);
    assert_eq!(world.gre(&stray, 0).verdict, Verdict::Transmit, "only requests are asked");
}

#[test]
fn nobody_inside_is_a_client() {
    let mut world = World::new();
    for source in [DIRECTOR[0], "10.0.2.21", BOOT[0], DNS[0], "0.0.0.0", "127.0.0.1", "255.255.255.255", "240.0.0.1"] {
        let request = build::udp(socket(source, 69), socket(BOOT[0], 69), b"\0\x01x\0octet\0");
        assert_eq!(world.gre(&request, 0).verdict, Verdict::Drop(Reason::BogusSource), "{source}");
    }
    let request = build::udp(socket(BOOT[1], 69), socket(BOOT[1], 69), b"\0\x01x\0octet\0");
    assert_eq!(world.gre(&request, 1).verdict, Verdict::Drop(Reason::BogusSource));
}

#[test]
fn a_request_in_fragments_is_a_request() {
    let mut world = World::new();
    guarded(&mut world, |guard| guard.admission = Some(Admission { per_vip: Some(1), ..Admission::default() }));
    let pieces = |port, id| read_request(BOOT[0], port).fragments(id, 16);
    for piece in pieces(2000, 7) {
        assert_eq!(world.gre(&piece, 0).verdict, Verdict::Transmit);
    }
    let second = pieces(2001, 8);
    assert_eq!(world.gre(&second[0], 0).verdict, Verdict::Drop(Reason::Shed));
    assert_eq!(world.gre(&second[1], 0).verdict, Verdict::Hold, "and waits in vain");
    world.now = Time(world.now.0 + 2_000_000_000);
    world.state.tick(world.now);
    assert_eq!(world.counters().dropped(Reason::FragmentHoldExpired), 1);
}
