//! The fast path and the slow path come to the same plan for every frame that the fast path takes, and to the same end.

use super::fixture::*;
use crate::counters::PacketCounter;
use crate::path::encap::EncapParams;
use crate::path::fast_path::FastPathPacket;
use crate::path::lookup::LastLookups;
use crate::path::select::Plan;
use crate::path::{SlowPathAction, classify, fast_path, run_slow_path};
use crate::tables::{Admission, NextHop, Service};
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build::{self, GreFields, Packet};
use proptest::prelude::*;
use proptest::sample::Index;

/// One of each kind of packet, over all families, wrapped in all ways.
fn seeds() -> Vec<Vec<u8>> {
    let mut packets: Vec<Packet> = Vec::new();
    for vip in BOOT.into_iter().chain(STOCK).chain(CLIENT_KEY) {
        packets.extend([read_request(vip, 40_000), acknowledgement(vip, 40_000, 20_500), acknowledgement(vip, 40_000, 50_000)]);
        packets.push(build::udp(socket(client_of(vip), 40_000), socket(vip, 20_500), b""));
        packets.extend(read_request(vip, 40_000).fragments(7, 16));
    }
    for vip in DNS {
        packets.extend([query(vip, 40_000), build::tcp(socket(client_of(vip), 40_000), socket(vip, 53), 2, b"")]);
        packets.push(build::icmp(ip(client_of(vip)), ip(vip), if ip(vip).is_ipv4() { 8 } else { 128 }, 0, b"\0\x01\0\x01ping"));
    }
    packets.push(query(DNS[0], 40_000).options(&[1, 1, 1, 0]));
    packets.push(query(DNS[1], 40_000).extension(60, &[0, 1, 4, 0, 0, 0, 0]));
    let mut frames = Vec::new();
    for packet in &packets {
        let wrapped = [0, 1].map(|outer| packet.gre(ip(ROUTER[outer]), ip(DIRECTOR[outer])));
        let keyed = packet.gre_with(ip(ROUTER[0]), ip(DIRECTOR[0]), GreFields { checksum: true, key: Some(7), sequence: None });
        let from_remote_site = packet.gre(ip(REMOTE_SITE[0]), ip(DIRECTOR[0]));
        for packet in wrapped.iter().chain([&keyed, &from_remote_site, packet]) {
            frames.push(packet.frame(ROUTER_MAC, DIRECTOR_MAC));
            frames.push(packet.tagged_frame(ROUTER_MAC, DIRECTOR_MAC, 5));
        }
    }
    frames
}

/// Classifies a frame on the fast path, as the first of its batch.
fn classify_fast<'w>(frame: &[u8], fixture: &'w Fixture) -> Option<FastPathPacket<'w>> {
    classify_after(&mut LastLookups::default(), frame, fixture)
}

/// The same as a later one of its batch.
fn classify_after<'w>(last: &mut LastLookups<'w>, frame: &[u8], fixture: &'w Fixture) -> Option<FastPathPacket<'w>> {
    let mut found = None;
    let done = fast_path::classify(frame, &fixture.tables, last, &mut found);
    assert_eq!(done.is_some(), found.is_some());
    found
}

/// The second of two frames in one batch.
fn second<'w>(first: &[u8], second: &[u8], fixture: &'w Fixture) -> Option<FastPathPacket<'w>> {
    let mut last = LastLookups::default();
    classify_after(&mut last, first, fixture);
    classify_after(&mut last, second, fixture)
}

/// All that was found out, to be compared.
fn findings(found: Option<FastPathPacket<'_>>) -> Option<(Plan, *const Service, EncapParams)> {
    found.map(|packet| (packet.plan, std::ptr::from_ref(packet.service), packet.encap_params))
}

/// Compares both paths for one frame; says whether the fast path took it.
fn compare(frame: &[u8], fixture: &Fixture) -> bool {
    let Some(fast) = classify_fast(frame, fixture) else { return false };
    let Ok(SlowPathAction::Forward(packet, flow, plan)) = classify(frame, &fixture.tables) else {
        panic!("only the fast path forwards {frame:02x?}");
    };
    assert!(packet.ip.fragment.is_none());
    let service = &fixture.tables.services[usize::from(flow.service)];
    assert_eq!((fast.plan, fast.encap_params), (plan, EncapParams::from(&packet)), "{frame:02x?}");
    assert!(std::ptr::eq(fast.service, service), "{frame:02x?}");
    assert_eq!(fast.flow(frame, &fixture.tables), Some(flow), "{frame:02x?}");
    let row = fast.row_hash(frame, 7, &fixture.tables);
    assert_eq!(row, flow.row_hash(7, &fixture.tables), "{frame:02x?}");
    true
}

