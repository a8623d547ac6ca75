//! The packet path allocates nothing: the whole poll of a worker, over every kind of packet, under an allocator that counts.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used)]

use guideway_config as config;
use guideway_control::{NextHops, Writer};
use guideway_dataplane::path::State;
use guideway_dataplane::poll::poll;
use guideway_io::memory::Memory;
use guideway_packet::time::Time;
use guideway_packet::wire::build::{self, Packet};
use guideway_store::{Health, Observation, Observed, PoolHealth};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

/// The system's allocator, counting what one thread asks of it.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONFIG: &str = r#"
[director]
name = "d1"
address = ["10.0.1.11", "2001:db8:1::11"]
source_prefix = "10.0.3.16/28"
key = "000102030405060708090a0b0c0d0e0f"
io = { kind = "pcap", mac = "02:00:00:00:01:11" }
routers = ["10.0.0.0/24"]
remote_site = ["10.9.1.11"]
icmp_echo = "answer"
flows = 1024

[[vip]]
address = "192.0.2.69"
service = "tftp"
pool = "boot"
clients = ["198.51.100.0/24"]
admission = { per_vip = 7, per_backend = 5, per_prefix = 9 }

[[vip]]
address = "192.0.2.70"
service = { protocol = "tftp", key = "client" }
pool = "stock"

[[vip]]
address = "192.0.2.71"
service = "tftp"
pool = "boot"

[[vip]]
address = "192.0.2.53"
service = { protocol = "udp", ports = [53] }
pool = "stock"

[[pool]]
name = "boot"
takeover = true
backends = [
  { name = "t1", address = "10.0.2.21", tid_range = "20000-20999" },
  { name = "t2", address = "2001:db8:2::22", tid_range = "21000-21999" },
  { name = "t3", address = "10.0.2.23", tid_range = "22000-22999" },
  { name = "t4", address = "10.0.2.31", tid_range = "23000-23999", drain = true },
]

[[pool]]
name = "stock"
backends = [{ name = "s1", address = "10.0.2.31" }, { name = "s2", address = "10.0.2.32" }]

[[neighbour]]
address = "10.9.1.11"
mac = "02:00:00:00:09:11"

[[neighbour]]
address = "10.0.2.21"
mac = "02:00:00:00:02:21"

[[neighbour]]
address = "2001:db8:2::22"
mac = "02:00:00:00:02:22"

[[neighbour]]
address = "10.0.2.31"
mac = "02:00:00:00:02:31"

[[neighbour]]
address = "10.0.2.32"
mac = "02:00:00:00:02:32"
"#;

const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 1, 0x11];

