//! The outer header differs by client, so that routers and network cards spread the packets to one backend.

use super::fixture::*;
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build::{self, Packet};
use guideway_packet::wire::view::{Ipv4View, Ipv6View};
use std::collections::BTreeMap;

/// What differs in the outer header of a frame: flow label or source.
fn entropy(frame: &[u8]) -> u32 {
    sent(frame);
    let packet = &frame[if frame[12..14] == [0x81, 0] { 18 } else { 14 }..];
    if packet[0] >> 4 == 6 { Ipv6View::new(packet).unwrap().flow_label() } else { Ipv4View::new(packet).unwrap().source().to_bits() }
}

fn arrive(fixture: &mut Fixture, packet: &Packet) -> u32 {
    let outcome = fixture.gre(packet, 0);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    entropy(&outcome.frame)
}

/// A port of the backend that is reached over IPv4, and of the one over IPv6.
const TIDS: [u16; 2] = [20_500, 21_500];

fn acknowledge(vip: &str, client: u16, port: u16, tid: u16) -> Packet {
    let client = if ip(vip).is_ipv4() { format!("198.51.100.{client}") } else { format!("2001:db8:c::{client:x}") };
    build::udp(socket(&client, port), socket(vip, tid), &[0, 4, 0, 1])
}

#[test]
fn flows_to_one_backend_have_many_outer_headers_and_each_keeps_its_own() {
    for (family, vip) in BOOT.into_iter().enumerate() {
        for tid in TIDS {
            let mut fixture = Fixture::new();
            fixture.spread_over(SOURCES);
            let mut seen = BTreeMap::new();
            for client in 1..=100 {
                for port in 2000..2003 {
                    let packet = acknowledge(vip, client, port, tid);
                    let first = arrive(&mut fixture, &packet);
                    *seen.entry(first).or_insert(0) += 1;
                    assert_eq!(arrive(&mut fixture, &packet), first);
                    // The slow path comes to the same.
                    let slow = if family == 0 {
                        packet.clone().options(&[1, 1, 1, 0])
                    } else {
                        packet.clone().extension(60, &[0, 1, 4, 0, 0, 0, 0])
                    };
                    assert_eq!(arrive(&mut fixture, &slow), first);
                    let tagged = fixture.frame(&packet.gre(ip(ROUTER[0]), ip(DIRECTOR[0])).tagged_frame(ROUTER_MAC, DIRECTOR_MAC, 5));
                    assert_eq!(entropy(&tagged.frame), first);
                }
            }
            if tid == TIDS[0] {
                assert_eq!(seen.len(), 16, "every source of the prefix");
                assert!(seen.values().all(|n| (7..=36).contains(n)), "{seen:?} of 19 each");
            } else {
                assert!(seen.len() > 295, "{} flow labels of 300 flows", seen.len());
            }
        }
    }
}

#[test]
fn all_fragments_of_a_packet_have_one_outer_header() {
    for family in 0..2 {
        for tid in TIDS {
            let mut fixture = Fixture::new();
            fixture.spread_over(SOURCES);
            let long = build::udp(socket(CLIENT[family], 2000), socket(BOOT[family], tid), &[&[0, 3, 0, 1][..], &[7; 300]].concat());
            let mut seen: Vec<u32> = long.fragments(7, 104).iter().map(|piece| arrive(&mut fixture, piece)).collect();
            assert_eq!(seen.len(), 3);
            seen.dedup();
            assert_eq!(seen.len(), 1);
        }
    }
}

#[test]
fn without_a_prefix_the_source_is_our_address() {
    let mut fixture = Fixture::new();
    for client in 1..=50 {
        let packet = acknowledge(BOOT[0], client, 2000, TIDS[0]);
        assert_eq!(sent(&fixture.gre(&packet, 0).frame).outer.source, ip(DIRECTOR[0]));
    }
}
