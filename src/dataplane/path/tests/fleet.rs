//! Several directors, and a router that sends every fragment to another one: all of a datagram comes to one backend.

use super::fixture::*;
use crate::counters::PacketCounter;
use crate::tables::{Backend, Fleet, NextHop, OutputInterface, PrefixSet};
use guideway_hash::FleetKey;
use guideway_packet::frame::LOOPBACK;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, Packet};
use guideway_packet::wire::ethernet::Ethernet;
use guideway_packet::wire::ip::Ip;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// Addresses of the directors.
const DIRECTORS: [&str; 3] = ["10.0.1.11", "10.0.1.12", "10.0.1.13"];

/// Director `own` of these.
fn director(own: usize, directors: &[&str]) -> Fixture {
    let mut fixture = Fixture::new();
    let tables = &mut fixture.tables;
    let addresses: Vec<IpAddr> = directors.iter().map(|address| ip(address)).collect();
    let IpAddr::V4(v4) = ip(DIRECTORS[own]) else { unreachable!() };
    tables.address.v4 = Some(v4);
    let mut members = Vec::new();
    for (n, address) in addresses.iter().enumerate() {
        let next_hop = Some(NextHop { mac: [2, 0, 0, 0, 3, n as u8], mtu: MTU, output: None });
        let other = (n != own).then_some(tables.backends.len() as u16);
        members.push((*address, other));
        if other.is_some() {
            tables.backends.push(Backend::new(directors[n].into(), "fleet".into(), DIRECTOR_MAC, v4.into(), *address, next_hop));
        }
    }
    let table = Fleet::build_table(&FleetKey::new(*b"0123456789abcdef"), &addresses).unwrap();
    tables.fleet = Fleet::new(Arc::new(table), &members);
    tables.routers = PrefixSet::new(&["10.0.0.0/23", "2001:db8::/64"].map(|prefix| prefix.parse().unwrap()));
    fixture
}

/// Directors, and what has come to backends.
struct Net {
    directors: Vec<Fixture>,
    random: u64,
    /// Backends and fragments by client port.
    arrived: BTreeMap<u16, (BTreeSet<IpAddr>, BTreeSet<Vec<u8>>)>,
    /// Which datagram a fragment is of.
    sent: BTreeMap<Vec<u8>, u16>,
}

impl Net {
    fn new(directors: Vec<Fixture>) -> Net {
        Net { directors, random: 0x9e37_79b9_7f4a_7c15, arrived: BTreeMap::new(), sent: BTreeMap::new() }
    }

    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % n as u64) as usize
    }

    /// Sends these packets of clients, each to some director, and all that directors send on.
    fn deliver(&mut self, packets: &[Packet]) {
        for packet in packets {
            let at = self.below(self.directors.len());
            let frame = packet.gre(ip(ROUTER[0]), ip(DIRECTORS[at])).frame(ROUTER_MAC, DIRECTOR_MAC);
            let mut under_way = VecDeque::from([(at, frame)]);
            while let Some((at, frame)) = under_way.pop_front() {
                let outcome = self.directors[at].frame(&frame);
                assert!(matches!(outcome.verdict, Verdict::Transmit | Verdict::Hold), "{:?}", outcome.verdict);
                let own = (outcome.verdict == Verdict::Transmit).then_some(outcome.frame);
                for frame in own.into_iter().chain(outcome.outbox) {
                    let ethernet = Ethernet::parse(&frame).unwrap();
                    let outer = Ip::parse(ethernet.ethertype, &frame[ethernet.len..]).unwrap();
                    match DIRECTORS.iter().position(|director| ip(director) == outer.destination) {
                        Some(other) => {
                            assert_eq!(outer.ttl, 63, "it hops once");
                            assert_eq!(outer.source, ip(DIRECTORS[at]), "by which it is recognised");
                            under_way.push_back((other, frame));
                        }
                        None => self.arrive(&frame),
                    }
                }
            }
        }
    }

    fn arrive(&mut self, frame: &[u8]) {
        let sent = sent(frame);
        let Some(datagram) = self.sent.get(&sent.inner) else { return };
        let (backends, fragments) = self.arrived.entry(*datagram).or_default();
        backends.insert(sent.outer.destination);
        fragments.insert(sent.inner);
    }

    fn count(&self, counter: PacketCounter) -> u64 {
        self.directors.iter().map(|director| director.count(counter)).sum()
    }
}

