//! Packets that only an attacker or a broken host sends.

use super::fixture::*;
use crate::counters::PacketCounter;
use crate::path::first_fragments::FRAGMENT_TIMEOUT;
use crate::tables::Echo;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build;
use guideway_packet::wire::ip::Ip;
use std::time::Duration;

const ECHO: [u8; 2] = [8, 128];

fn answering() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.tables.icmp_echo = Echo::Answer;
    fixture
}

#[test]
fn an_echo_request_too_short_for_its_header_is_ignored() {
    for family in 0..2 {
        for len in 0..8 {
            let echo = build::ip(ip(CLIENT[family]), ip(BOOT[family]), [1, 58][family], &[ECHO[family], 0, 0, 0, 0, 0, 0][..len.min(7)]);
            let outcome = answering().gre(&echo, 0);
            assert_eq!(outcome.verdict, Verdict::Drop(Reason::IcmpIgnored), "{len} bytes");
        }
    }
}

#[test]
fn a_damaged_echo_request_is_not_answered_and_an_odd_one_is() {
    for family in 0..2 {
        for len in 0..9 {
            let echo = build::icmp(ip(CLIENT[family]), ip(BOOT[family]), ECHO[family], 0, &[0xff; 20][..4 + len]);
            assert_eq!(answering().gre(&echo, 0).verdict, Verdict::Drop(Reason::IcmpAnswered), "{len}");
            let mut damaged = echo;
            *damaged.bytes_mut().last_mut().unwrap() ^= 1;
            assert_eq!(answering().gre(&damaged, 0).verdict, Verdict::Drop(Reason::IcmpIgnored), "{len}");
        }
    }
}

#[test]
fn an_echo_request_from_many_hosts_is_not_answered() {
    let sources = ["255.255.255.255", "224.0.0.1", "0.0.0.0", "127.0.0.1", "240.0.0.1", "ff02::1", "::", "::1"];
    for source in sources {
        let family = usize::from(ip(source).is_ipv6());
        let echo = build::icmp(ip(source), ip(BOOT[family]), ECHO[family], 0, b"\0\x01\0\x01ping");
        let mut fixture = answering();
        assert_eq!(fixture.gre(&echo, 0).verdict, Verdict::Drop(Reason::IcmpEcho), "{source}");
        assert_eq!(fixture.count(PacketCounter::Originated), 0, "{source}");
        let big = build::udp(socket(source, 2000), socket(BOOT[family], 20_500), &[&[0, 3, 0, 1], &[7; 1460][..]].concat()).df();
        assert_eq!(fixture.frame(&big.frame(ROUTER_MAC, DIRECTOR_MAC)).verdict, Verdict::Drop(Reason::TooBig), "{source}");
        assert_eq!(fixture.count(PacketCounter::Originated), 0, "{source}");
    }
}

#[test]
fn an_echo_reply_carries_no_options_and_no_extension_headers() {
    for family in 0..2 {
        // A strict source route, and a routing header: on the way back they would lead astray.
        let echo = build::icmp(ip(CLIENT[family]), ip(BOOT[family]), ECHO[family], 0, b"\0\x01\0\x01ping")
            .options(&[137, 7, 4, 203, 0, 113, 1, 0])
            .extension(43, &[2, 0, 1, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        let outcome = answering().gre(&echo, 0);
        assert_eq!(outcome.verdict, Verdict::Drop(Reason::IcmpAnswered));
        let expected = build::icmp(ip(BOOT[family]), ip(CLIENT[family]), [0, 129][family], 0, b"\0\x01\0\x01ping");
        assert_eq!(&outcome.outbox[0][14..], expected.bytes());
    }
}

#[test]
fn a_plain_packet_in_a_broadcast_frame_is_not_forwarded() {
    // Every director on the link has got a copy of it.
    for destination in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2, 9, 9, 9, 9, 9]] {
        let frame = acknowledgement(BOOT[0], 2000, 20_500).frame(ROUTER_MAC, destination);
        assert_eq!(Fixture::new().frame(&frame).verdict, Verdict::ToHost);
    }
}

#[test]
fn neighbour_discovery_on_the_link_belongs_to_the_host_and_in_a_tunnel_to_nobody() {
    for kind in 133..=137 {
        let probe = build::icmp(ip(CLIENT[1]), ip(BOOT[1]), kind, 0, &[0; 20]);
        assert_eq!(Fixture::new().frame(&probe.frame(ROUTER_MAC, DIRECTOR_MAC)).verdict, Verdict::ToHost);
        assert_eq!(Fixture::new().gre(&probe, 0).verdict, Verdict::Drop(Reason::IcmpIgnored));
    }
}

