//! Requests through the whole path: which backends get them, in which order.

use super::suspicion::Suspicion;
use crate::counters::PacketCounter;
use crate::path::tests::fixture::*;
use crate::tables::Admission;
use crate::tables::{BackendId, PrefixSet};
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, Packet};
use std::collections::BTreeSet;
use std::time::Duration;

fn after(fixture: &mut Fixture, wait: Duration) {
    fixture.now = fixture.now.plus(wait);
}

/// Sends a packet. Returns its backend, by the last byte of the link-layer address.
fn backend(fixture: &mut Fixture, packet: &Packet) -> BackendId {
    let outcome = fixture.gre(packet, 0);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    BackendId::from(sent(&outcome.frame).mac[5])
}

/// Sends a packet that is forwarded.
fn forwarded(fixture: &mut Fixture, packet: &Packet) {
    backend(fixture, packet);
}

/// Sends the same request `times` times, a second apart. Returns the backends that got it.
fn repeat(fixture: &mut Fixture, packet: &Packet, times: usize) -> Vec<BackendId> {
    let mut backends = Vec::new();
    for _ in 0..times {
        backends.push(backend(fixture, packet));
        after(fixture, Duration::from_secs(1));
    }
    backends
}

fn from(client: u8, vip: &str) -> Packet {
    build::udp(socket(&format!("198.51.100.{client}"), 2000), socket(vip, 69), b"\0\x01pxelinux.0\0octet\0")
}

#[test]
fn the_third_request_goes_to_another_backend_and_each_gets_two() {
    let mut fixture = Fixture::new().stock_with_ranges();
    let backends = repeat(&mut fixture, &read_request(STOCK[0], 2000), 8);
    assert_eq!(backends[0], backends[1]);
    assert_eq!([backends[2], backends[4], backends[6]], [backends[3], backends[5], backends[7]]);
    assert_eq!(backends[..6].iter().collect::<BTreeSet<_>>().len(), 3, "{backends:?}");
    assert_eq!(
        (fixture.count(PacketCounter::Redispatched), fixture.count(PacketCounter::BySuccessor), fixture.count(PacketCounter::ByMaglev)),
        (6, 6, 2)
    );
}

/// Without ranges, only this director would know where the transfer is.
#[test]
fn a_repeated_request_and_its_acknowledgements_go_to_one_backend_on_every_director() {
    for (make, vip) in
        [(Fixture::new as fn() -> Fixture, STOCK), (Fixture::new, CLIENT_KEY), (|| Fixture::new().stock_with_ranges(), STOCK)]
    {
        for vip in vip {
            for port in 2000..2020 {
                let (mut first, mut other) = (make(), make());
                let got = repeat(&mut first, &read_request(vip, port), 4);
                let server_port = if first.tables.services.iter().any(|s| s.pool.name.as_ref() == "stock" && s.pool.tid.is_some()) {
                    20_001 + 1000 * got[3]
                } else {
                    40_000
                };
                let acknowledgement = acknowledgement(vip, port, server_port);
                for fixture in [&mut first, &mut other] {
                    assert_eq!(backend(fixture, &acknowledgement), got[3], "{} port {port}", vip);
                }
            }
        }
    }
    assert_eq!(repeat(&mut Fixture::new(), &read_request(STOCK[0], 2000), 4).iter().collect::<BTreeSet<_>>().len(), 1);
}

#[test]
fn requests_are_redispatched_with_tid_ranges_and_over_ipv6() {
    let mut fixture = Fixture::new();
    let backends = repeat(&mut fixture, &read_request(BOOT[1], 2000), 3);
    assert!(backends[0] == backends[1] && backends[2] != backends[0], "{backends:?}");
}

#[test]
fn an_acknowledgement_ends_retransmissions_on_fast_and_slow_path() {
    for options in [&[][..], &[1, 1, 1, 0]] {
        let mut fixture = Fixture::new().stock_with_ranges();
        let first = repeat(&mut fixture, &read_request(STOCK[0], 2000), 2)[0];
        let port = 20_001 + 1000 * first;
        let ack = acknowledgement(STOCK[0], 2000, port);
        let ack = if options.is_empty() { ack } else { ack.options(options) };
        assert_eq!(backend(&mut fixture, &ack), first);
        assert_eq!(repeat(&mut fixture, &read_request(STOCK[0], 2000), 2), [first; 2], "it starts anew");
        let other = acknowledgement(STOCK[0], 2001, port);
        assert_eq!(fixture.gre(&other, 0).verdict, Verdict::Transmit, "another flow");
        assert_ne!(repeat(&mut fixture, &read_request(STOCK[0], 2000), 1), [first]);
    }
}

