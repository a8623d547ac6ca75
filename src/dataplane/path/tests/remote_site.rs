//! A packet that no local backend can take goes to the remote site. A packet from there goes no further.

use super::fixture::*;
use crate::counters::PacketCounter;
use crate::path::SelectedBy;
use crate::path::explain::explain;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, Packet};
use guideway_packet::wire::l4::UDP;

fn fixture() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.add_remote_site();
    fixture
}

/// The same packet as a remote site sends it.
fn from_remote_site(packet: &Packet) -> Vec<u8> {
    packet.gre(ip(REMOTE_SITE[1]), ip(DIRECTOR[0])).frame(ROUTER_MAC, DIRECTOR_MAC)
}

fn taken(fixture: &mut Fixture, frame: &[u8]) -> u8 {
    let outcome = fixture.frame(frame);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    sent(&outcome.frame).mac[5]
}

#[test]
fn a_request_that_no_backend_takes_goes_to_a_site_with_all_its_packets_and_only_once() {
    let mut fixture = fixture();
    for (family, vip) in BOOT.into_iter().enumerate() {
        let request = |port| read_request(vip, port);
        assert!(taken(&mut fixture, &in_gre(&request(2000), family)) < 9, "while there is a backend here");
    }
    assert_eq!(fixture.count(PacketCounter::ByRemoteSite), 0);
    fixture.remove_all_backends();
    let mut shares = [0; 2];
    for port in 2000..2100 {
        let site = taken(&mut fixture, &in_gre(&read_request(BOOT[0], port), 0));
        shares[usize::from(site - 9)] += 1;
        assert_eq!(taken(&mut fixture, &in_gre(&acknowledgement(BOOT[0], port, 50_000), 0)), site, "the same director gets all of it");
        assert_eq!(fixture.frame(&from_remote_site(&read_request(BOOT[0], port))).verdict, Verdict::Drop(Reason::NoBackend));
    }
    assert!(shares.iter().all(|share| *share > 25), "{shares:?}");
    assert_eq!(fixture.count(PacketCounter::ByRemoteSite), 200);
    assert!(taken(&mut fixture, &in_gre(&query(DNS[0], 3000), 0)) >= 9, "any service");
    assert!(taken(&mut fixture, &in_gre(&read_request(STOCK[1], 3000), 1)) >= 9);
    assert!(taken(&mut fixture, &in_gre(&acknowledgement(BOOT[0], 2000, 20_500), 0)) < 9, "transfers stay with their servers here");
}

#[test]
fn a_port_that_is_nobodys_here_is_another_site() {
    let mut fixture = fixture();
    for takeover in [false, true] {
        if takeover {
            fixture.take_over(Some(0));
        }
        let unknown_tid = acknowledgement(BOOT[0], 3000, 50_000);
        assert!(taken(&mut fixture, &in_gre(&unknown_tid, 0)) >= 9);
        assert!(
            taken(&mut fixture, &from_remote_site(&unknown_tid)) < 9,
            "a server here says to its client that it does not know the transfer"
        );
        assert!(taken(&mut fixture, &in_gre(&acknowledgement(BOOT[0], 3000, 20_500), 0)) < 9, "this one's server, or its successor");
        let quoted = build::udp(socket(BOOT[0], 50_000), socket(CLIENT[0], 3000), b"\0\x03\0\x01data");
        let error = build::icmp(ip(CLIENT[0]), ip(BOOT[0]), 3, 3, &[&[0; 4], quoted.bytes()].concat());
        assert!(taken(&mut fixture, &in_gre(&error, 0)) >= 9);
    }
    assert!(taken(&mut fixture, &in_gre(&acknowledgement(STOCK[0], 3000, 50_000), 0)) < 9, "without ranges nobody can tell");
}

#[test]
fn a_site_that_cannot_be_reached_leaves_all_to_the_other() {
    let mut fixture = fixture();
    fixture.remove_all_backends();
    let first = usize::from(fixture.tables.remote_site_directors[0]);
    fixture.tables.backends[first].as_mut().unwrap().set_next_hop(None);
    for port in 2000..2020 {
        assert_eq!(taken(&mut fixture, &in_gre(&read_request(BOOT[0], port), 0)), 10);
    }
    fixture.tables.backends[first + 1].as_mut().unwrap().set_next_hop(None);
    let mut requested = Vec::new();
    for port in 2000..2020 {
        let verdict = fixture.frame(&in_gre(&read_request(BOOT[0], port), 0)).verdict;
        assert_eq!(verdict, Verdict::Drop(Reason::NeighbourUnresolved));
    }
    fixture.state.drain_unresolved(|id| requested.push(id));
    requested.sort_unstable();
    assert_eq!(requested, fixture.tables.remote_site_directors, "both are requested from the kernel");
}

