//! What a forwarded packet looks like.

use super::fixture::*;
use crate::path::run;
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build::GreFields;
use guideway_packet::wire::ip::Ip;

#[test]
fn all_four_combinations_of_families_arrive_whole_and_untouched() {
    for (outer_in, vip) in [(0, BOOT[0]), (0, BOOT[1]), (1, BOOT[0]), (1, BOOT[1])] {
        for (tid, outer_out) in [(20_500, 0), (21_500, 1)] {
            let mut fixture = Fixture::new();
            let packet = acknowledgement(vip, 3000, tid);
            let outcome = fixture.gre(&packet, outer_in);
            assert_eq!(outcome.verdict, Verdict::Transmit, "outer {outer_in}, {vip}, TID {tid}");
            let sent = sent(&outcome.frame);
            assert_eq!(sent.inner, packet.bytes());
            assert_eq!(sent.outer.source, ip(DIRECTOR[outer_out]));
            assert_eq!(sent.outer.destination, ip(["10.0.2.21", "2001:db8:2::22"][outer_out]));
            assert_eq!(sent.mac, [2, 0, 0, 0, 2, outer_out as u8]);
        }
    }
}

#[test]
fn same_family_outside_is_same_size() {
    let packet = acknowledgement(BOOT[0], 3000, 20_500);
    let frame = in_gre(&packet, 0);
    assert_eq!(Fixture::new().frame(&frame).frame.len(), frame.len());
}

#[test]
fn ttl_goes_down_by_one_and_dscp_and_ecn_are_those_that_came() {
    let packet = acknowledgement(BOOT[0], 3000, 20_500).ttl(9).tos(0x28);
    let outer = packet.gre(ip(ROUTER[0]), ip(DIRECTOR[0])).ttl(33).tos(0xb9);
    let sent_in_gre = sent(&Fixture::new().frame(&outer.frame(ROUTER_MAC, DIRECTOR_MAC)).frame);
    assert_eq!((sent_in_gre.outer.ttl, sent_in_gre.outer.tos), (32, 0xb9));
    assert_eq!(sent_in_gre.inner, packet.bytes(), "the inner packet keeps its own");
    let sent_plain = sent(&Fixture::new().frame(&packet.frame(ROUTER_MAC, DIRECTOR_MAC)).frame);
    assert_eq!((sent_plain.outer.ttl, sent_plain.outer.tos), (8, 0x28));
    assert_eq!(sent_plain.inner, packet.bytes());
}

#[test]
fn optional_gre_fields_and_outer_options_are_honoured_and_stripped() {
    let packet = acknowledgement(BOOT[0], 3000, 20_500);
    for (checksum, key, sequence) in [(true, None, None), (false, Some(7), None), (false, None, Some(8)), (true, Some(7), Some(8))] {
        let outer = packet.gre_with(ip(ROUTER[0]), ip(DIRECTOR[0]), GreFields { checksum, key, sequence });
        for outer in [outer.clone(), outer.options(&[1, 1, 1, 0])] {
            let outcome = Fixture::new().frame(&outer.frame(ROUTER_MAC, DIRECTOR_MAC));
            assert_eq!(outcome.verdict, Verdict::Transmit, "{checksum} {key:?} {sequence:?}");
            assert_eq!(sent(&outcome.frame).inner, packet.bytes());
        }
    }
}

#[test]
fn a_vlan_tag_stays_and_padding_goes() {
    let packet = acknowledgement(BOOT[0], 3000, 20_500);
    let mut frame = packet.gre(ip(ROUTER[0]), ip(DIRECTOR[0])).tagged_frame(ROUTER_MAC, DIRECTOR_MAC, 0x6042);
    let len = frame.len();
    frame.extend([0xaa; 9]);
    let outcome = Fixture::new().frame(&frame);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_eq!(outcome.frame.len(), len);
    assert_eq!(outcome.frame[12..16], [0x81, 0, 0x60, 0x42]);
    assert_eq!(sent(&outcome.frame).inner, packet.bytes());
}

