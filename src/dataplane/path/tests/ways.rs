//! The short way and the long way come to the same plan, for whatever frame the short way takes at all, and to the same end.

use super::world::*;
use crate::counters::Number;
use crate::path::encap::Envelope;
use crate::path::predict::Prediction;
use crate::path::quick::Quick;
use crate::path::select::Plan;
use crate::path::{Step, long_way, look, quick, select};
use crate::tables::Admission;
use crate::tables::{NextHop, Service};
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
        let hopped = packet.gre(ip(SITE[0]), ip(DIRECTOR[0]));
        for packet in wrapped.iter().chain([&keyed, &hopped, packet]) {
            frames.push(packet.frame(ROUTER_MAC, DIRECTOR_MAC));
            frames.push(packet.tagged_frame(ROUTER_MAC, DIRECTOR_MAC, 5));
        }
    }
    frames
}

/// What the short way finds out about a frame.
fn short<'w>(frame: &[u8], world: &'w World) -> Option<Quick<'w>> {
    let mut found = None;
    let done = quick::look(frame, &world.tables, &mut found);
    assert_eq!(done.is_some(), found.is_some());
    found
}

/// The same of the second of two frames in one batch.
fn predicted<'w>(first: &[u8], second: &[u8], world: &'w World) -> Option<Quick<'w>> {
    let mut prediction = Prediction::default();
    let mut found = None;
    let _ = prediction.look(first, &world.tables, &mut None);
    let _ = prediction.look(second, &world.tables, &mut found);
    found
}

/// All that was found out, to be compared.
fn findings(found: Option<Quick<'_>>) -> Option<(Plan, *const Service, Envelope)> {
    found.map(|quick| (quick.plan, std::ptr::from_ref(quick.service), quick.envelope))
}

/// Compares the two ways for one frame; says whether the short way took it.
fn compare(frame: &[u8], world: &World) -> bool {
    let Some(quick) = short(frame, world) else { return false };
    let Ok(Step::Forward(packet, flow, plan)) = look(frame, &world.tables) else {
        panic!("only the short way forwards {frame:02x?}");
    };
    assert!(packet.ip.fragment.is_none());
    let service = &world.tables.services[usize::from(flow.service)];
    assert_eq!((quick.plan, quick.envelope), (plan, Envelope::from(&packet)), "{frame:02x?}");
    assert!(std::ptr::eq(quick.service, service), "{frame:02x?}");
    let row = quick::row_hash(frame, &quick, 7, &world.tables);
    assert_eq!(row, select::row_hash(&flow, 7, &world.tables), "{frame:02x?}");
    true
}

#[test]
fn ordinary_packets_take_the_short_way_and_no_other_does() {
    let world = World::new();
    let taken = seeds().iter().filter(|frame| compare(frame, &world)).count();
    // Of each TFTP VIP 2 packets (a request goes the long way), of each DNS VIP 2; plain and in GRE over both families, with a tag and without.
    assert_eq!(taken, (6 * 2 + 2 * 2) * 3 * 2);
}

#[test]
fn what_is_predicted_is_what_would_be_found() {
    let (world, seeds) = (World::new(), seeds());
    let ordinary: Vec<_> = seeds.iter().filter(|frame| compare(frame, &world)).collect();
    for first in &ordinary {
        for second in &ordinary {
            let found = predicted(first, second, &world);
            assert!(found.is_some());
            assert_eq!(findings(found), findings(short(second, &world)), "after {first:02x?}: {second:02x?}");
        }
    }
}

#[test]
fn routers_and_services_may_change_from_packet_to_packet() {
    let world = World::new();
    let mut prediction = Prediction::default();
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
            let mut found = None;
            let _ = prediction.look(&frame, &world.tables, &mut found);
            assert_eq!(findings(found), findings(short(&frame, &world)), "{router} {server_port:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn spoilt_packets_too(seed: Index, changes in prop::collection::vec((0usize..110, any::<u8>()), 0..4), mend: bool, cut in 0usize..140) {
        thread_local! {
            static WORLD: (World, Vec<Vec<u8>>) = (World::new(), seeds());
        }
        WORLD.with(|(world, seeds)| {
            let mut frame = seed.get(seeds).clone();
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            if mend {
                mend_checksums(&mut frame);
            }
            if cut < 20 {
                frame.truncate(frame.len().saturating_sub(cut));
            }
            compare(&frame, world);
            let first = seed.get(seeds);
            prop_assert_eq!(findings(predicted(first, &frame, world)), findings(short(&frame, world)), "after {:02x?}: {:02x?}", first, frame);
            Ok(())
        })?;
    }
}

/// Verdicts with the frames as they then stand, and what was originated.
type Ends = (Vec<(Verdict, Vec<u8>)>, Vec<Vec<u8>>);