#[test]
fn fragments_of_ipv6_that_differ_in_their_next_header_are_of_one_packet() {
    let payload = [&[0, 3, 0, 1][..], &[0x55; 100]].concat();
    let mut pieces = build::udp(socket(CLIENT[1], 2000), socket(STOCK[1], 40_000), &payload).fragments(9, 40);
    // RFC 8200 section 4.5: only that of the first fragment is used.
    pieces[1].bytes_mut()[40] = 60;
    let mut fixture = Fixture::new();
    let first = sent(&fixture.gre(&pieces[0], 0).frame).outer.destination;
    for piece in &pieces[1..] {
        let outcome = fixture.gre(piece, 0);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_eq!(sent(&outcome.frame).outer.destination, first);
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let packet = acknowledgement(BOOT[1], 2000, 20_500).extension(44, &[0, 0, 0, 0, 0, 0, 9]);
    let mut fixture = Fixture::new();
    let outcome = fixture.gre(&packet, 0);
    assert_eq!(sent(&outcome.frame).inner, packet.bytes());
    // It teaches nothing (RFC 6946 section 4): a piece with its identification is of another packet.
    let later = acknowledgement(BOOT[1], 2000, 20_500).fragments(9, 8).remove(1);
    assert_eq!(fixture.gre(&later, 0).verdict, Verdict::Hold);
}

#[test]
fn an_identification_that_comes_round_again_is_not_taken_for_the_old_packet() {
    let pieces = |port| build::udp(socket(CLIENT[0], port), socket(STOCK[0], 40_000), &[0, 3, 0, 1, 5, 5, 5, 5, 5, 5]).fragments(7, 8);
    let mut fixture = Fixture::new();
    fixture.gre(&pieces(2000)[0], 0);
    fixture.now = fixture.now.plus(FRAGMENT_TIMEOUT);
    assert_eq!(fixture.gre(&pieces(2001)[1], 0).verdict, Verdict::Hold, "the old one is forgotten");
}

#[test]
fn a_fragment_that_ends_beyond_the_largest_packet_is_not_cut_further() {
    let mut last = build::udp(socket(CLIENT[0], 2000), socket(BOOT[0], 20_500), &[&[0, 3], &[7; 1470][..]].concat());
    last.bytes_mut()[6..8].copy_from_slice(&0x1fffu16.to_be_bytes());
    let last = last.with_checksum();
    let mut first = acknowledgement(BOOT[0], 2000, 20_500);
    first.bytes_mut()[6] = 0x20;
    let mut fixture = Fixture::new();
    assert_eq!(fixture.gre(&first.with_checksum(), 0).verdict, Verdict::Transmit);
    assert_eq!(fixture.frame(&last.frame(ROUTER_MAC, DIRECTOR_MAC)).verdict, Verdict::Drop(Reason::BadHeader));
    assert_eq!(fixture.count(PacketCounter::Originated), 0);
}

#[test]
fn an_icmp_error_keeps_no_flow_alive() {
    let mut fixture = Fixture::new();
    fixture.gre(&query(DNS[0], 4000), 0);
    let quoted = build::udp(socket(DNS[0], 53), socket(CLIENT[0], 4000), &[0; 100]);
    let error = build::icmp(ip("203.0.113.9"), ip(DNS[0]), 3, 4, &[&[0; 4], &quoted.bytes()[..28]].concat());
    for _ in 0..3 {
        fixture.now = fixture.now.plus(Duration::from_secs(25));
        assert_eq!(fixture.gre(&error, 0).verdict, Verdict::Transmit);
    }
    assert_eq!(
        (fixture.count(PacketCounter::ByFlow), fixture.count(PacketCounter::ByMaglev)),
        (2, 2),
        "after 75 of 60 seconds the flow is forgotten"
    );
}

#[test]
fn pieces_are_cut_whatever_the_packet_came_in() {
    // An outer header with all the options there can be, and the largest GRE header, with a tag before them: longer than what leaves.
    let fields = build::GreFields { checksum: true, key: Some(1), sequence: Some(2) };
    let packet = build::udp(socket(CLIENT[0], 2000), socket(BOOT[0], 20_500), &[&[0, 3], &[7; 4000][..]].concat());
    let outer = packet.gre_with(ip(ROUTER[0]), ip(DIRECTOR[0]), fields).options(&[1; 40]);
    let mut fixture = Fixture::new();
    let outcome = fixture.frame(&outer.tagged_frame(ROUTER_MAC, DIRECTOR_MAC, 5));
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_eq!(outcome.outbox.len(), 2);
    for frame in std::iter::once(&outcome.frame).chain(&outcome.outbox) {
        let piece = Ip::parse(0x0800, &sent(frame).inner).unwrap();
        assert!(piece.fragment.is_some() && frame.len() <= usize::from(MTU) + 18);
    }
}
