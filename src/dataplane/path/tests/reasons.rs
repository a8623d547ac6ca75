//! Every reason has a packet that reaches it.

use super::fixture::*;
use crate::tables::PrefixSet;
use crate::tables::{Admission, Echo, Unmatched};
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, GreFields, Packet};
use std::collections::HashSet;

/// A sentence, the world it needs, and the frame.
type Case = (&'static str, Reason, fn(&mut Fixture), Vec<u8>);

fn as_it_is(_: &mut Fixture) {}

fn spoilt(mut packet: Packet, spoil: impl Fn(&mut Vec<u8>)) -> Packet {
    spoil(packet.bytes_mut());
    packet
}

fn outer(packet: &Packet) -> Packet {
    packet.gre(ip(ROUTER[0]), ip(DIRECTOR[0]))
}

fn framed(packet: &Packet) -> Vec<u8> {
    packet.frame(ROUTER_MAC, DIRECTOR_MAC)
}

fn parse_cases() -> Vec<Case> {
    let ack = acknowledgement(BOOT[0], 3000, 20_500);
    let gre = outer(&ack);
    let checked = ack.gre_with(ip(ROUTER[0]), ip(DIRECTOR[0]), GreFields { checksum: true, ..GreFields::default() });
    let many = (0..9).fold(acknowledgement(BOOT[1], 3000, 20_500), |packet, _| packet.extension(60, &[0, 1, 4, 0, 0, 0, 0]));
    vec![
        ("a frame that ends within the Ethernet header", Reason::Truncated, as_it_is, framed(&gre)[..13].to_vec()),
        ("a frame that ends within the VLAN tag", Reason::Truncated, as_it_is, {
            let mut frame = framed(&gre)[..16].to_vec();
            frame[12..14].copy_from_slice(&[0x81, 0]);
            frame
        }),
        ("a frame that ends before the length that its outer header claims", Reason::Truncated, as_it_is, framed(&gre)[..60].to_vec()),
        ("a GRE header cut off", Reason::Truncated, as_it_is, framed(&build::ip(ip(ROUTER[0]), ip(DIRECTOR[0]), 47, &[0, 0, 8]))),
        ("an inner packet that claims more than GRE carries", Reason::Truncated, as_it_is, {
            framed(&outer(&spoilt(ack.clone(), |b| b[3] += 1).with_checksum()))
        }),
        ("a UDP length beyond the packet", Reason::Truncated, as_it_is, framed(&outer(&spoilt(ack.clone(), |b| b[25] += 1)))),
        ("a UDP length below its header", Reason::BadHeader, as_it_is, framed(&outer(&spoilt(ack.clone(), |b| b[25] = 7)))),
        ("an outer header length below 20", Reason::BadHeader, as_it_is, framed(&spoilt(gre.clone(), |b| b[0] = 0x44))),
        ("an inner version that is not the protocol's", Reason::BadHeader, as_it_is, framed(&spoilt(gre.clone(), |b| b[24] = 0x65))),
        ("a TCP header length below 20", Reason::BadHeader, as_it_is, {
            let syn = build::tcp(socket(CLIENT[0], 2000), socket(DNS[0], 53), 2, b"");
            framed(&outer(&spoilt(syn, |b| b[32] = 0x40)))
        }),
        ("a wrong outer checksum", Reason::BadOuterChecksum, as_it_is, framed(&spoilt(gre.clone(), |b| b[10] ^= 1))),
        ("a GRE packet in fragments", Reason::OuterFragment, as_it_is, framed(&gre.fragments(5, 32)[0])),
        ("GRE from an unknown router", Reason::RouterNotAllowed, as_it_is, framed(&ack.gre(ip("10.9.9.9"), ip(DIRECTOR[0])))),
        ("GRE version 1", Reason::GreVersion, as_it_is, framed(&spoilt(gre.clone(), |b| b[21] = 1))),
        ("GRE with the routing bit", Reason::GreVersion, as_it_is, framed(&spoilt(gre.clone(), |b| b[20] = 0x40))),
        ("GRE that carries Ethernet", Reason::GreProtocol, as_it_is, framed(&spoilt(gre, |b| b[22..24].copy_from_slice(&[0x65, 0x58])))),
        ("a wrong GRE checksum", Reason::BadGreChecksum, as_it_is, framed(&spoilt(checked, |b| b[50] ^= 1))),
        ("a wrong inner checksum", Reason::BadInnerChecksum, as_it_is, framed(&outer(&spoilt(ack.clone(), |b| b[10] ^= 1)))),
        ("a wrong checksum without GRE", Reason::BadInnerChecksum, as_it_is, framed(&spoilt(ack, |b| b[10] ^= 1))),
        ("nine extension headers", Reason::ExtensionHeaders, as_it_is, framed(&outer(&many))),
    ]
}

fn later_cases() -> Vec<Case> {
    let ack = acknowledgement(BOOT[0], 3000, 20_500);
    let echo = build::icmp(ip(CLIENT[0]), ip(BOOT[0]), 8, 0, b"\0\x01\0\x01ping");
    let early = framed(&outer(&build::udp(socket(CLIENT[0], 2000), socket(BOOT[0], 20_500), &[0; 4000]).fragments(9, 2000)[1]));
    vec![
        ("GRE for an address that is no VIP", Reason::NotVip, |w| w.tables.unmatched = Unmatched::Drop, {
            framed(&outer(&acknowledgement("203.0.113.1", 3000, 20_500)))
        }),
        ("a router's keepalive", Reason::KeepaliveAnswered, as_it_is, {
            framed(&outer(&build::ip(ip(DIRECTOR[0]), ip(ROUTER[0]), 47, &[0; 4])))
        }),
        ("a VIP, but a port that nobody serves", Reason::NoService, as_it_is, framed(&outer(&acknowledgement(BOOT[0], 3000, 1023)))),
        (
            "a VIP, but a protocol without ports",
            Reason::NoService,
            as_it_is,
            framed(&outer(&build::ip(ip(CLIENT[0]), ip(BOOT[0]), 50, &[0; 16]))),
        ),
        ("an ICMP error about somebody else's packet", Reason::IcmpUnrelated, as_it_is, {
            let quoted = build::udp(socket("203.0.113.1", 20_500), socket(CLIENT[0], 3000), b"data");
            framed(&outer(&build::icmp(ip("203.0.113.9"), ip(BOOT[0]), 3, 4, &[&[0; 4], quoted.bytes()].concat())))
        }),
        ("an echo reply", Reason::IcmpIgnored, as_it_is, framed(&outer(&build::icmp(ip(CLIENT[0]), ip(BOOT[0]), 0, 0, b"pong")))),
        ("an echo request that nobody wants", Reason::IcmpEcho, |w| w.tables.icmp_echo = Echo::Drop, framed(&outer(&echo))),
        ("an echo request that we answer", Reason::IcmpAnswered, |w| w.tables.icmp_echo = Echo::Answer, framed(&outer(&echo))),
        ("an early fragment that is too long to be held", Reason::FragmentHoldFull, as_it_is, early),
        ("a first fragment without all of the UDP header", Reason::FragmentTiny, as_it_is, {
            framed(&outer(
                &spoilt(ack.fragments(5, 8)[0].clone(), |b| {
                    b.truncate(24);
                    b[3] = 24;
                })
                .with_checksum(),
            ))
        }),
        ("a paused service", Reason::ServicePaused, |w| w.tables.services.iter_mut().for_each(|s| s.paused = true), framed(&outer(&ack))),
        ("opcode 7", Reason::NotTftp, as_it_is, framed(&outer(&build::udp(socket(CLIENT[0], 2000), socket(BOOT[0], 69), b"\0\x07")))),
        (
            "an empty datagram to a TFTP service",
            Reason::NotTftp,
            as_it_is,
            framed(&outer(&build::udp(socket(CLIENT[0], 2000), socket(BOOT[0], 69), b""))),
        ),
        ("a write request where none is wanted", Reason::WriteRefused, as_it_is, framed(&outer(&write_request(BOOT[0], CLIENT[0])))),
        (
            "a request from outside of the clients' prefixes",
            Reason::ClientNotAllowed,
            |w| {
                with_request_policy(w, |request_policy| request_policy.clients = Some(PrefixSet::new(&["203.0.113.0/24".parse().unwrap()])))
            },
            framed(&outer(&read_request(BOOT[0], 2000))),
        ),
        ("a request that a multicast group asks for", Reason::BogusSource, as_it_is, framed(&outer(&write_request(BOOT[0], "224.0.0.1")))),
        (
            "one request more than is admitted in a second",
            Reason::Shed,
            |w| {
                with_request_policy(w, |request_policy| {
                    request_policy.admission = Some(Admission { per_vip: Some(1), ..Admission::default() })
                });
                assert_eq!(w.gre(&read_request(BOOT[0], 1999), 0).verdict, Verdict::Transmit);
            },
            framed(&outer(&read_request(BOOT[0], 2000))),
        ),
        ("the backend is gone from the tables", Reason::NoBackend, |w| w.tables.backends.clear(), framed(&outer(&ack))),
        ("a TTL of 1", Reason::TtlExpired, as_it_is, framed(&outer(&ack).ttl(1))),
        ("a hop limit of 0", Reason::TtlExpired, as_it_is, framed(&ack.gre(ip(ROUTER[1]), ip(DIRECTOR[1])).ttl(0))),
        (
            "a backend whose neighbour is not known",
            Reason::NeighbourUnresolved,
            |w| {
                w.tables.backends.iter_mut().flatten().for_each(|b| b.set_next_hop(None));
            },
            framed(&outer(&ack)),
        ),
        ("DF and 1,480 bytes without GRE", Reason::TooBig, as_it_is, {
            framed(&build::udp(socket(CLIENT[0], 2000), socket(BOOT[0], 20_500), &[&[0, 3], &[7; 1450][..]].concat()).df())
        }),
        (
            "an answer when the outbox is full",
            Reason::OutboxFull,
            |w| {
                w.tables.icmp_echo = Echo::Answer;
                while w.state.out.outbox.release(b"x", 0) {}
                for _ in 0..w.state.out.outbox.room() {}
            },
            framed(&outer(&echo)),
        ),
    ]
}

#[test]
fn every_reason_is_reached_by_its_packet_and_counted_once() {
    let mut reached = HashSet::new();
    for (sentence, reason, prepare, frame) in parse_cases().into_iter().chain(later_cases()) {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        let before = fixture.counters().dropped(reason);
        let outcome = fixture.frame(&frame);
        assert_eq!(outcome.verdict, Verdict::Drop(reason), "{sentence}");
        assert_eq!(fixture.counters().dropped(reason), before + 1, "{sentence}");
        reached.insert(reason);
    }
    // Three reasons are no verdict of the path on the packet that just came: see `fragments`, `io` and `steer`.
    for elsewhere in [Reason::FragmentHoldExpired, Reason::TransmitFull, Reason::WorkerQueueFull] {
        assert!(reached.insert(elsewhere));
    }
    for reason in Reason::ALL {
        assert!(reached.contains(reason), "{} has no packet", reason.name());
    }
}

#[test]
fn an_unresolved_neighbour_is_requested_once_a_batch() {
    let mut fixture = Fixture::new();
    fixture.tables.backends.iter_mut().flatten().for_each(|b| b.set_next_hop(None));
    let ack = in_gre(&acknowledgement(BOOT[0], 3000, 20_500), 0);
    fixture.batch(&[ack.clone(), ack]);
    let mut requested = Vec::new();
    fixture.state.drain_unresolved(|id| requested.push(id));
    assert_eq!(requested, [0]);
}