#[test]
fn ordinary_packets_take_the_fast_path_and_no_other_does() {
    let fixture = Fixture::new();
    let taken = seeds().iter().filter(|frame| compare(frame, &fixture)).count();
    // Of each TFTP VIP 2 packets (a request takes the slow path), of each DNS VIP 2; plain and in GRE over both families, with a tag and without.
    assert_eq!(taken, (6 * 2 + 2 * 2) * 3 * 2);
}

#[test]
fn the_packet_before_changes_nothing() {
    let (fixture, seeds) = (Fixture::new(), seeds());
    let ordinary: Vec<_> = seeds.iter().filter(|frame| compare(frame, &fixture)).collect();
    for before in &ordinary {
        for frame in &ordinary {
            let found = second(before, frame, &fixture);
            assert!(found.is_some());
            assert_eq!(findings(found), findings(classify_fast(frame, &fixture)), "after {before:02x?}: {frame:02x?}");
        }
    }
}

#[test]
fn routers_and_services_may_change_from_packet_to_packet() {
    let fixture = Fixture::new();
    let mut last = LastLookups::default();
    let (dns, boot) = (query(DNS[0], 40_000), acknowledgement(STOCK[0], 40_000, 20_500));
    let request = read_request(STOCK[0], 40_000);
    for (packet, router) in
        [(&dns, ROUTER[0]), (&dns, "10.0.0.2"), (&dns, "10.9.9.9"), (&boot, "10.0.0.2"), (&request, ROUTER[0]), (&boot, ROUTER[0])]
    {
        for server_port in [None, Some(53), Some(1000), Some(69), Some(60_000)] {
            let mut frame = packet.gre(ip(router), ip(DIRECTOR[0])).frame(ROUTER_MAC, DIRECTOR_MAC);
            if let Some(port) = server_port {
                frame[60..62].copy_from_slice(&u16::to_be_bytes(port));
            }
            let found = classify_after(&mut last, &frame, &fixture);
            assert_eq!(findings(found), findings(classify_fast(&frame, &fixture)), "{router} {server_port:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn spoilt_packets_too(seed: Index, changes in prop::collection::vec((0usize..110, any::<u8>()), 0..4), fix: bool, cut in 0usize..140) {
        thread_local! {
            static FIXTURE: (Fixture, Vec<Vec<u8>>) = (Fixture::new(), seeds());
        }
        FIXTURE.with(|(fixture, seeds)| {
            let mut frame = seed.get(seeds).clone();
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            if fix {
                fix_checksums(&mut frame);
            }
            if cut < 20 {
                frame.truncate(frame.len().saturating_sub(cut));
            }
            compare(&frame, fixture);
            let before = seed.get(seeds);
            prop_assert_eq!(findings(second(before, &frame, fixture)), findings(classify_fast(&frame, fixture)), "after {:02x?}: {:02x?}", before, frame);
            Ok(())
        })?;
    }
}

/// Verdicts with the frames as they then stand, and what was originated.
type Outcomes = (Vec<(Verdict, Vec<u8>)>, Vec<Vec<u8>>);

/// Runs a batch on the slow path only. Returns the outcome of each frame, and the frames that leave besides.
fn slow_path_outcomes(fixture: &mut Fixture, batch: &[Vec<u8>]) -> Outcomes {
    fixture.state.tick(fixture.now);
    let mut ends = Vec::new();
    for bytes in batch {
        let mut buffer = [&[0xee; HEADROOM][..], bytes].concat();
        let mut frame = Frame::new(&mut buffer, HEADROOM, bytes.len());
        frame.verdict = run_slow_path(&mut frame, &fixture.tables, &mut fixture.state, fixture.now);
        fixture.state.counters.verdict(frame.verdict);
        ends.push((frame.verdict, frame.bytes().to_vec()));
    }
    fixture.state.counters.add(PacketCounter::Received, batch.len() as u64);
    let mut outbox = Vec::new();
    fixture.state.drain_outbox(|frame, _| {
        outbox.push(frame.to_vec());
        true
    });
    (ends, outbox)
}

/// Everything that may go wrong after a backend was chosen: one is not resolved, one is gone, one is down, one has a small MTU; and requests are limited.
fn spoil(fixture: &mut Fixture) {
    let backends = &mut fixture.tables.backends;
    for (id, mtu) in [(0, Some(90)), (1, Some(120)), (2, None), (3, Some(80)), (6, Some(70))] {
        let backend = backends[id].as_mut().unwrap();
        backend.set_next_hop(mtu.map(|mtu| NextHop { mac: [2, 0, 0, 0, 3, id as u8], mtu, output: None }));
    }
    backends[4] = None;
    fixture.take_over(Some(0));
    with_request_policy(fixture, |request_policy| request_policy.admission = Some(Admission { per_vip: Some(3), ..Admission::default() }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Frames, counters, flows and originated frames are as if there were no fast path.
    #[test]
    fn both_paths_end_the_same(
        picks in prop::collection::vec((any::<Index>(), prop::collection::vec((0usize..70, any::<u8>()), 0..2), any::<bool>(), 0usize..30), 1..90),
        tables in any::<bool>(),
        site in any::<bool>(),
    ) {
        thread_local! {
            static SEEDS: Vec<Vec<u8>> = seeds();
        }
        let batch: Vec<Vec<u8>> = SEEDS.with(|seeds| {
            let spoilt = |(seed, changes, fix, padding): &(Index, Vec<(usize, u8)>, bool, usize)| {
                let mut frame = seed.get(seeds).clone();
                for (at, byte) in changes {
                    if let Some(place) = frame.get_mut(*at) {
                        *place = *byte;
                    }
                }
                if *fix {
                    fix_checksums(&mut frame);
                }
                frame.extend(std::iter::repeat_n(0, *padding));
                frame
            };
            picks.iter().map(spoilt).collect()
        });
        let (mut fast, mut slow) = (Fixture::new(), Fixture::new());
        let both = |change: fn(&mut Fixture), fast: &mut Fixture, slow: &mut Fixture| [fast, slow].map(change);
        if site {
            both(Fixture::add_remote_site, &mut fast, &mut slow);
        }
        // Some flows are known before the tables change, some are not.
        for round in 0..2 {
            if tables == (round == 0) {
                both(spoil, &mut fast, &mut slow);
            }
            if site && round == 1 {
                both(Fixture::remove_all_backends, &mut fast, &mut slow);
            }
            let outcomes = fast.batch(&batch);
            let (ends, outbox) = slow_path_outcomes(&mut slow, &batch);
            for ((outcome, end), frame) in outcomes.iter().zip(&ends).zip(&batch) {
                prop_assert_eq!((outcome.verdict, &outcome.frame), (end.0, &end.1), "{:02x?}", frame);
            }
            prop_assert_eq!(&outcomes[outcomes.len() - 1].outbox, &outbox);
            prop_assert_eq!(fast.state.counters.to_json(), slow.state.counters.to_json());
            prop_assert_eq!(fast.state.flows.statistics(), slow.state.flows.statistics());
            prop_assert_eq!(fast.state.flows.occupancy(fast.now), slow.state.flows.occupancy(slow.now));
            let (mut wanted, mut wanted_slow) = (Vec::new(), Vec::new());
            fast.state.drain_unresolved(|backend| wanted.push(backend));
            slow.state.drain_unresolved(|backend| wanted_slow.push(backend));
            prop_assert_eq!(wanted, wanted_slow);
        }
    }
}

/// Makes the checksums of what looks like IPv4 headers right, so that a change gets further than to them.
fn fix_checksums(frame: &mut [u8]) {
    for at in [14, 18, 38, 42, 58, 62] {
        if let Some(header) = frame.get_mut(at..at + 20).filter(|header| header[0] == 0x45) {
            header[10..12].fill(0);
            let check = guideway_packet::wire::checksum::checksum(header);
            header[10..12].copy_from_slice(&check.to_be_bytes());
        }
    }
}