#[test]
fn all_fragments_go_to_one_site() {
    let mut fixture = fixture();
    fixture.remove_all_backends();
    let request = build::udp(socket(CLIENT[0], 2000), socket(BOOT[0], 69), &[&b"\0\x01"[..], &[b'a'; 300], b"\0octet\0"].concat());
    let sites: Vec<u8> = request.fragments(9, 64).iter().map(|piece| taken(&mut fixture, &in_gre(piece, 0))).collect();
    assert!(sites.len() > 2 && sites[0] >= 9 && sites.iter().all(|site| *site == sites[0]), "{sites:?}");
    assert_eq!(fixture.count(PacketCounter::ByRemoteSite), 1);
}

#[test]
fn it_is_explained() {
    let mut fixture = fixture();
    let ask = |fixture: &Fixture, port| {
        let explained = explain(&fixture.tables, UDP, socket(CLIENT[0], 2000), socket(BOOT[0], port)).unwrap();
        (explained.by, REMOTE_SITE.contains(&&*explained.backend.name), explained.unknown_tid)
    };
    assert_eq!(ask(&fixture, 69), (SelectedBy::Maglev, false, false));
    assert_eq!(ask(&fixture, 50_000), (SelectedBy::RemoteSite, true, false));
    fixture.remove_all_backends();
    assert_eq!(ask(&fixture, 69), (SelectedBy::RemoteSite, true, false));
}

#[test]
fn a_transfer_at_a_site_does_not_follow_what_its_client_had_here_before() {
    for vip in [STOCK[0], CLIENT_KEY[0]] {
        let mut fixture = fixture();
        assert!(taken(&mut fixture, &in_gre(&read_request(vip, 2000), 0)) < 9);
        assert!(taken(&mut fixture, &in_gre(&acknowledgement(vip, 2000, 50_000), 0)) < 9);
        fixture.remove_all_backends();
        assert!(taken(&mut fixture, &in_gre(&acknowledgement(vip, 2000, 50_000), 0)) < 9, "what began here ends here");
        let site = taken(&mut fixture, &in_gre(&read_request(vip, 2000), 0));
        assert!(site >= 9 && taken(&mut fixture, &in_gre(&acknowledgement(vip, 2000, 50_001), 0)) == site);
    }
}

#[test]
fn fragments_that_came_from_a_site_do_not_go_on_to_one() {
    let mut fixture = fixture();
    fixture.remove_all_backends();
    let request = build::udp(socket(CLIENT[0], 2000), socket(BOOT[0], 69), &[&b"\0\x01"[..], &[b'a'; 300], b"\0octet\0"].concat());
    let pieces = request.fragments(9, 64);
    assert_eq!(fixture.frame(&from_remote_site(&pieces[1])).verdict, Verdict::Hold);
    assert!(taken(&mut fixture, &in_gre(&pieces[0], 0)) >= 9);
    assert!(fixture.state.counters.balanced() && fixture.state.counters.dropped(Reason::NoBackend) == 1, "what was held is let go nowhere");
    assert_eq!(fixture.frame(&from_remote_site(&pieces[2])).verdict, Verdict::Drop(Reason::NoBackend));
    assert!(taken(&mut fixture, &in_gre(&pieces[3], 0)) >= 9);
}

#[test]
fn an_error_and_an_echo_find_the_way_as_well() {
    let mut fixture = fixture();
    fixture.remove_all_backends();
    for family in 0..2 {
        let echo = build::icmp(ip(CLIENT[family]), ip(DNS[family]), [8, 128][family], 0, b"\0\x01\0\x01ping");
        assert!(taken(&mut fixture, &in_gre(&echo, family)) >= 9);
        let query = query(DNS[family], 3000);
        assert!(taken(&mut fixture, &in_gre(&query, family)) >= 9);
        assert_eq!(fixture.frame(&from_remote_site(&query)).verdict, Verdict::Drop(Reason::NoBackend));
    }
}
