//! Packets that exceed the MTU after encapsulation.

use super::fixture::*;
use crate::counters::PacketCounter;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, Packet};
use guideway_packet::wire::checksum;
use guideway_packet::wire::ip::Ip;

fn data(vip: &str, tid: u16, len: usize) -> Packet {
    let payload: Vec<u8> =
        [0, 3, 0, 1].into_iter().chain((0..).map(|n: u32| n as u8)).take(len - if ip(vip).is_ipv4() { 28 } else { 48 }).collect();
    build::udp(socket(client_of(vip), 2000), socket(vip, tid), &payload)
}

#[test]
fn the_largest_packet_that_fits_is_forwarded_and_one_byte_more_is_not() {
    for (tid, room) in [(20_500, 1476), (21_500, 1456)] {
        for (len, fits) in [(room, true), (room + 1, false)] {
            let outcome = Fixture::new().frame(&data(BOOT[0], tid, len).df().frame(ROUTER_MAC, DIRECTOR_MAC));
            assert_eq!(outcome.verdict == Verdict::Transmit, fits, "{len} bytes to TID {tid}");
        }
    }
}

#[test]
fn the_sender_of_a_packet_with_df_or_over_ipv6_gets_the_mtu_that_fits() {
    for family in 0..2 {
        let packet = data(BOOT[family], 20_500, 1500).df();
        let mut fixture = Fixture::new();
        let outcome = fixture.frame(&packet.frame(ROUTER_MAC, DIRECTOR_MAC));
        assert_eq!(outcome.verdict, Verdict::Drop(Reason::TooBig));
        assert_eq!(fixture.count(PacketCounter::Originated), 1);
        let [error] = outcome.outbox.as_slice() else { panic!("one error") };
        assert_eq!(error[..6], ROUTER_MAC);
        let header = Ip::parse(packet.ethertype(), &error[14..]).unwrap();
        assert!(header.checksum_ok(&error[14..]));
        assert_eq!((header.source, header.destination), (ip(BOOT[family]), ip(CLIENT[family])), "the VIP, which the client knows");
        assert_eq!(error.len() - 14, [576, 1280][family]);
        let message = &error[14 + usize::from(header.header_len)..];
        assert_eq!(message[..2], [[3, 4], [2, 0]][family]);
        assert_eq!(u16::from_be_bytes([message[6], message[7]]), 1476);
        assert_eq!(message[8..], packet.bytes()[..message.len() - 8]);
        let expected = build::icmp(header.source, header.destination, message[0], message[1], &message[4..]);
        assert_eq!(&error[14..], expected.bytes(), "checksums as if built from nothing");
        assert!(family == 1 || checksum::intact(message));
    }
}

#[test]
fn a_packet_without_df_is_cut_into_fragments_that_fit_and_give_the_whole_again() {
    for options in [&[][..], &[0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0]] {
        let packet = data(BOOT[0], 20_500, 1488).options(options);
        let mut fixture = Fixture::new();
        let outcome = fixture.frame(&packet.frame(ROUTER_MAC, DIRECTOR_MAC));
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_eq!(outcome.outbox.len(), 1);
        let mut whole = vec![0; packet.bytes().len() - 20 - options.len()];
        for (n, frame) in std::iter::once(&outcome.frame).chain(&outcome.outbox).enumerate() {
            let piece = sent(frame);
            assert!(piece.outer.total_len <= MTU);
            assert_eq!(piece.outer.destination, ip("10.0.2.21"));
            let header = Ip::parse(0x0800, &piece.inner).unwrap();
            let fragment = header.fragment.unwrap();
            assert_eq!(fragment.more, n == 0);
            let payload = &piece.inner[usize::from(header.header_len)..];
            whole[usize::from(fragment.offset)..][..payload.len()].copy_from_slice(payload);
            if n == 1 && !options.is_empty() {
                assert_eq!(piece.inner[20..32], [0x94, 4, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0], "record route stays in the first fragment only");
            }
        }
        assert_eq!(whole, packet.bytes()[20 + options.len()..]);
        assert_eq!((fixture.count(PacketCounter::Transmitted), fixture.count(PacketCounter::Originated)), (1, 1));
    }
}