/// Runs a batch the long way only: what becomes of each frame, and what leaves besides.
fn long(world: &mut World, batch: &[Vec<u8>]) -> Ends {
    world.state.tick(world.now);
    let mut ends = Vec::new();
    for bytes in batch {
        let mut buffer = [&[0xee; HEADROOM][..], bytes].concat();
        let mut frame = Frame::new(&mut buffer, HEADROOM, bytes.len());
        frame.verdict = long_way(&mut frame, &world.tables, &mut world.state, world.now);
        world.state.counters.verdict(frame.verdict);
        ends.push((frame.verdict, frame.bytes().to_vec()));
    }
    world.state.counters.add(Number::Received, batch.len() as u64);
    let mut outbox = Vec::new();
    world.state.drain_outbox(|frame| {
        outbox.push(frame.to_vec());
        true
    });
    (ends, outbox)
}

/// Everything that may go wrong after a backend was chosen: one is not resolved, one is gone, one is down, to one nearly nothing fits; and requests are
/// limited.
fn spoil(world: &mut World) {
    let backends = &mut world.tables.backends;
    for (id, mtu) in [(0, Some(90)), (1, Some(120)), (2, None), (3, Some(80)), (6, Some(70))] {
        let backend = backends[id].as_mut().unwrap();
        backend.set_next_hop(mtu.map(|mtu| NextHop { mac: [2, 0, 0, 0, 3, id as u8], mtu }));
    }
    backends[4] = None;
    world.take_over(Some(0));
    guarded(world, |guard| guard.admission = Some(Admission { per_vip: Some(3), ..Admission::default() }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Frames, counters, flows and what leaves besides: all as if there were no short way.
    #[test]
    fn both_ways_end_the_same(
        picks in prop::collection::vec((any::<Index>(), prop::collection::vec((0usize..70, any::<u8>()), 0..2), any::<bool>(), 0usize..30), 1..90),
        tables in any::<bool>(),
        site in any::<bool>(),
    ) {
        thread_local! {
            static SEEDS: Vec<Vec<u8>> = seeds();
        }
        let batch: Vec<Vec<u8>> = SEEDS.with(|seeds| {
            let spoilt = |(seed, changes, mend, padding): &(Index, Vec<(usize, u8)>, bool, usize)| {
                let mut frame = seed.get(seeds).clone();
                for (at, byte) in changes {
                    if let Some(place) = frame.get_mut(*at) {
                        *place = *byte;
                    }
                }
                if *mend {
                    mend_checksums(&mut frame);
                }
                frame.extend(std::iter::repeat_n(0, *padding));
                frame
            };
            picks.iter().map(spoilt).collect()
        });
        let (mut short, mut slow) = (World::new(), World::new());
        let worlds = |change: fn(&mut World), short: &mut World, slow: &mut World| [short, slow].map(change);
        if site {
            worlds(World::add_site, &mut short, &mut slow);
        }
        // Some flows are known before the tables change, some are not.
        for round in 0..2 {
            if tables == (round == 0) {
                worlds(spoil, &mut short, &mut slow);
            }
            if site && round == 1 {
                worlds(World::empty, &mut short, &mut slow);
            }
            let outcomes = short.batch(&batch);
            let (ends, outbox) = long(&mut slow, &batch);
            for ((outcome, end), frame) in outcomes.iter().zip(&ends).zip(&batch) {
                prop_assert_eq!((outcome.verdict, &outcome.frame), (end.0, &end.1), "{:02x?}", frame);
            }
            prop_assert_eq!(&outcomes[outcomes.len() - 1].outbox, &outbox);
            prop_assert_eq!(short.state.counters.to_json(), slow.state.counters.to_json());
            prop_assert_eq!(short.state.flows.statistics(), slow.state.flows.statistics());
            prop_assert_eq!(short.state.flows.occupancy(short.now), slow.state.flows.occupancy(slow.now));
            let (mut wanted, mut wanted_slow) = (Vec::new(), Vec::new());
            short.state.drain_unresolved(|backend| wanted.push(backend));
            slow.state.drain_unresolved(|backend| wanted_slow.push(backend));
            prop_assert_eq!(wanted, wanted_slow);
        }
    }
}

/// Makes the checksums of what looks like IPv4 headers right, so that a change gets further than to them.
fn mend_checksums(frame: &mut [u8]) {
    for at in [14, 18, 38, 42, 58, 62] {
        if let Some(header) = frame.get_mut(at..at + 20).filter(|header| header[0] == 0x45) {
            header[10..12].fill(0);
            let check = guideway_packet::wire::checksum::checksum(header);
            header[10..12].copy_from_slice(&check.to_be_bytes());
        }
    }
}
