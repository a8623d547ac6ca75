//! Packets that share state come to one worker.

use super::fixture::*;
use crate::path::lookup::LastLookups;
use crate::path::steering_hash::{select_worker, steering_hash};
use crate::tables::Echo;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::build::{self, Packet};

fn frame_hash(frame: &[u8], fixture: &Fixture) -> Result<u64, Verdict> {
    steering_hash(frame, &fixture.tables, &mut LastLookups::default())
}

fn hash(packet: &Packet, fixture: &Fixture) -> u64 {
    let hash = frame_hash(&in_gre(packet, 0), fixture).unwrap();
    assert_eq!(frame_hash(&in_gre(packet, 1), fixture), Ok(hash), "the tunnel does not matter");
    assert_eq!(frame_hash(&packet.tagged_frame(ROUTER_MAC, DIRECTOR_MAC, 9), fixture), Ok(hash), "nor does a tag");
    hash
}

#[test]
fn a_transfer_stays_together_whatever_its_server_port() {
    let fixture = Fixture::new();
    for vip in BOOT.into_iter().chain(STOCK).chain(CLIENT_KEY) {
        let request = hash(&read_request(vip, 40_000), &fixture);
        assert_eq!(request, hash(&acknowledgement(vip, 40_000, 20_500), &fixture), "{vip}: by TID range or not");
        assert_eq!(request, hash(&acknowledgement(vip, 40_000, 60_000), &fixture));
        assert_ne!(request, hash(&read_request(vip, 40_001), &fixture));
    }
    for vip in DNS {
        assert_ne!(hash(&query(vip, 40_000), &fixture), hash(&query(vip, 40_001), &fixture));
    }
    let with_options = query(DNS[0], 40_000).options(&[1, 1, 1, 0]);
    assert_eq!(hash(&with_options, &fixture), hash(&query(DNS[0], 40_000), &fixture), "the slow path comes to the same");
}

#[test]
fn fragments_of_a_packet_stay_together_and_errors_go_with_their_flow() {
    let fixture = Fixture::new();
    for vip in STOCK {
        let pieces = build::udp(socket(client_of(vip), 40_000), socket(vip, 69), &[&[0, 1][..], &[7; 400]].concat()).fragments(7, 64);
        let hashes: Vec<u64> = pieces.iter().map(|piece| hash(piece, &fixture)).collect();
        assert!(pieces.len() > 3 && hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:x?}");
    }
    let data = build::udp(socket(STOCK[0], 30_000), socket(CLIENT[0], 40_000), b"\0\x03\0\x01");
    let unreachable = build::icmp(ip(CLIENT[0]), ip(STOCK[0]), 3, 3, &[&[0; 4], data.bytes()].concat());
    assert_eq!(hash(&unreachable, &fixture), hash(&read_request(STOCK[0], 40_000), &fixture));
}

#[test]
fn what_needs_no_worker_gets_the_verdict_of_the_path() {
    let mut fixture = Fixture::new();
    fixture.tables.icmp_echo = Echo::Drop;
    let echo = build::icmp(ip(CLIENT[0]), ip(BOOT[0]), 8, 0, b"\0\x01\0\x01ping");
    let frames = [
        (read_request(STOCK[0], 1).frame(ROUTER_MAC, ROUTER_MAC), Verdict::ToHost),
        (in_gre(&acknowledgement("203.0.113.1", 3000, 20_500), 0), Verdict::ToHost),
        (
            read_request(STOCK[0], 1).gre(ip("10.9.9.9"), ip(DIRECTOR[0])).frame(ROUTER_MAC, DIRECTOR_MAC),
            Verdict::Drop(Reason::RouterNotAllowed),
        ),
        (in_gre(&acknowledgement(BOOT[0], 3000, 1023), 0), Verdict::Drop(Reason::NoService)),
        (in_gre(&echo, 0), Verdict::Drop(Reason::IcmpEcho)),
        (vec![0; 13], Verdict::Drop(Reason::Truncated)),
    ];
    for (frame, verdict) in frames {
        assert_eq!(frame_hash(&frame, &fixture), Err(verdict));
        assert_eq!(fixture.frame(&frame).verdict, verdict);
    }
}

#[test]
fn every_worker_gets_its_share_and_uses_its_whole_flow_table() {
    const FLOWS: usize = 30_000;
    let fixture = Fixture::new();
    let hashes: Vec<u64> = (0..FLOWS).map(|n| frame_hash(&in_gre(&query(DNS[0], n as u16), 0), &fixture).unwrap()).collect();
    for workers in [2, 3, 7] {
        let mut counts = vec![[0usize; 4]; workers];
        for hash in &hashes {
            counts[select_worker(*hash, workers)][(hash >> 62) as usize] += 1;
        }
        let expected = (FLOWS / workers / 4) as f64;
        let all = counts.iter().flatten();
        // Binomial: six standard deviations.
        assert!(all.clone().all(|n| (*n as f64 - expected).abs() < 6.0 * expected.sqrt()), "{workers}: {counts:?}");
    }
}
