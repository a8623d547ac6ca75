//! What no backend here takes goes to another site, and what came from there goes no further.

use super::world::*;
use crate::counters::Number;
use crate::path::explain::explain;
use crate::path::select::By;
use crate::tables::{Backend, BackendId, NextHop, Routers};
use crate::verdict::{Reason, Verdict};
use crate::wire::build::{self, Packet};
use crate::wire::l4::UDP;
use std::sync::Arc;

const SITES: [&str; 2] = ["10.9.1.11", "10.9.1.12"];

/// A world with two directors of another site, numbers 9 and 10 in the last byte of their link-layer addresses.
fn world() -> World {
    let mut world = World::new();
    let first = world.tables.backends.len() as BackendId;
    for (n, address) in SITES.iter().enumerate() {
        let next_hop = Some(NextHop { mac: [2, 0, 0, 0, 9, 9 + n as u8], mtu: MTU });
        let director = Backend::new((*address).into(), "other sites".into(), DIRECTOR_MAC, ip(DIRECTOR[0]), ip(address), next_hop);
        world.tables.backends.push(director);
        world.tables.sites.push(first + n as BackendId);
    }
    world.tables.site_addresses = Routers::new(&SITES.map(|address| ip(address).into()));
    let routers = [SITES[0], SITES[1], ROUTER[0], ROUTER[1]].map(|address| ip(address).into());
    world.tables.routers = Routers::new(&routers);
    world.tables.services.iter_mut().for_each(|service| service.elsewhere = true);
    world
}

/// Backends of every pool get nothing new from now on.
fn empty(world: &mut World) {
    for service in &mut world.tables.services {
        let mut pool = (*service.pool).clone();
        pool.maglev = Arc::new(crate::maglev::Table::build(&crate::hash::FleetKey::new([7; 16]), 1_009, &[("none", 0)]).unwrap());
        service.pool = Arc::new(pool);
    }
}

/// The same packet as another site sends it.
fn hopped(packet: &Packet) -> Vec<u8> {
    packet.gre(ip(SITES[1]), ip(DIRECTOR[0])).frame(ROUTER_MAC, DIRECTOR_MAC)
}

fn taken(world: &mut World, frame: &[u8]) -> u8 {
    let outcome = world.frame(frame);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    sent(&outcome.frame).mac[5]
}

#[test]
fn a_request_that_no_backend_takes_goes_to_a_site_with_all_its_packets_and_only_once() {
    let mut world = world();
    for family in 0..2 {
        let request = |port| read_request(BOOT[family], port);
        assert!(taken(&mut world, &in_gre(&request(2000), family)) < 9, "while there is a backend here");
    }
    assert_eq!(world.count(Number::BySite), 0);
    empty(&mut world);
    let mut shares = [0; 2];
    for port in 2000..2100 {
        let site = taken(&mut world, &in_gre(&read_request(BOOT[0], port), 0));
        shares[usize::from(site - 9)] += 1;
        assert_eq!(taken(&mut world, &in_gre(&acknowledgement(BOOT[0], port, 50_000), 0)), site, "the same director gets all of it");
        assert_eq!(world.frame(&hopped(&read_request(BOOT[0], port))).verdict, Verdict::Drop(Reason::NoBackend));
    }
    assert!(shares.iter().all(|share| *share > 25), "{shares:?}");
    assert_eq!(world.count(Number::BySite), 200);
    assert!(taken(&mut world, &in_gre(&query(DNS[0], 3000), 0)) >= 9, "any service");
    assert!(taken(&mut world, &in_gre(&read_request(STOCK[1], 3000), 1)) >= 9);
    assert!(taken(&mut world, &in_gre(&acknowledgement(BOOT[0], 2000, 20_500), 0)) < 9, "transfers stay with their servers here");
}

#[test]
fn a_port_that_is_nobodys_here_is_another_sites() {
    let mut world = world();
    for takeover in [false, true] {
        if takeover {
            world.take_over(Some(0));
        }
        let stray = acknowledgement(BOOT[0], 3000, 50_000);
        assert!(taken(&mut world, &in_gre(&stray, 0)) >= 9);
        assert!(taken(&mut world, &hopped(&stray)) < 9, "a server here says to its client that it does not know the transfer");
        assert!(taken(&mut world, &in_gre(&acknowledgement(BOOT[0], 3000, 20_500), 0)) < 9, "this one's server, or its heir");
        let quoted = build::udp(socket(BOOT[0], 50_000), socket(CLIENT[0], 3000), b"\0\x03\0\x01data");
        let error = build::icmp(ip(CLIENT[0]), ip(BOOT[0]), 3, 3, &[&[0; 4], quoted.bytes()].concat());
        assert!(taken(&mut world, &in_gre(&error, 0)) >= 9);
    }
    assert!(taken(&mut world, &in_gre(&acknowledgement(STOCK[0], 3000, 50_000), 0)) < 9, "without ranges nobody can tell");
}

#[test]
fn a_site_that_cannot_be_reached_leaves_all_to_the_other() {
    let mut world = world();
    empty(&mut world);
    let first = usize::from(world.tables.sites[0]);
    world.tables.backends[first].as_mut().unwrap().set_next_hop(None);
    for port in 2000..2020 {
        assert_eq!(taken(&mut world, &in_gre(&read_request(BOOT[0], port), 0)), 10);
    }
    world.tables.backends[first + 1].as_mut().unwrap().set_next_hop(None);
    let mut asked = Vec::new();
    for port in 2000..2020 {
        let verdict = world.frame(&in_gre(&read_request(BOOT[0], port), 0)).verdict;
        assert_eq!(verdict, Verdict::Drop(Reason::NeighbourUnresolved));
    }
    world.state.drain_unresolved(|id| asked.push(id));
    asked.sort_unstable();
    assert_eq!(asked, world.tables.sites, "the kernel is asked for both");
}

#[test]
fn all_fragments_go_to_one_site() {
    let mut world = world();
    empty(&mut world);
    let request = build::udp(socket(CLIENT[0], 2000), socket(BOOT[0], 69), &[&b"\0\x01"[..], &[b'a'; 300], b"\0octet\0"].concat());
    let sites: Vec<u8> = request.fragments(9, 64).iter().map(|piece| taken(&mut world, &in_gre(piece, 0))).collect();
    assert!(sites.len() > 2 && sites[0] >= 9 && sites.iter().all(|site| *site == sites[0]), "{sites:?}");
    assert_eq!(world.count(Number::BySite), 1);
}

#[test]
fn it_is_explained() {
    let mut world = world();
    let ask = |world: &World, port| {
        let explained = explain(&world.tables, UDP, socket(CLIENT[0], 2000), socket(BOOT[0], port)).unwrap();
        (explained.by, SITES.contains(&&*explained.backend.name), explained.stray)
    };
    assert_eq!(ask(&world, 69), (By::Maglev, false, false));
    assert_eq!(ask(&world, 50_000), (By::Site, true, false));
    empty(&mut world);
    assert_eq!(ask(&world, 69), (By::Site, true, false));
}