#[test]
fn duplicates_other_files_and_other_ports_are_no_repeats() {
    let mut fixture = Fixture::new();
    let first = backend(&mut fixture, &read_request(STOCK[0], 2000));
    for _ in 0..9 {
        after(&mut fixture, Duration::from_millis(20));
        assert_eq!(backend(&mut fixture, &read_request(STOCK[0], 2000)), first);
    }
    for name in ["a", "b", "c", "d"] {
        let other = build::udp(socket(CLIENT[0], 2000), socket(STOCK[0], 69), format!("\0\x01{name}\0octet\0").as_bytes());
        assert_eq!(repeat(&mut fixture, &other, 2), [first; 2]);
    }
    (0..20).for_each(|port| forwarded(&mut fixture, &read_request(STOCK[0], 3000 + port)));
    assert_eq!(fixture.count(PacketCounter::Redispatched), 0);
}

#[test]
fn requests_are_not_redispatched_without_another_backend() {
    let mut fixture = Fixture::new();
    let first = backend(&mut fixture, &read_request(BOOT[0], 2000));
    fixture.tables.backends[usize::from(1 - first)].as_mut().unwrap().down = true;
    after(&mut fixture, Duration::from_secs(1));
    assert_eq!(repeat(&mut fixture, &read_request(BOOT[0], 2000), 4), [first; 4]);
    assert_eq!(fixture.count(PacketCounter::Redispatched), 0);
}

#[test]
fn a_slow_origin_behind_all_takes_few_to_another_backend() {
    let mut fixture = Fixture::new().stock_with_ranges();
    let mut moved = 0;
    for _ in 0..6 {
        let before = fixture.count(PacketCounter::Redispatched);
        (0..200).for_each(|client| forwarded(&mut fixture, &from(client, STOCK[0])));
        let now = fixture.count(PacketCounter::Redispatched) - before;
        assert!(now <= 20, "{now} in a second");
        moved += now;
        after(&mut fixture, Duration::from_secs(1));
    }
    assert!(moved <= 20, "when most backends look unresponsive, the cause is not the backends: {moved}");
}

#[test]
fn several_clients_that_wait_for_one_backend_raise_a_suspicion() {
    let mut fixture = Fixture::new().stock_with_ranges();
    let suspected = |fixture: &mut Fixture| {
        let mut found: Vec<Suspicion> = Vec::new();
        fixture.state.drain_suspicions(|suspicion| found.push(suspicion));
        found
    };
    let all: Vec<(u8, BackendId)> = (1..=60).map(|client| (client, backend(&mut fixture, &from(client, STOCK[0])))).collect();
    let unresponsive = all[0].1;
    let waiting: Vec<u8> = all.iter().filter(|(_, backend)| *backend == unresponsive).map(|(client, _)| *client).collect();
    after(&mut fixture, Duration::from_secs(1));
    waiting.iter().take(2).for_each(|client| forwarded(&mut fixture, &from(*client, STOCK[0])));
    assert!(suspected(&mut fixture).is_empty());
    waiting.iter().skip(2).for_each(|client| forwarded(&mut fixture, &from(*client, STOCK[0])));
    let found = suspected(&mut fixture);
    assert!(found.len() == 1 && found[0].backend == unresponsive, "{found:?}");
    assert!(found[0].to_string().starts_with("at least 3 clients repeat requests"), "{}", found[0]);
    after(&mut fixture, Duration::from_secs(1));
    let redispatched = waiting.iter().filter(|client| backend(&mut fixture, &from(**client, STOCK[0])) != unresponsive).count();
    assert!((5..=6).contains(&redispatched), "as many as the budget allows: {redispatched}");
}

#[test]
fn a_shed_request_does_not_count_as_sent_to_a_backend() {
    let mut fixture = Fixture::new();
    with_request_policy(&mut fixture, |request_policy| {
        request_policy.admission = Some(Admission { per_vip: Some(1), ..Admission::default() })
    });
    fixture.gre(&read_request(STOCK[0], 1999), 0);
    for _ in 0..4 {
        assert_eq!(fixture.gre(&read_request(STOCK[0], 2000), 0).verdict, Verdict::Drop(Reason::Shed));
        after(&mut fixture, Duration::from_millis(210));
    }
    assert_eq!(fixture.count(PacketCounter::ShedByVip), 4);
    assert_eq!(fixture.gre(&acknowledgement(STOCK[0], 1999, 40_000), 0).verdict, Verdict::Transmit, "acknowledgements are never touched");
    after(&mut fixture, Duration::from_secs(1));
    backend(&mut fixture, &read_request(STOCK[0], 2000));
    assert_eq!(fixture.count(PacketCounter::Redispatched), 0);
}

