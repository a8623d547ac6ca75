//! GRE keepalives of routers.

use super::fixture::*;
use crate::counters::PacketCounter;
use crate::tables::Unmatched;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, GreFields, Packet};
use guideway_packet::wire::ip::Ip;

/// What a router puts into its keepalive: GRE from the director to itself.
fn to_router(gre: &[u8]) -> Packet {
    build::ip(ip(DIRECTOR[0]), ip(ROUTER[0]), 47, gre).ttl(255)
}

#[test]
fn a_keepalive_comes_back_whatever_becomes_of_unmatched_packets() {
    let plain = to_router(&[0; 4]);
    let keyed = to_router(&[0x20, 0, 0, 0, 0, 0, 0, 9]);
    let fields = GreFields { key: Some(9), sequence: Some(1), ..GreFields::default() };
    for (inside, frame) in
        [(&plain, in_gre(&plain, 0)), (&keyed, keyed.gre_with(ip(ROUTER[0]), ip(DIRECTOR[0]), fields).frame(ROUTER_MAC, DIRECTOR_MAC))]
    {
        for unmatched in [Unmatched::Host, Unmatched::Drop] {
            for tag in [&[][..], &[0x81, 0, 0, 42]] {
                let mut fixture = Fixture::new();
                fixture.tables.unmatched = unmatched;
                let frame = [&frame[..12], tag, &frame[12..]].concat();
                let outcome = fixture.frame(&frame);
                assert_eq!(outcome.verdict, Verdict::Drop(Reason::KeepaliveAnswered));
                let [reply] = outcome.outbox.as_slice() else { panic!("one reply") };
                let l2 = 14 + tag.len();
                assert_eq!((&reply[..6], &reply[6..12], &reply[12..l2]), (&ROUTER_MAC[..], &DIRECTOR_MAC[..], &frame[12..l2]));
                assert_eq!(&reply[l2..], inside.clone().ttl(254).bytes(), "what was inside, one hop older");
                assert!(Ip::parse(0x0800, &reply[l2..]).unwrap().checksum_ok(&reply[l2..]));
                assert_eq!(fixture.count(PacketCounter::Originated), 1);
            }
        }
    }
}

#[test]
fn what_only_looks_like_a_keepalive_is_not_sent_anywhere() {
    let from = |source: &str, gre: &[u8]| build::ip(ip(source), ip(ROUTER[0]), 47, gre);
    for (sentence, packet, verdict) in [
        ("from another host", from("10.0.1.12", &[0; 4]), Verdict::ToHost),
        ("with a payload", to_router(&[0, 0, 8, 0]), Verdict::ToHost),
        ("cut off", to_router(&[0; 3]), Verdict::ToHost),
        ("not GRE", build::ip(ip(DIRECTOR[0]), ip(ROUTER[0]), 50, &[0; 4]), Verdict::ToHost),
        ("a fragment", to_router(&[0; 16]).fragments(7, 8)[0].clone(), Verdict::ToHost),
        ("with options", to_router(&[0; 4]).options(&[1, 1, 1, 0]), Verdict::ToHost),
        ("to a stranger", build::ip(ip(DIRECTOR[0]), ip("203.0.113.9"), 47, &[0; 4]), Verdict::Drop(Reason::RouterNotAllowed)),
        ("at the end of its TTL", to_router(&[0; 4]).ttl(1), Verdict::Drop(Reason::TtlExpired)),
    ] {
        let mut fixture = Fixture::new();
        let outcome = fixture.gre(&packet, 0);
        assert_eq!((outcome.verdict, outcome.outbox.len()), (verdict, 0), "{sentence}");
    }
    let mut fixture = Fixture::new();
    assert_eq!(fixture.frame(&to_router(&[0; 4]).frame(ROUTER_MAC, DIRECTOR_MAC)).outbox.len(), 0, "without GRE around it");
}
