//! The XDP filter takes exactly what the packet path accepts, over generated and mutated frames: each goes through both, the filter in the kernel's own test run.
//!
//! `GUIDEWAY_FRAMES=1000000 cargo test --release --test xdp_filter` runs a million frames; `GUIDEWAY_SEED` chooses others.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "netns_fixture/mod.rs"]
mod netns_fixture;

use fastrand::Rng;
use guideway_control::{NextHops, Writer};
use guideway_dataplane::path::{self, State};
use guideway_dataplane::tables::Snapshot;
use guideway_io::af_xdp::{AfXdp, FilterHandle, Options};
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::time::Time;
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build::{self, GreFields, Packet};
use guideway_packet::wire::layout::{ethernet, ipv4, ipv6, protocol};
use std::net::{IpAddr, SocketAddr};

const FILE: &str = r#"
    [director]
    name = "d1"
    address = ["10.0.1.11", "fd00:1::11"]
    key = "000102030405060708090a0b0c0d0e0f"
    io = { kind = "pcap", mac = "02:00:00:00:00:0a" }
    routers = ["10.0.0.0/24", "fd00::/64"]
    unmatched = "host"
    [[vip]]
    address = "192.0.2.69"
    service = { protocol = "tftp" }
    pool = "boot"
    [[vip]]
    address = "2001:db8::69"
    service = { protocol = "tftp" }
    pool = "boot"
    [[pool]]
    name = "boot"
    backends = [{ name = "t1", address = "10.0.2.31" }, { name = "t2", address = "fd00:2::32" }]
"#;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const OURS: [&str; 2] = ["10.0.1.11", "fd00:1::11"];
const VIPS: [&str; 2] = ["192.0.2.69", "2001:db8::69"];
const OTHERS: [&str; 2] = ["192.0.2.70", "2001:db8::68"];
const ROUTERS: [&str; 2] = ["10.0.0.1", "fd00::1"];
const CLIENTS: [&str; 2] = ["198.51.100.7", "2001:db8:c::7"];

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} = {value} is no number")))
}

/// One in `n`.
fn one_in(random: &mut Rng, n: u32) -> bool {
    random.u32(..n) == 0
}

fn address(of: [&str; 2], v6: bool) -> IpAddr {
    of[usize::from(v6)].parse().unwrap()
}

/// IPv4 options, or a chain of IPv6 extension headers, in every kind and length, at times more than are walked.
fn extend(mut packet: Packet, v6: bool, random: &mut Rng) -> Packet {
    if one_in(random, 2) {
        return packet;
    }
    if !v6 {
        return packet.options(&vec![1; 4 * random.usize(..=10)]);
    }
    for _ in 0..if one_in(random, 8) { random.usize(7..=10) } else { random.usize(1..=3) } {
        let kind = *random.choice(&ipv6::extension::KINDS).unwrap();
        let units = if one_in(random, 20) { random.usize(..=40) } else { random.usize(..=2) };
        let body = match kind {
            // Offset and flags: mostly the whole packet, then a first and a later fragment.
            protocol::FRAGMENT => vec![0, 0, if one_in(random, 3) { random.u8(..) } else { random.u8(..2) }, 0, 0, 0, 7],
            protocol::AUTHENTICATION => [vec![2 * units as u8], vec![0; 6 + 8 * units]].concat(),
            _ => [vec![units as u8], vec![0; 6 + 8 * units]].concat(),
        };
        packet = packet.extension(kind, &body);
    }
    packet
}

/// One of its fragments; a packet without payload has none.
fn piece(packet: Packet, random: &mut Rng) -> Packet {
    random.choice(packet.fragments(7, 24)).unwrap_or(packet)
}

/// A client's packet of one of the kinds that the path tells apart.
fn client_packet(random: &mut Rng) -> Packet {
    let v6 = random.bool();
    let to = address(*random.choice(&[VIPS, VIPS, VIPS, OTHERS, OURS]).unwrap(), v6);
    let from = address(CLIENTS, v6);
    let (source, destination) = (SocketAddr::new(from, random.u16(1024..)), SocketAddr::new(to, *random.choice(&[69, 1024, 53]).unwrap()));
    let payload = vec![random.u8(..8); random.usize(..40)];
    let packet = match random.u32(..8) {
        0 => build::tcp(source, destination, 2, &payload),
        1 => build::icmp(from, to, random.u8(..), 0, &payload),
        2 => build::icmp(from, to, random.u8(130..140), 0, &payload),
        3 => build::ip(from, to, random.u8(..), &payload),
        _ => build::udp(source, destination, &[&[0, random.u8(..8)], &payload[..]].concat()),
    };
    let packet = extend(packet, v6, random);
    if one_in(random, 8) { piece(packet, random) } else { packet }
}

/// What a router puts into its keepalive, or something near to it.
fn keepalive(random: &mut Rng) -> Packet {
    let (from, to) = (if one_in(random, 8) { CLIENTS } else { OURS }, if one_in(random, 8) { CLIENTS } else { ROUTERS });
    let gre = [random.u8(..2) << 5, 0, if one_in(random, 8) { 8 } else { 0 }, 0, 0, 0, 0, 9];
    let len = *random.choice(&[8, 8, 8, 4, 3, 0]).unwrap();
    let packet = build::ip(address(from, false), address(to, false), if one_in(random, 8) { 50 } else { protocol::GRE }, &gre[..len]);
    let packet = if one_in(random, 8) { packet.options(&[1; 4]) } else { packet };
    if one_in(random, 16) { piece(packet, random) } else { packet }
}

