//! Any bytes: no panic, every packet accounted for, every transmitted frame whole.

use super::fixture::*;
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build;
use proptest::prelude::*;

/// Frames that are right before they are spoilt: one of each kind that the path knows.
fn seeds() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for family in 0..2 {
        let (client, boot) = (CLIENT[family], BOOT[family]);
        let quoted = build::udp(socket(boot, 20_500), socket(client, 2000), b"\0\x03\0\x01data");
        let data = |len| [&[0, 3, 0, 1][..], &vec![7; len]].concat();
        packets.extend([
            read_request(boot, 2000),
            acknowledgement(boot, 2000, 20_500),
            acknowledgement(STOCK[family], 2000, 40_000),
            read_request(CLIENT_KEY[family], 2000),
            query(DNS[family], 2000),
            build::tcp(socket(client, 2000), socket(DNS[family], 53), 2, b""),
            build::icmp(ip(client), ip(boot), [8, 128][family], 0, b"\0\x01\0\x01ping"),
            build::icmp(ip(client), ip(boot), [3, 2][family], 4, &[&[0; 4], quoted.bytes()].concat()),
            acknowledgement(boot, 2000, 20_500).options(&[1, 1, 1, 0]).extension(60, &[0, 1, 4, 0, 0, 0, 0]),
        ]);
        packets.extend(build::udp(socket(client, 2000), socket(boot, 20_500), &data(200)).fragments(7, 64));
        packets.push(build::udp(socket(client, 2000), socket(boot, 20_500), &data(1450)));
    }
    let plain = packets.iter().map(|p| p.frame(ROUTER_MAC, DIRECTOR_MAC));
    let wrapped = packets.iter().flat_map(|p| [in_gre(p, 0), in_gre(p, 1)]);
    let full = build::GreFields { checksum: true, key: Some(1), sequence: Some(2) };
    let fields = packets.iter().map(|p| p.gre_with(ip(ROUTER[0]), ip(DIRECTOR[0]), full).tagged_frame(ROUTER_MAC, DIRECTOR_MAC, 5));
    plain.chain(wrapped).chain(fields).collect()
}

/// The body of the fuzz test: `frames` through the path, in one batch.
fn survives(frames: &[Vec<u8>]) {
    let mut fixture = Fixture::new();
    for outcome in fixture.batch(frames) {
        if outcome.verdict == Verdict::Transmit {
            sent(&outcome.frame);
        }
    }
    fixture.state.tick(fixture.now.plus(std::time::Duration::from_secs(60)));
    assert!(fixture.counters().balanced());
}

#[test]
fn the_seeds_themselves_are_forwarded() {
    let seeds = seeds();
    let mut fixture = Fixture::new();
    let outcomes = fixture.batch(&seeds);
    let forwarded = outcomes.iter().filter(|o| o.verdict == Verdict::Transmit).count();
    for (n, o) in outcomes.iter().enumerate() {
        if o.verdict != Verdict::Transmit {
            eprintln!("{n} {:?} {:02x?}", o.verdict, &seeds[n][12..70.min(seeds[n].len())]);
        }
    }
    assert!(forwarded * 10 > seeds.len() * 9, "{forwarded} of {}", seeds.len());
}

proptest! {
    #[test]
    fn mutated_frames_do_not_break_the_path(
        picks in proptest::collection::vec((any::<prop::sample::Index>(), proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), any::<Option<prop::sample::Index>>()), 1..40)
    ) {
        let seeds = seeds();
        let frames: Vec<Vec<u8>> = picks.into_iter().map(|(seed, changes, cut)| {
            let mut frame = seed.get(&seeds).clone();
            for (at, value) in changes {
                // Most changes hit headers.
                let at = at.index(frame.len().min(110));
                frame[at] = value;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len() + 1));
            }
            frame
        }).collect();
        survives(&frames);
    }

    #[test]
    fn random_bytes_do_not_break_the_path(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20)) {
        survives(&frames);
    }
}