/// One of everything: requests, acknowledgements, fragments in both orders, ICMP, too big, not ours, broken.
fn frames(round: u16) -> Vec<Vec<u8>> {
    let udp = |port: u16, to: &str, payload: &[u8]| build::udp(([198, 51, 100, 7], port).into(), to.parse().unwrap(), payload);
    let port = 2000 + round;
    let large = udp(port, "192.0.2.70:40000", &[&[0, 3, 0, 1][..], &[7; 300]].concat());
    let mut pieces = large.fragments(round.into(), 104);
    pieces.rotate_left(usize::from(round) % 3);
    let mut packets: Vec<Packet> = vec![
        udp(port, "192.0.2.69:69", b"\0\x01f\0octet\0"),
        udp(port, "192.0.2.69:69", b"\0\x02f\0octet\0"),
        udp(1999, "192.0.2.71:69", b"\0\x01again\0octet\0"),
        udp(1998, "192.0.2.70:33333", &[0, 4, 0, 1]),
        build::udp(([203, 0, 113, 7], port).into(), "192.0.2.69:69".parse().unwrap(), b"\0\x01f\0octet\0"),
        build::udp(([10, 0, 2, 21], port).into(), "192.0.2.69:69".parse().unwrap(), b"\0\x01f\0octet\0"),
        udp(port, "192.0.2.69:20001", &[0, 4, 0, 1]),
        udp(port, "192.0.2.69:21001", &[0, 4, 0, 1]),
        udp(port, "192.0.2.69:22001", &[0, 4, 0, 1]),
        udp(port, "192.0.2.69:23001", &[0, 4, 0, 1]),
        udp(port, "192.0.2.69:50001", &[0, 4, 0, 1]),
        udp(port, "192.0.2.69:20001", &[0, 9, 0, 1]),
        udp(port, "192.0.2.70:69", b"\0\x01f\0octet\0"),
        udp(port, "192.0.2.70:33333", &[0, 4, 0, 1]),
        udp(port, "192.0.2.53:53", b"query"),
        build::icmp([198, 51, 100, 7].into(), [192, 0, 2, 69].into(), 8, 0, b"\0\x01\0\x01ping"),
        build::ip([10, 0, 1, 11].into(), [10, 0, 0, 1].into(), 47, &[0; 4]),
    ];
    packets.extend(pieces);
    let mut frames: Vec<Vec<u8>> =
        packets.iter().map(|packet| packet.gre([10, 0, 0, 1].into(), [10, 0, 1, 11].into()).frame(ROUTER, DIRECTOR)).collect();
    let too_big = udp(port, "192.0.2.69:21001", &[&[0, 3, 0, 1][..], &[7; 1460]].concat());
    frames.push(too_big.frame(ROUTER, DIRECTOR));
    frames.push(too_big.df().frame(ROUTER, DIRECTOR));
    frames.push(udp(port, "203.0.113.1:9", b"x").frame(ROUTER, DIRECTOR));
    frames.push(udp(port, "192.0.2.69:21001", &[0, 4, 0, 1]).ttl(1).frame(ROUTER, DIRECTOR));
    frames.push(frames[0][..40].to_vec());
    frames
}

#[test]
fn a_poll_allocates_nothing() {
    let config = config::read(CONFIG).config.unwrap();
    let down = Observed { state: Observation::Down, since: 0, why: "test".into(), unknown: false };
    let health = Health::from([("boot".into(), Arc::new(PoolHealth { backends: [("t1".into(), down)].into() }))]);
    let tables = Writer::new().apply_state(&config, 1, &health, &NextHops::from_config(&config), Time(0)).unwrap();
    let mut state = State::new(config.director.flows, tables.mtu);
    let mut io = Memory::new(2048);
    io.reserve(4096);
    let mut allocated = 0;
    for round in 0..200 {
        io.set_now(Time(u64::from(round) * 100_000_000));
        frames(round).iter().for_each(|frame| io.push(frame));
        let before = COUNT.with(Cell::get);
        while poll(&mut io, &mut state, Duration::ZERO, &mut &tables).unwrap().0.received > 0 {}
        state.drain_unresolved(|_| {});
        state.drain_suspicions(|_| {});
        allocated += COUNT.with(Cell::get) - before;
        io.clear();
    }
    assert_eq!(allocated, 0, "calls of the allocator");
    // The test means something only if every stage was passed.
    let counters = state.counters.to_json();
    for name in ["transmitted", "to_host", "originated", "by_tid_range", "by_flow", "by_maglev", "by_successor", "by_remote_site"] {
        assert!(counters[name].as_u64() > Some(100), "{name}: {counters}");
    }
    for name in ["redispatched", "shed_by_vip"] {
        assert!(counters[name].as_u64() > Some(0), "{name}: {counters}");
    }
    let guards = ["write_refused", "client_not_allowed", "bogus_source"];
    for name in ["not_tftp", "icmp_answered", "keepalive_answered", "ttl_expired", "truncated", "too_big", "neighbour_unresolved"]
        .into_iter()
        .chain(guards)
    {
        assert!(counters["dropped"][name].as_u64() > Some(100), "{name}: {counters}");
    }
    assert!(state.draining_flows.active_within(Duration::MAX).len() > 100, "what goes to a drained backend is looked at");
    assert!(state.counters.balanced(), "{counters}");
}
