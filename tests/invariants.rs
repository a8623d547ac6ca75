//! Payload holds for any capture at all: random and mutated frames through `guideway replay`, every frame that comes out examined.
//!
//! `GUIDEWAY_FRAMES=10000000 cargo test --release --test invariants` runs ten million frames; `GUIDEWAY_SEED` chooses others.
//! [`minutes`] runs the path over simulated time.
// A test says what is wrong by panicking; clippy knows that only of the test functions themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "replay/decode.rs"]
mod decode;
#[path = "replay/language.rs"]
mod language;
#[path = "invariants/minutes.rs"]
mod minutes;
#[path = "replay/run.rs"]
mod run;

use decode::{Ip, Payload, ip, output};
use language::{Input, inputs, scenarios};
use pcap_file::DataLink;
use run::{BOOT, pcap, replay};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

/// Frames of one capture.
const CAPTURE: u64 = 200_000;
/// Between two frames.
const STEP: Duration = Duration::from_micros(3);

/// Marsaglia's xorshift: the same frames on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// The frames of all scenarios: one of each kind that the path knows, before they are spoilt.
fn seeds() -> Vec<Input> {
    scenarios().iter().flat_map(|(_, text)| inputs(text)).collect()
}

fn random_frame(random: &mut Random, seeds: &[Input]) -> Vec<u8> {
    if random.one_in(20) {
        return (0..random.below(200)).map(|_| random.next() as u8).collect();
    }
    let Input { mut frame, inner, .. } = seeds[random.below(seeds.len())].clone();
    // Most changes hit headers; a third of the frames stays right.
    for _ in 0..random.below(5).saturating_sub(1) {
        let at = random.below(70) + if random.one_in(2) { inner.start } else { 0 };
        if let Some(byte) = frame.get_mut(at) {
            *byte = if random.one_in(2) { random.next() as u8 } else { *byte ^ 1 << random.below(8) };
        }
    }
    randomize_ports(&mut frame, random);
    if random.one_in(3) {
        fix_checksums(&mut frame);
    }
    match random.below(40) {
        0 => frame.truncate(random.below(frame.len() + 1)),
        1 => frame.resize(frame.len() + random.below(64), 0xee),
        _ => {}
    }
    frame
}

/// Gives a UDP packet other ports, so that many clients are seen.
fn randomize_ports(frame: &mut [u8], random: &mut Random) {
    // In GRE over IPv4 without options, and plain: where the ports of an IPv4 packet are.
    for at in [58, 34] {
        if frame.len() > at + 8 && frame[at - 20] == 0x45 && frame[at - 11] == 17 && random.one_in(2) {
            frame[at + 1] = random.next() as u8;
            if frame[at + 2] >= 4 {
                frame[at + 3] = random.next() as u8;
            }
            return;
        }
    }
}