/// A datagram of `len` bytes from a client's port to a server's, in fragments.
fn datagram(vip: &str, client: u16, server: u16, len: usize) -> Vec<Packet> {
    let data = [&[0, 3, 0, 1][..], &vec![client as u8; len - 4]].concat();
    build::udp(socket(client_of(vip), client), socket(vip, server), &data).fragments(client.into(), 1400)
}

/// 60 datagrams in disorder, and every third fragment twice.
fn send_all(net: &mut Net) -> BTreeMap<u16, (IpAddr, usize)> {
    let (mut expected, mut packets) = (BTreeMap::new(), Vec::new());
    for n in 0..60u16 {
        let family = usize::from(n % 2 == 1);
        // TFTP with TID ranges and without, DNS.
        let (vip, server) =
            [(BOOT[family], 20_500 + 1000 * (n / 6 % 2)), (STOCK[family], 40_000), (DNS[family], 53)][usize::from(n / 2 % 3)];
        let port = 3000 + n;
        let len = if n % 10 == 0 { 60 << 10 } else { 4 << 10 };
        let fragments = datagram(vip, port, server, len);
        // Where a whole packet of the flow goes.
        let whole = build::udp(socket(client_of(vip), port), socket(vip, server), &[0, 4, 0, 1]);
        let outcome = net.directors[usize::from(n % 3)]
            .frame(&whole.gre(ip(ROUTER[0]), ip(DIRECTORS[usize::from(n % 3)])).frame(ROUTER_MAC, DIRECTOR_MAC));
        expected.insert(port, (sent(&outcome.frame).outer.destination, fragments.len()));
        net.sent.extend(fragments.iter().map(|fragment| (fragment.bytes().to_vec(), port)));
        let twice = fragments.iter().step_by(3).cloned().collect::<Vec<_>>();
        packets.extend(fragments);
        packets.extend(twice);
    }
    // Nobody's fragments are further apart than those of a few datagrams.
    for window in packets.chunks_mut(200) {
        for at in (1..window.len()).rev() {
            window.swap(at, net.below(at + 1));
        }
    }
    net.deliver(&packets);
    expected
}

#[test]
fn every_datagram_comes_whole_to_the_backend_of_its_flow() {
    let mut net = Net::new((0..3).map(|own| director(own, &DIRECTORS)).collect());
    let expected = send_all(&mut net);
    for (port, (backend, fragments)) in expected {
        let (backends, arrived) = &net.arrived[&port];
        assert_eq!((backends, arrived.len()), (&BTreeSet::from([backend]), fragments), "port {port}");
    }
    assert!(net.count(PacketCounter::HandedOn) > 200, "{}", net.count(PacketCounter::HandedOn));
}

#[test]
fn directors_that_know_nothing_of_one_another_lose_datagrams() {
    let mut net = Net::new((0..3).map(|own| director(own, &DIRECTORS[..0])).collect());
    let expected = send_all(&mut net);
    let whole =
        expected.iter().filter(|(port, (_, fragments))| net.arrived.get(port).is_some_and(|(_, arrived)| arrived.len() == *fragments));
    assert!(whole.count() < 30, "the test would show nothing if this sufficed");
}

#[test]
fn directors_that_disagree_hand_a_fragment_on_once() {
    // Each believes that all fragments belong to the other one.
    let mut net = Net::new(vec![director(0, &DIRECTORS), director(1, &DIRECTORS)]);
    for own in 0..2 {
        let other = net.directors[own].tables.fleet.others().find(|(address, _)| *address == ip(DIRECTORS[1 - own])).unwrap();
        let table = Fleet::build_table(&FleetKey::new([7; 16]), &[other.0]).unwrap();
        net.directors[own].tables.fleet = Fleet::new(Arc::new(table), &[(other.0, Some(other.1))]);
    }
    let fragments = datagram(DNS[0], 3000, 53, 4 << 10);
    net.deliver(&fragments);
    assert_eq!(net.count(PacketCounter::HandedOn), fragments.len() as u64);
}

#[test]
fn an_owner_that_cannot_be_reached_leaves_its_fragments_to_the_others() {
    let mut fixture = director(0, &DIRECTORS);
    for id in fixture.tables.fleet.others().map(|(_, id)| id).collect::<Vec<_>>() {
        fixture.tables.backends[usize::from(id)].as_mut().unwrap().set_next_hop(None);
    }
    for port in 3000..3030 {
        for fragment in datagram(DNS[0], port, 53, 4 << 10) {
            let outcome = fixture.frame(&fragment.gre(ip(ROUTER[0]), ip(DIRECTORS[0])).frame(ROUTER_MAC, DIRECTOR_MAC));
            assert_eq!(outcome.verdict, Verdict::Transmit);
            sent(&outcome.frame);
        }
    }
    assert_eq!(fixture.count(PacketCounter::HandedOn), 0);
}