#[test]
fn errors_are_limited_in_rate() {
    let mut fixture = Fixture::new();
    let frame = data(BOOT[0], 20_500, 1500).df().frame(ROUTER_MAC, DIRECTOR_MAC);
    for _ in 0..1000 {
        fixture.frame(&frame);
    }
    assert_eq!(fixture.count(PacketCounter::Originated), 50, "a burst");
    fixture.now = fixture.now.plus(std::time::Duration::from_millis(100));
    for _ in 0..1000 {
        fixture.frame(&frame);
    }
    assert_eq!(fixture.count(PacketCounter::Originated), 60, "then one every 10 ms");
}

#[test]
fn no_error_is_sent_about_an_error_or_a_later_fragment() {
    let quoted = data(BOOT[0], 20_500, 1400);
    let error = build::icmp(ip(CLIENT[0]), ip(BOOT[0]), 3, 4, &[&[0; 4][..], &build_quoted(), &[0; 1440]].concat()).df();
    let mut fixture = Fixture::new();
    assert_eq!(fixture.frame(&error.frame(ROUTER_MAC, DIRECTOR_MAC)).verdict, Verdict::Drop(Reason::TooBig));
    assert_eq!(fixture.count(PacketCounter::Originated), 0);
    assert_eq!(quoted.bytes().len(), 1400);
}

fn build_quoted() -> Vec<u8> {
    build::udp(socket(BOOT[0], 20_500), socket(CLIENT[0], 2000), b"").bytes().to_vec()
}

#[test]
fn the_sender_of_a_plain_packet_whose_ttl_ends_here_hears_of_it_from_the_vip() {
    for family in 0..2 {
        let packet = data(BOOT[family], 20_500, 200).ttl(1);
        let mut fixture = Fixture::new();
        for tagged in [false, true] {
            let mut frame = packet.frame(ROUTER_MAC, DIRECTOR_MAC);
            let l2 = if tagged {
                frame.splice(12..12, [0x81, 0, 0, 42]);
                18
            } else {
                14
            };
            let outcome = fixture.frame(&frame);
            assert_eq!(outcome.verdict, Verdict::Drop(Reason::TtlExpired));
            let [error] = outcome.outbox.as_slice() else { panic!("one error") };
            assert_eq!((&error[..6], &error[12..l2]), (&ROUTER_MAC[..], &frame[12..l2]));
            let kind = [11, 3][family];
            let expected = build::icmp(ip(BOOT[family]), ip(CLIENT[family]), kind, 0, &[&[0; 4][..], packet.bytes()].concat());
            assert_eq!(&error[l2..], expected.bytes());
        }
        assert_eq!(fixture.count(PacketCounter::Originated), 2);
        // The TTL of a packet in GRE is that of the router's header.
        let routed = packet.gre(ip(ROUTER[family]), ip(DIRECTOR[family])).ttl(1).frame(ROUTER_MAC, DIRECTOR_MAC);
        assert_eq!(fixture.frame(&routed).verdict, Verdict::Drop(Reason::TtlExpired));
        // No error about an error, or about a fragment without ports.
        let error = build::icmp(ip(CLIENT[0]), ip(BOOT[0]), 3, 3, &[&[0; 4][..], &build_quoted()].concat()).ttl(1);
        assert_eq!(fixture.frame(&error.frame(ROUTER_MAC, DIRECTOR_MAC)).verdict, Verdict::Drop(Reason::TtlExpired));
        let pieces = data(BOOT[family], 20_500, 200).fragments(7, 64);
        assert_eq!(fixture.gre(&pieces[0], 0).verdict, Verdict::Transmit);
        assert_eq!(fixture.frame(&pieces[1].clone().ttl(1).frame(ROUTER_MAC, DIRECTOR_MAC)).verdict, Verdict::Drop(Reason::TtlExpired));
        assert_eq!(fixture.count(PacketCounter::Originated), 2);
    }
}

#[test]
fn a_flood_of_used_up_ttls_is_limited_and_takes_nothing_from_other_errors() {
    let mut fixture = Fixture::new();
    let looping = data(BOOT[0], 20_500, 200).ttl(1).frame(ROUTER_MAC, DIRECTOR_MAC);
    (0..1000).for_each(|_| drop(fixture.frame(&looping)));
    assert_eq!(fixture.count(PacketCounter::Originated), 50);
    let big = data(BOOT[0], 20_500, 1500).df().frame(ROUTER_MAC, DIRECTOR_MAC);
    assert_eq!(fixture.frame(&big).outbox.len(), 1);
}