/// Makes the IPv4 header checksums right again that a change has made wrong, so that it gets further.
fn fix_checksums(frame: &mut [u8]) {
    for at in [14, 18, 38, 42, 58] {
        if frame.len() < at + 20 || frame[at] != 0x45 {
            continue;
        }
        frame[at + 10..at + 12].fill(0);
        let mut sum: u32 = frame[at..at + 20].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        frame[at + 10..at + 12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
}

/// Payload is known over all captures.
#[derive(Default)]
struct Seen {
    /// Backend of (VIP, client, client's port) of a `tftp` service.
    transfers: HashMap<(IpAddr, IpAddr, u16), IpAddr>,
    /// Read requests that went to another backend than the one before them.
    moved: u64,
    pieces: u64,
    icmp: u64,
    out: u64,
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The configured backends and their link-layer addresses.
fn backends() -> HashMap<IpAddr, [u8; 6]> {
    let value = |line: &str| line.split('"').nth(1).unwrap().to_owned();
    let entries =
        BOOT.split("[[neighbour]]").skip(1).map(|entry| entry.lines().filter(|l| l.contains(" = ")).map(value).collect::<Vec<_>>());
    entries.map(|entry| (address(&entry[0]), language::mac(&entry[1]))).collect()
}

/// The backend that the TID range of `port` names.
fn owner(port: u16) -> Option<IpAddr> {
    match port {
        20_000..=20_999 => Some(address("10.0.2.21")),
        21_000..=21_999 => Some(address("2001:db8:2::22")),
        22_000..=22_999 => Some(address("10.0.2.23")),
        _ => None,
    }
}

/// Whether `part` is what some frame of `inputs` has within it.
fn in_any_input(part: &[u8], inputs: &[Input]) -> bool {
    inputs.iter().any(|input| contained_in(part, &input.frame))
}

fn contained_in(part: &[u8], frame: &[u8]) -> bool {
    // A memchr for the poor: most places differ in their first bytes.
    frame.len() >= part.len() && (0..=frame.len() - part.len()).any(|at| frame[at] == part[0] && frame[at..].starts_with(part))
}

impl Seen {
    /// Examines one frame that came out at `time`.
    fn examine(&mut self, time: Duration, frame: &[u8], inputs: &[Input], early: &HashSet<Vec<u8>>, backends: &HashMap<IpAddr, [u8; 6]>) {
        let out = output(frame).unwrap_or_else(|wrong| panic!("{wrong} is wrong: {frame:02x?}"));
        self.out += 1;
        let n = (time.as_nanos() / STEP.as_nanos()) as usize;
        // Payload is sent after a batch is no further from its frame than a batch is long.
        let near = &inputs[n.saturating_sub(64)..=n];
        if let Some(vlan) = out.vlan {
            let mut tags = inputs[..=n].iter().rev().filter_map(|input| input.frame.get(14..16));
            assert!(tags.any(|tag| u16::from_be_bytes([tag[0], tag[1]]) & 0xfff == vlan), "nothing came with tag {vlan}");
        }
        match &out.what {
            Payload::Gre(inner) => {
                assert_eq!(backends.get(&out.outer.destination), Some(&out.to), "{} is no backend, or not there", out.outer.destination);
                assert!(out.outer.ttl > 0);
                let header = ip(inner).unwrap();
                if !(contained_in(inner, &inputs[n].frame) || in_any_input(inner, near) || early.contains(inner)) {
                    self.pieces += 1;
                    piece(inner, &header, near, early);
                }
                self.transfer(inner, &header, out.outer.destination);
            }
            Payload::Icmp(kind, code, rest) => {
                self.icmp += 1;
                assert!(near.iter().any(|input| input.frame.get(6..12) == Some(&out.to[..])), "no router is at {:02x?}", out.to);
                match (kind, code) {
                    (3, 4) | (2, 0) => assert!(in_any_input(&rest[4..], near) && u16::from_be_bytes([rest[2], rest[3]]) >= 1456),
                    // A plain packet whose TTL ends.
                    (11 | 3, 0) => assert!(in_any_input(&rest[4..], near) && rest[..4] == [0; 4]),
                    (0 | 129, _) => assert!(rest.len() >= 4 && in_any_input(rest, near)),
                    other => panic!("the director says {other:?} to a client"),
                }
            }
        }
    }

    /// All packets of one client port of a `tftp` VIP go to one backend whatever the server's port, unless a TID range says otherwise. Read requests that
    /// come again and again may go to another, in a pool with ranges.
    fn transfer(&mut self, inner: &[u8], header: &Ip, backend: IpAddr) {
        let tftp = ["192.0.2.69", "2001:db8:f::69", "192.0.2.70", "2001:db8:f::70", "192.0.2.71"].map(address);
        if header.protocol != 17 || header.piece.1 != 0 || !tftp.contains(&header.destination) {
            return;
        }
        let port = |at: usize| u16::from_be_bytes([inner[header.header + at], inner[header.header + at + 1]]);
        let (client, server) = (port(0), port(2));
        let ranges = tftp[..2].contains(&header.destination);
        if header.destination == tftp[0] && [514, 30_514].contains(&server) {
            return;
        }
        match owner(server).filter(|_| ranges) {
            Some(owner) => assert_eq!(backend, owner, "port {server} of {}", header.destination),
            None => {
                let first = self.transfers.entry((header.destination, header.source, client)).or_insert(backend);
                if ranges && backend != *first && server == 69 && inner.get(header.header + 8..header.header + 10) == Some(&[0, 1]) {
                    self.moved += 1;
                    return;
                }
                assert_eq!(backend, *first, "{}:{client} to {}:{server}", header.source, header.destination);
            }
        }
    }
}

/// A fragment that the director cut: its payload is that of a packet without DF, its header differs only in what a fragment's does.
fn piece(inner: &[u8], header: &Ip, near: &[Input], early: &HashSet<Vec<u8>>) {
    assert!(header.source.is_ipv4() && !header.df && (header.piece.1 > 0 || header.piece.2), "not as it came: {inner:02x?}");
    let payload = &inner[header.header..];
    assert!(in_any_input(payload, near) || early.iter().any(|frame| contained_in(payload, frame)), "not what came: {inner:02x?}");
    // Type of service and identification, TTL and protocol, addresses.
    for part in [&inner[8..10], &inner[12..20]] {
        assert!(in_any_input(part, near) || early.iter().any(|frame| contained_in(part, frame)));
    }
}

/// Packets that may be held and leave much later: whatever may be a fragment.
fn early(inputs: &[Input]) -> HashSet<Vec<u8>> {
    let mut early = HashSet::new();
    for frame in inputs.iter().map(|input| &input.frame) {
        // Every place at which a packet that is a later fragment may start, by each family's marks.
        for at in 14..frame.len().saturating_sub(20).min(110) {
            let rest = &frame[at..];
            let len = match rest[0] >> 4 {
                4 if rest[6] & 0x1f != 0 || rest[7] != 0 => usize::from(u16::from_be_bytes([rest[2], rest[3]])),
                6 if rest.len() > 48 && rest[6..].first().is_some_and(|next| [0, 43, 44, 51, 60].contains(next)) => {
                    usize::from(u16::from_be_bytes([rest[4], rest[5]])) + 40
                }
                _ => continue,
            };
            if len >= 20 && len <= rest.len() {
                early.insert(rest[..len].to_vec());
            }
        }
    }
    early
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.replace('_', "").parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn whatever_comes_what_leaves_is_right_and_everything_is_counted() {
    let frames = number("GUIDEWAY_FRAMES", CAPTURE);
    let mut random = Random(number("GUIDEWAY_SEED", 0x9e37_79b9_7f4a_7c15));
    let (seeds, backends) = (seeds(), backends());
    let dir = tempfile::tempdir().unwrap();
    let (mut seen, mut done, mut originated, mut transmitted, mut redispatched) = (Seen::default(), 0, 0, 0, 0);
    while done < frames {
        let count = CAPTURE.min(frames - done) as u32;
        let inputs: Vec<Input> =
            (0..count).map(|n| Input { time: STEP * n, frame: random_frame(&mut random, &seeds), inner: 0..0 }).collect();
        // In turn the director answers echo requests and lets servers do it.
        let echo = ["answer", "forward"][done as usize / CAPTURE as usize % 2];
        let config = BOOT.replace("[director]\n", &format!("[director]\nicmp_echo = \"{echo}\"\n"));
        let run = replay(dir.path(), &config, &pcap(&inputs, DataLink::ETHERNET));
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "after {done} frames");
        let ends = ["transmitted", "to_host", "held"].map(|name| run.counter(name)).iter().sum::<u64>() + run.dropped();
        assert_eq!((run.counter("received"), ends), (u64::from(count), u64::from(count)), "{:?}", run.counters);
        assert_eq!(run.frames.len() as u64, run.counter("transmitted") + run.counter("originated"), "{:?}", run.counters);
        let early = early(&inputs);
        for (time, frame) in &run.frames {
            seen.examine(*time, frame, &inputs, &early, &backends);
        }
        done += u64::from(count);
        originated += run.counter("originated");
        transmitted += run.counter("transmitted");
        redispatched += run.counter("redispatched");
    }
    println!(
        "{done} frames: {transmitted} transmitted, {originated} originated; {} ICMP, {} pieces, {} transfers",
        seen.icmp,
        seen.pieces,
        seen.transfers.len()
    );
    // The test would show nothing if nearly all were dropped.
    assert!(transmitted * 5 > done && originated > done / 10_000 && seen.transfers.len() > 100);
    assert!(seen.icmp > 0 && seen.pieces > 0);
    // There, and perhaps back.
    assert!(seen.moved <= 2 * redispatched, "{} moved, {redispatched} second chances", seen.moved);
}