#[test]
fn inner_options_and_extension_headers_are_walked_to_the_ports() {
    let with_options = acknowledgement(BOOT[0], 3000, 20_500).options(&[0x94, 4, 0, 0]);
    let with_extensions = acknowledgement(BOOT[1], 3000, 20_500).extension(60, &[0, 1, 4, 0, 0, 0, 0]).extension(0, &[0, 1, 4, 0, 0, 0, 0]);
    for packet in [with_options, with_extensions] {
        let outcome = Fixture::new().gre(&packet, 0);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        let sent = sent(&outcome.frame);
        assert_eq!((sent.inner.as_slice(), sent.outer.destination), (packet.bytes(), ip("10.0.2.21")));
    }
}

#[test]
fn a_batch_decides_as_its_packets_one_by_one() {
    let frames: Vec<Vec<u8>> = (0..200u16)
        .flat_map(|n| {
            let port = 2000 + n % 50;
            [
                in_gre(&read_request(STOCK[0], port), 0),
                in_gre(&acknowledgement(STOCK[0], port, 40_000 + n), 1),
                in_gre(&query(DNS[1], port), 0),
            ]
        })
        .collect();
    let batch: Vec<_> = Fixture::new().batch(&frames).into_iter().map(|o| (o.verdict, o.frame)).collect();
    let mut fixture = Fixture::new();
    let single: Vec<_> = frames.iter().map(|frame| fixture.frame(frame)).map(|o| (o.verdict, o.frame)).collect();
    assert_eq!(batch, single);
}

#[test]
fn the_largest_growth_fits_the_headroom_that_every_io_leaves() {
    // Plain IPv4 to a backend over IPv6: nothing comes off, 44 bytes go on.
    let packet = acknowledgement(BOOT[0], 3000, 21_500).frame(ROUTER_MAC, DIRECTOR_MAC);
    let mut buffer = [&[0; HEADROOM][..], &packet].concat();
    let mut frames = [Frame::new(&mut buffer, HEADROOM, packet.len())];
    let mut fixture = Fixture::new();
    run(&mut frames, &fixture.tables, &mut fixture.state, fixture.now);
    assert_eq!(frames[0].verdict, Verdict::Transmit);
    assert_eq!(frames[0].start(), HEADROOM - 44);
}

#[test]
fn a_frame_for_another_station_that_a_switch_flooded_is_not_forwarded() {
    let packet = acknowledgement(BOOT[0], 3000, 20_500);
    assert_eq!(Fixture::new().frame(&packet.frame(ROUTER_MAC, [2, 0, 0, 0, 1, 0x12])).verdict, Verdict::ToHost);
    assert_eq!(Fixture::new().frame(&packet.frame(ROUTER_MAC, DIRECTOR_MAC)).verdict, Verdict::Transmit);
}

#[test]
fn what_is_not_ours_belongs_to_the_host() {
    let ours = socket(DIRECTOR[0], 22);
    let ssh = guideway_packet::wire::build::tcp(socket(CLIENT[0], 5000), ours, 2, b"");
    let other = acknowledgement("203.0.113.1", 3000, 20_500);
    let mut arp = vec![0xff; 6];
    arp.extend(ROUTER_MAC);
    arp.extend([0x08, 0x06]);
    arp.extend([0; 28]);
    let mut two_tags = acknowledgement(BOOT[0], 3000, 20_500).tagged_frame(ROUTER_MAC, DIRECTOR_MAC, 5);
    two_tags.splice(12..12, [0x88, 0xa8, 0, 7]);
    let mut fixture = Fixture::new();
    for (what, frame) in [
        ("TCP to the director itself", ssh.frame(ROUTER_MAC, DIRECTOR_MAC)),
        ("a packet to an address that is not ours", other.frame(ROUTER_MAC, DIRECTOR_MAC)),
        ("GRE for an address that is no VIP", in_gre(&other, 0)),
        ("ARP", arp),
        ("two VLAN tags", two_tags),
    ] {
        let outcome = fixture.frame(&frame);
        assert_eq!(outcome.verdict, Verdict::ToHost, "{what}");
        assert_eq!(outcome.frame, frame, "{what} is not changed");
    }
    assert!(Ip::parse(0x0800, other.bytes()).is_ok());
}