#[test]
fn whole_packets_never_hop() {
    let mut fixture = director(0, &DIRECTORS);
    for port in 3000..3100 {
        let query = query(DNS[0], port).gre(ip(ROUTER[0]), ip(DIRECTORS[0])).frame(ROUTER_MAC, DIRECTOR_MAC);
        sent(&fixture.frame(&query).frame);
    }
    assert_eq!(fixture.count(PacketCounter::HandedOn), 0);
}

/// Sends a client's packet in GRE from `outer` to the director; the destination of what it sends on.
fn sent_from(fixture: &mut Fixture, outer: &str, packet: &Packet) -> Result<IpAddr, Verdict> {
    let frame = packet.gre(ip(outer), ip(DIRECTORS[0])).frame(ROUTER_MAC, DIRECTOR_MAC);
    let outcome = fixture.frame(&frame);
    let ethernet = Ethernet::parse(&outcome.frame).unwrap();
    let to = Ip::parse(ethernet.ethertype, &outcome.frame[ethernet.len..]).unwrap().destination;
    if outcome.verdict == Verdict::Transmit { Ok(to) } else { Err(outcome.verdict) }
}

#[test]
fn gre_that_no_router_sent_reaches_the_server_of_this_host_and_is_not_balanced_again() {
    let mut fixture = director(0, &DIRECTORS);
    // A server of `boot` is on this host.
    let tables = &mut fixture.tables;
    let local = tables.backends.len() as u16;
    let next_hop = Some(NextHop { mac: [0; 6], mtu: u16::MAX, output: Some(OutputInterface { index: LOOPBACK, mac: [0; 6] }) });
    tables.backends.push(Backend::new("here".into(), "boot".into(), DIRECTOR_MAC, ip(DIRECTORS[0]), ip(DIRECTORS[0]), next_hop));
    // A transfer of the backend t4, whatever the table says.
    let ack = build::udp(socket(CLIENT[0], 2070), socket(BOOT[0], 20_001), &[0, 4, 0, 1]);
    let request = build::udp(socket(CLIENT[0], 2070), socket(BOOT[0], 69), b"\0\x01f\0octet\0");
    let other = Err(Verdict::Drop(Reason::RouterNotAllowed));
    for (outer, expected) in [(ROUTER[0], Ok(ip("10.0.2.21"))), (DIRECTORS[1], Ok(ip("10.0.2.21"))), ("10.8.0.1", other)] {
        assert_eq!(sent_from(&mut fixture, outer, &ack), expected, "without a server here: {outer}");
    }
    fixture.tables.local_server = Some(local);
    let here = Ok(ip(DIRECTORS[0]));
    for packet in [&ack, &request] {
        // The router's packets in between must not open the fast path to the others.
        for (outer, expected) in [(ROUTER[0], None), (DIRECTORS[1], Some(here)), (ROUTER[0], None), ("10.8.0.1", Some(here))] {
            let to = sent_from(&mut fixture, outer, packet);
            assert!(expected.map_or(to.is_ok() && to != here, |expected| to == expected), "{outer}: {to:?}");
        }
    }
    assert_eq!(fixture.count(PacketCounter::ToLocalServer), 4);
    // Fragments: those that another director handed on are balanced here; those of other owners are for the server.
    let mut ends = BTreeSet::new();
    for client in 0..40 {
        let from = std::net::SocketAddr::from(([198, 51, 100, client], 2070));
        let fragments = build::udp(from, socket(BOOT[0], 20_001), &[&[0, 4, 0, 1][..], &[0; 3000]].concat()).fragments(7, 1400);
        let owned = fixture.tables.fleet.owner(fixture.tables.hash.hosts(17, from.ip(), ip(BOOT[0]))).is_none();
        for fragment in &fragments {
            let to = sent_from(&mut fixture, DIRECTORS[1], fragment);
            assert_eq!(to, if owned { Ok(ip("10.0.2.21")) } else { here }, "{client}");
        }
        ends.insert(owned);
    }
    assert_eq!(ends.len(), 2, "both kinds came");
    assert!(fixture.state.counters.balanced());
}