#[test]
fn each_limit_has_its_counter() {
    for (limits, number) in [
        (Admission { per_backend: Some(1), ..Admission::default() }, PacketCounter::ShedByBackend),
        (Admission { per_prefix: Some(1), ..Admission::default() }, PacketCounter::ShedByPrefix),
    ] {
        let mut fixture = Fixture::new();
        with_request_policy(&mut fixture, |request_policy| request_policy.admission = Some(limits));
        let shed =
            (0..20).filter(|port| fixture.gre(&read_request(BOOT[0], 2000 + port), 0).verdict == Verdict::Drop(Reason::Shed)).count();
        assert!(shed >= 18 && fixture.count(number) == shed as u64, "{shed}");
    }
}

#[test]
fn write_requests_and_clients_are_forwarded_where_they_are_wanted() {
    let mut fixture = Fixture::new();
    with_request_policy(&mut fixture, |request_policy| {
        request_policy.writes = true;
        request_policy.clients = Some(PrefixSet::new(&["198.51.100.0/24".parse().unwrap(), "2001:db8:c::/48".parse().unwrap()]));
    });
    backend(&mut fixture, &write_request(BOOT[0], CLIENT[0]));
    backend(&mut fixture, &read_request(BOOT[1], 2000));
    let other_client = fixture.gre(&write_request(BOOT[0], "203.0.113.9"), 0);
    assert_eq!(other_client.verdict, Verdict::Drop(Reason::ClientNotAllowed));
    let stray = build::udp(socket("203.0.113.9", 2000), socket(BOOT[0], 20_500), &[0, 4, 0, 1]);
    assert_eq!(fixture.gre(&stray, 0).verdict, Verdict::Transmit, "only requests are checked");
}

#[test]
fn addresses_of_the_fleet_are_no_clients() {
    let mut fixture = Fixture::new();
    for source in [DIRECTOR[0], "10.0.2.21", BOOT[0], DNS[0], "0.0.0.0", "127.0.0.1", "255.255.255.255", "240.0.0.1"] {
        let request = build::udp(socket(source, 69), socket(BOOT[0], 69), b"\0\x01x\0octet\0");
        assert_eq!(fixture.gre(&request, 0).verdict, Verdict::Drop(Reason::BogusSource), "{source}");
    }
    let request = build::udp(socket(BOOT[1], 69), socket(BOOT[1], 69), b"\0\x01x\0octet\0");
    assert_eq!(fixture.gre(&request, 1).verdict, Verdict::Drop(Reason::BogusSource));
}

#[test]
fn a_request_in_fragments_is_a_request() {
    let mut fixture = Fixture::new();
    with_request_policy(&mut fixture, |request_policy| {
        request_policy.admission = Some(Admission { per_vip: Some(1), ..Admission::default() })
    });
    let pieces = |port, id| read_request(BOOT[0], port).fragments(id, 16);
    for piece in pieces(2000, 7) {
        assert_eq!(fixture.gre(&piece, 0).verdict, Verdict::Transmit);
    }
    let second = pieces(2001, 8);
    assert_eq!(fixture.gre(&second[0], 0).verdict, Verdict::Drop(Reason::Shed));
    assert_eq!(fixture.gre(&second[1], 0).verdict, Verdict::Hold, "and waits in vain");
    fixture.now = Time(fixture.now.0 + 2_000_000_000);
    fixture.state.tick(fixture.now);
    assert_eq!(fixture.counters().dropped(Reason::FragmentHoldExpired), 1);
}

#[test]
fn among_many_that_acknowledge_only_the_one_that_waits_is_looked_up() {
    for (family, vip) in BOOT.into_iter().enumerate() {
        let mut fixture = Fixture::new();
        let first = repeat(&mut fixture, &read_request(vip, 2000), 2)[0];
        let port = 20_001 + 1000 * first;
        let batch: Vec<Vec<u8>> = (3000..3200).map(|client| in_gre(&acknowledgement(vip, client, port), 0)).collect();
        fixture.batch(&batch);
        assert!(fixture.state.requests.watches_acks(), "the others have received nothing for it");
        fixture.batch(&[batch, vec![in_gre(&acknowledgement(vip, 2000, port), family)]].concat());
        assert!(!fixture.state.requests.watches_acks());
    }
}
