//! Which backend a packet goes to.

use super::fixture::*;
use crate::counters::PacketCounter;
use crate::tables::ServiceKind;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, Packet};
use std::collections::HashSet;
use std::net::IpAddr;

fn backend(fixture: &mut Fixture, packet: &Packet) -> IpAddr {
    let outcome = fixture.gre(packet, 0);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    sent(&outcome.frame).outer.destination
}

/// Gives every pool other Maglev tables, as after a change of its backends: nobody keeps more than chance gives.
fn reshuffle(fixture: &mut Fixture) {
    for service in &mut fixture.tables.services {
        let mut pool = (*service.pool).clone();
        pool.members.rotate_left(1);
        service.pool = pool.into();
    }
}

#[test]
fn a_tid_range_names_its_backend_whatever_client_and_table_say() {
    let mut fixture = Fixture::new();
    for round in 0..2 {
        for port in 1..200 {
            assert_eq!(backend(&mut fixture, &acknowledgement(BOOT[0], port, 20_000 + port)), ip("10.0.2.21"), "round {round}");
            assert_eq!(backend(&mut fixture, &acknowledgement(BOOT[1], port, 21_999 - port)), ip("2001:db8:2::22"), "round {round}");
        }
        reshuffle(&mut fixture);
    }
    assert_eq!(fixture.count(PacketCounter::ByTidRange), fixture.count(PacketCounter::Received));
}

#[test]
fn without_ranges_request_and_acknowledgements_go_to_one_backend_whatever_the_servers_port() {
    for vip in [STOCK[0], STOCK[1]] {
        let mut used = HashSet::new();
        for port in 2000..2100 {
            let mut requester = Fixture::new();
            let to = backend(&mut requester, &read_request(vip, port));
            // Another director, which never saw the request, agrees; and so for a single-port server, which answers from port 69.
            for tid in [1024, 33_333, 65_535, 69] {
                assert_eq!(backend(&mut Fixture::new(), &acknowledgement(vip, port, tid)), to);
            }
            used.insert(to);
        }
        assert_eq!(used.len(), 3, "all backends are used");
    }
}

#[test]
fn with_key_client_all_requests_of_one_machine_go_to_one_backend() {
    let mut fixture = Fixture::new();
    let of = |fixture: &mut Fixture, client: &str, port| {
        backend(fixture, &build::udp(socket(client, port), socket(CLIENT_KEY[0], 69), b"\0\x01f\0octet\0"))
    };
    let mut used = HashSet::new();
    for client in 1..100 {
        let client = format!("198.51.100.{client}");
        let first = of(&mut fixture, &client, 1000);
        assert!((1001..1010).all(|port| of(&mut fixture, &client, port) == first));
        used.insert(first);
    }
    assert_eq!(used.len(), 3);
}

#[test]
fn the_flow_table_carries_a_transfer_across_a_change_and_a_request_starts_anew() {
    let mut fixture = Fixture::new();
    let before: Vec<IpAddr> = (2000..2100).map(|port| backend(&mut fixture, &read_request(STOCK[0], port))).collect();
    reshuffle(&mut fixture);
    for (port, before) in (2000..2100).zip(&before) {
        assert_eq!(backend(&mut fixture, &acknowledgement(STOCK[0], port, 40_000)), *before, "a running transfer stays");
    }
    let fresh: Vec<IpAddr> = (2000..2100).map(|port| backend(&mut Fixture::new(), &read_request(STOCK[0], port))).collect();
    assert_eq!(fresh, before, "the hash is the same everywhere");
    let again: Vec<IpAddr> = (2000..2100).map(|port| backend(&mut fixture, &read_request(STOCK[0], port))).collect();
    assert!(again.iter().zip(&before).all(|(again, before)| again != before), "a request from a known port follows the new table");
    for (port, again) in (2000..2100).zip(&again) {
        assert_eq!(backend(&mut fixture, &acknowledgement(STOCK[0], port, 40_001)), *again, "and its transfer follows the request");
    }
}

#[test]
fn plain_flows_stay_across_a_change_until_they_are_idle() {
    let mut fixture = Fixture::new();
    let before = backend(&mut fixture, &query(DNS[0], 5000));
    reshuffle(&mut fixture);
    assert_eq!(backend(&mut fixture, &query(DNS[0], 5000)), before);
    assert_eq!(fixture.count(PacketCounter::ByFlow), 1);
    fixture.now = fixture.now.plus(std::time::Duration::from_secs(120));
    assert_ne!(backend(&mut fixture, &query(DNS[0], 5000)), before);
}

#[test]
fn a_backend_that_is_gone_from_the_tables_is_not_remembered() {
    let mut fixture = Fixture::new();
    let before = backend(&mut fixture, &query(DNS[0], 5000));
    reshuffle(&mut fixture);
    let gone = fixture.tables.backends.iter().position(|b| b.as_ref().is_some_and(|b| b.address == before)).unwrap();
    fixture.tables.backends[gone] = None;
    assert_ne!(backend(&mut fixture, &query(DNS[0], 5000)), before);
}

#[test]
fn a_flow_leaves_a_backend_that_is_down_and_a_transfer_stays() {
    let mut fixture = Fixture::new();
    let flow = backend(&mut fixture, &query(DNS[0], 5000));
    let transfer = backend(&mut fixture, &read_request(STOCK[0], 5000));
    reshuffle(&mut fixture);
    fixture.tables.backends.iter_mut().flatten().for_each(|backend| backend.down = true);
    let again = backend(&mut fixture, &query(DNS[0], 5000));
    assert_ne!(again, flow);
    fixture.tables.backends.iter_mut().flatten().for_each(|backend| backend.down = false);
    assert_eq!(backend(&mut fixture, &query(DNS[0], 5000)), again, "it does not come back");
    fixture.tables.backends.iter_mut().flatten().for_each(|backend| backend.down = true);
    assert_eq!(backend(&mut fixture, &acknowledgement(STOCK[0], 5000, 40_000)), transfer, "nobody else could go on with it");
}

#[test]
fn with_ranges_a_transfer_leaves_nothing_in_the_flow_table() {
    let mut fixture = Fixture::new();
    backend(&mut fixture, &read_request(BOOT[0], 2000));
    backend(&mut fixture, &acknowledgement(BOOT[0], 2000, 20_500));
    backend(&mut fixture, &acknowledgement(BOOT[0], 2000, 50_000));
    assert_eq!(fixture.state.flows.used(), 0);
    backend(&mut fixture, &read_request(STOCK[0], 2000));
    assert_eq!(fixture.state.flows.used(), 1);
}

#[test]
fn opcodes_one_to_six_are_tftp_and_no_others() {
    let mut fixture = Fixture::new();
    for opcode in 0..=300u16 {
        let packet = build::udp(socket(CLIENT[0], 2000), socket(BOOT[0], 20_001), &opcode.to_be_bytes());
        let expected = if (1..=6).contains(&opcode) { Verdict::Transmit } else { Verdict::Drop(Reason::NotTftp) };
        assert_eq!(fixture.gre(&packet, 0).verdict, expected, "opcode {opcode}");
    }
    assert!(matches!(fixture.tables.services[0].kind, ServiceKind::Tftp(_)));
}
