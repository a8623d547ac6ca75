//! ICMP and ICMPv6 to a VIP.

use super::fixture::*;
use crate::counters::PacketCounter;
use crate::tables::Echo;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build;
use guideway_packet::wire::checksum;
use guideway_packet::wire::ip::Ip;

#[test]
fn an_error_goes_to_the_backend_that_owns_the_quoted_flow() {
    for (family, kinds) in [(0, [(3, 4), (3, 3), (11, 0)]), (1, [(2, 0), (1, 4), (3, 0)])] {
        for (kind, code) in kinds {
            let mut fixture = Fixture::new();
            for port in 2000..2020 {
                // With ranges, without ranges, and plain UDP.
                for (vip, tid) in [(BOOT[family], 21_500), (STOCK[family], 40_000), (DNS[family], 53)] {
                    let of_flow = if tid == 53 { query(vip, port) } else { acknowledgement(vip, port, tid) };
                    let flow = sent(&fixture.gre(&of_flow, 0).frame).outer.destination;
                    let quoted = build::udp(socket(vip, tid), socket(CLIENT[family], port), &[0; 600]);
                    let hop = ["203.0.113.9", "2001:db8:9::9"][family];
                    let error = build::icmp(ip(hop), ip(vip), kind, code, &[&[0; 4], &quoted.bytes()[..60]].concat());
                    let outcome = fixture.gre(&error, 0);
                    assert_eq!(outcome.verdict, Verdict::Transmit, "{vip} {kind} {code}");
                    let sent = sent(&outcome.frame);
                    assert_eq!((sent.outer.destination, sent.inner.as_slice()), (flow, error.bytes()), "{vip} {kind} {code}");
                }
            }
        }
    }
}

#[test]
fn an_error_that_quotes_extension_headers_goes_to_the_backend_of_the_flow() {
    let mut fixture = Fixture::new();
    let flow = sent(&fixture.gre(&acknowledgement(BOOT[1], 2000, 21_500), 0).frame).outer.destination;
    let quoted = || build::udp(socket(BOOT[1], 21_500), socket(CLIENT[1], 2000), &[0; 100]);
    let option = [0, 1, 4, 0, 0, 0, 0];
    for (extensions, sentence) in
        [(&[0][..], "hop-by-hop options"), (&[60], "destination options"), (&[43], "a routing header"), (&[60, 43, 60, 0], "several")]
    {
        let quoted = extensions.iter().fold(quoted(), |packet, kind| packet.extension(*kind, &option));
        let error = |quoted: &[u8]| build::icmp(ip("2001:db8:9::9"), ip(BOOT[1]), 2, 0, &[&[0, 0, 5, 0], quoted].concat());
        let outcome = fixture.gre(&error(quoted.bytes()), 0);
        assert_eq!(outcome.verdict, Verdict::Transmit, "{sentence}");
        assert_eq!(sent(&outcome.frame).outer.destination, flow, "{sentence}");
        let ports = 40 + 8 * extensions.len();
        let cut = fixture.gre(&error(&quoted.bytes()[..ports + 3]), 0);
        assert_eq!(cut.verdict, Verdict::Drop(Reason::IcmpUnrelated), "{sentence}, cut off within the ports");
    }
    for (piece, verdict) in quoted().fragments(7, 48).iter().zip([Verdict::Transmit, Verdict::Drop(Reason::IcmpUnrelated)]) {
        let error = build::icmp(ip("2001:db8:9::9"), ip(BOOT[1]), 2, 0, &[&[0, 0, 5, 0], piece.bytes()].concat());
        assert_eq!(fixture.gre(&error, 0).verdict, verdict, "only the first fragment shows its ports");
    }
}

#[test]
fn an_error_starts_no_flow() {
    let mut fixture = Fixture::new();
    let quoted = build::udp(socket(DNS[0], 53), socket(CLIENT[0], 4000), &[0; 100]);
    let error = build::icmp(ip("203.0.113.9"), ip(DNS[0]), 3, 4, &[&[0; 4], &quoted.bytes()[..28]].concat());
    assert_eq!(fixture.gre(&error, 0).verdict, Verdict::Transmit);
    assert_eq!(fixture.state.flows.used(), 0);
}

#[test]
fn an_echo_request_is_forwarded_to_one_backend_per_client() {
    for family in 0..2 {
        let kind = [8, 128][family];
        let echo = build::icmp(ip(CLIENT[family]), ip(BOOT[family]), kind, 0, b"\0\x01\0\x01ping");
        let mut fixture = Fixture::new();
        let first = sent(&fixture.gre(&echo, 0).frame);
        assert_eq!(first.inner, echo.bytes());
        assert_eq!(sent(&fixture.gre(&echo, 1).frame).outer.destination, first.outer.destination);
    }
}

#[test]
fn an_echo_request_is_answered_from_the_vip_back_to_the_router_when_so_configured() {
    for family in 0..2 {
        let kinds = [[8u8, 0], [128, 129]][family];
        let echo = build::icmp(ip(CLIENT[family]), ip(BOOT[family]), kinds[0], 0, b"\0\x01\0\x01some odd ping").ttl(3);
        let mut fixture = Fixture::new();
        fixture.tables.icmp_echo = Echo::Answer;
        let outcome = fixture.gre(&echo, 0);
        let [reply] = outcome.outbox.as_slice() else { panic!("one reply") };
        assert_eq!((&reply[..6], &reply[6..12]), (&ROUTER_MAC[..], &DIRECTOR_MAC[..]));
        let ip_header = Ip::parse(echo.ethertype(), &reply[14..]).unwrap();
        assert!(ip_header.checksum_ok(&reply[14..]));
        assert_eq!((ip_header.source, ip_header.destination, ip_header.ttl), (ip(BOOT[family]), ip(CLIENT[family]), 64));
        let expected = build::icmp(ip(BOOT[family]), ip(CLIENT[family]), kinds[1], 0, b"\0\x01\0\x01some odd ping");
        assert_eq!(&reply[14..], expected.bytes(), "as if built from nothing");
        assert_eq!((fixture.count(PacketCounter::Originated), fixture.count(PacketCounter::Transmitted)), (1, 0));
        assert!(family == 1 || checksum::intact(&reply[34..]));
    }
}