fn frame(random: &mut Rng) -> Vec<u8> {
    let mut packet = if one_in(random, 8) { keepalive(random) } else { client_packet(random) };
    if !one_in(random, 4) {
        let v6 = random.bool();
        let fields = GreFields {
            checksum: one_in(random, 4),
            key: one_in(random, 4).then_some(random.u32(..)),
            sequence: one_in(random, 4).then_some(random.u32(..)),
        };
        let from = address(if one_in(random, 10) { CLIENTS } else { ROUTERS }, v6);
        packet = packet.gre_with(from, address(if one_in(random, 10) { OTHERS } else { OURS }, v6), fields);
        packet = extend(packet, v6, random);
        if one_in(random, 20) {
            packet = piece(packet, random);
        }
    }
    let mut frame = packet.frame([2, 0, 0, 0, 0, 1], MAC);
    for _ in 0..[0, 0, 0, 1, 1, 2][random.usize(..6)] {
        let tag = *random.choice(&[ethernet::VLAN, ethernet::VLAN_SERVICE]).unwrap();
        frame.splice(12..12, tag.to_be_bytes().into_iter().chain([0, 42]));
    }
    mutate(&mut frame, random);
    frame
}

/// Half of the frames stay right.
fn mutate(frame: &mut Vec<u8>, random: &mut Rng) {
    for _ in 0..random.usize(..6).saturating_sub(3) {
        let at = 6 + random.usize(..frame.len() - 6);
        frame[at] = if random.bool() { random.u8(..) } else { frame[at] ^ 1 << random.u32(..8) };
    }
    if random.bool() {
        fix_checksums(frame);
    }
    match random.u32(..12) {
        0 => frame.truncate(random.usize(ethernet::LEN..=frame.len())),
        1 => frame.resize(frame.len() + random.usize(..64), 0xee),
        _ => (),
    }
}

/// Makes what looks like an IPv4 header right again, so that more changes get past the check of the sum.
fn fix_checksums(frame: &mut [u8]) {
    for at in ethernet::LEN..frame.len().saturating_sub(ipv4::LEN) {
        let len = usize::from(frame[at] & ipv4::IHL_MASK) * 4;
        let addresses = &frame[at + ipv4::SOURCE..at + ipv4::LEN];
        let known = [CLIENTS, ROUTERS, OURS].iter().any(|of| of[0].parse::<std::net::Ipv4Addr>().unwrap().octets() == addresses[..4]);
        if known && frame[at] >> 4 == ipv4::VERSION && len >= ipv4::LEN && at + len <= frame.len() {
            guideway_packet::wire::write::ipv4_checksum(&mut frame[at..at + len]);
        }
    }
}

/// What the path does with a frame.
fn verdict(frame: &[u8], tables: &Snapshot, state: &mut State, now: Time) -> Verdict {
    let mut buffer = [0u8; 4096];
    buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    let mut frames = [Frame::new(&mut buffer, HEADROOM, frame.len())];
    path::run(&mut frames, tables, state, now);
    frames[0].verdict
}

/// How many frames there were of each class.
#[derive(Debug, Default)]
struct Seen {
    accepted: u64,
    to_host: u64,
    damaged: u64,
}

/// What is damaged in its outer parts may go either way: the filter checks no sums and no lengths.
fn compare(filter: &FilterHandle, tables: &Snapshot, random: &mut Rng, frames: u64) -> Seen {
    let mut state = State::new(1 << 10, 1500);
    let mut seen = Seen::default();
    for n in 0..frames {
        let frame = frame(random);
        let verdict = verdict(&frame, tables, &mut state, Time(n * 1_000_000));
        let expected = match verdict {
            Verdict::ToHost => false,
            Verdict::Drop(reason) if reason.stage() == "parse" => {
                seen.damaged += 1;
                continue;
            }
            _ => true,
        };
        *(if expected { &mut seen.accepted } else { &mut seen.to_host }) += 1;
        let taken = filter.takes(&frame).unwrap();
        assert_eq!(taken, expected, "frame {n}: the path says {verdict:?}, taken by the filter: {taken}\n{frame:02x?}");
    }
    seen
}

#[test]
fn the_filter_takes_exactly_what_the_path_accepts() {
    netns_fixture::in_namespace(&[], || {
        netns_fixture::ip("link add guide0 address 02:00:00:00:00:0a type veth peer name guide1");
        netns_fixture::ip("link set guide0 up");
        let (frames, seed) = (setting("GUIDEWAY_FRAMES", 60_000), setting("GUIDEWAY_SEED", 14));
        for unmatched in ["host", "drop"] {
            let config =
                guideway_config::read(&FILE.replace("unmatched = \"host\"", &format!("unmatched = \"{unmatched}\""))).config.unwrap();
            let tables = Writer::new().apply(&config, &NextHops::from_config(&config), Time(0)).unwrap();
            let address = config.director.address;
            let options = Options { v4: address.v4, v6: address.v6, take_all_gre: unmatched == "drop", ..Options::default() };
            let (filter, _sockets) = AfXdp::open("guide0", options).unwrap();
            filter.set_vips(&VIPS.map(|vip| vip.parse().unwrap())).unwrap();
            let seen = compare(&filter, &tables, &mut Rng::with_seed(seed), frames / 2);
            println!("unmatched = {unmatched}: {seen:?}");
            assert!(seen.accepted > frames / 8 && seen.to_host > frames / 32, "{seen:?}");
        }
    });
}
