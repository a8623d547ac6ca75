//! What the benchmarks of the path have in common: tables of a hundred backends, and a batch of packets that is made anew, untimed, before every run.

use guideway_config as config;
use guideway_control::{NextHops, Writer};
use guideway_dataplane::path::{self, State};
use guideway_dataplane::tables::Snapshot;
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::io::BATCH;
use guideway_packet::time::Time;
use guideway_packet::wire::build::{self, Packet};
use guideway_packet::wire::checksum;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// As many flows as "a million" means here: a power of two, so that they can be visited in a random order without a list of it.
#[allow(dead_code)] // Each benchmark is a crate of its own, and not every one has so many.
pub const MILLION: u64 = 1 << 20;
/// Bytes from one packet buffer to the next, as in a ring.
const STRIDE: usize = 2048 + 192;
/// Of the interface, in bytes: room for a frame of 1500 bytes once it is wrapped.
pub const MTU: u16 = 1600;
/// The director's MAC address.
pub const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 1, 0x11];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BACKENDS: usize = 100;

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP over IPv4 to a service on port 53.
    V4,
    /// The same over IPv6, in GRE over IPv6.
    V6,
    /// A TFTP acknowledgement to a TID within a range.
    Tid,
}

/// A director with three services, each with a hundred backends.
pub fn tables() -> Snapshot {
    let mut text = String::from(
        "[director]\nname = \"d1\"\naddress = [\"10.0.1.11\", \"2001:db8:1::11\"]\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
         io = { kind = \"pcap\", mac = \"02:00:00:00:01:11\", mtu = 1600 }\nrouters = [\"10.0.0.0/24\", \"2001:db8::/64\"]\n",
    );
    for (address, service, pool) in [
        ("192.0.2.53", "{ protocol = \"udp\", ports = [53] }", "v4"),
        ("2001:db8:53::1", "{ protocol = \"udp\", ports = [53] }", "v6"),
        ("192.0.2.69", "\"tftp\"", "boot"),
    ] {
        let _ = write!(text, "\n[[vip]]\naddress = \"{address}\"\nservice = {service}\npool = \"{pool}\"\n");
    }
    let mut neighbours = String::new();
    for (pool, prefix, ranges) in [("v4", "10.0.2.", false), ("v6", "2001:db8:2::", false), ("boot", "10.0.3.", true)] {
        let _ = write!(text, "\n[[pool]]\nname = \"{pool}\"\nbackends = [\n");
        for n in 1..=BACKENDS {
            let range = if ranges { format!(", tid_range = \"{}-{}\"", 20_000 + 100 * n, 20_099 + 100 * n) } else { String::new() };
            let _ = writeln!(text, "  {{ name = \"{pool}-{n}\", address = \"{prefix}{n}\"{range} }},");
            let _ = write!(neighbours, "\n[[neighbour]]\naddress = \"{prefix}{n}\"\nmac = \"02:00:00:00:02:{n:02x}\"\n");
        }
        text.push_str("]\n");
    }
    let config = config::read(&(text + &neighbours)).config.expect("the configuration of the benchmark is valid");
    Writer::new().apply(&config, &NextHops::fixed(&config), Time(0)).expect("and so are its tables")
}

/// Bytes before the client's packet and where its source address, port and checksum are.
#[derive(Clone, Copy, Debug)]
struct Places {
    /// The last 4 bytes of the client's address.
    client: usize,
    /// The client's port.
    port: usize,
    /// The server's port.
    server_port: usize,
    /// The IPv4 header checksum of the client's packet, and where that header starts.
    checksum: Option<(usize, usize)>,
}

/// A batch of packet buffers, and which flows its packets are of.
pub struct Batch {
    memory: Vec<u8>,
    template: Vec<u8>,
    /// The sum of the client's IPv4 header without address and checksum.
    base: u32,
    places: Places,
    flows: u64,
    next: u64,
    kind: Kind,
    /// Bytes of a frame.
    len: usize,
}

impl Batch {
    /// Packets of `kind` with `payload` bytes of UDP payload, of `flows` flows (a power of two) in an order without a pattern.
    pub fn new(kind: Kind, flows: u64, payload: usize) -> Batch {
        assert!(flows.is_power_of_two());
        let payload = vec![0u8; payload.max(4)];
        let (packet, outer): (Packet, [IpAddr; 2]) = match kind {
            Kind::V4 => {
                let packet = build::udp("100.64.0.0:1024".parse().unwrap(), "192.0.2.53:53".parse().unwrap(), &payload);
                (packet, [[10, 0, 0, 1].into(), [10, 0, 1, 11].into()])
            }
            Kind::Tid => {
                let acknowledgement = [&[0, 4, 0, 1][..], &payload[4..]].concat();
                let packet = build::udp("100.64.0.0:1024".parse().unwrap(), "192.0.2.69:20100".parse().unwrap(), &acknowledgement);
                (packet, [[10, 0, 0, 1].into(), [10, 0, 1, 11].into()])
            }
            Kind::V6 => {
                let packet = build::udp("[2001:db8:c::]:1024".parse().unwrap(), "[2001:db8:53::1]:53".parse().unwrap(), &payload);
                (packet, ["2001:db8::1".parse().unwrap(), "2001:db8:1::11".parse().unwrap()])
            }
        };
        let template = packet.gre(outer[0], outer[1]).frame(ROUTER, DIRECTOR);
        let inner = template.len() - packet.bytes().len();
        let places = match kind {
            Kind::V6 => Places { client: inner + 8 + 12, port: inner + 40, server_port: inner + 42, checksum: None },
            _ => Places { client: inner + 12, port: inner + 20, server_port: inner + 22, checksum: Some((inner + 10, inner)) },
        };
        let mut header = template[inner..inner + 20].to_vec();
        header[10..16].fill(0);
        let base = u32::from(!checksum::checksum(&header));
        let len = template.len();
        Batch { memory: vec![0; STRIDE * BATCH], template, base, places, flows, next: 0, kind, len }
    }

    /// Writes the next packets into the buffers.
    pub fn fill(&mut self) {
        let Batch { memory, template, places, .. } = self;
        for buffer in memory.chunks_exact_mut(STRIDE) {
            let frame = &mut buffer[HEADROOM..][..template.len()];
            frame.copy_from_slice(template);
            // An odd multiplier permutes the numbers of flows; this one leaves no two neighbours near each other.
            let flow = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15) & (self.flows - 1);
            self.next += 1;
            let client = [100, 64 | (flow >> 16 & 63) as u8, (flow >> 8) as u8, flow as u8];
            let port = 1024 + ((flow + (flow >> 22)) % 60_000) as u16;
            frame[places.client..places.client + 4].copy_from_slice(&client);
            frame[places.port..places.port + 2].copy_from_slice(&port.to_be_bytes());
            if self.kind == Kind::Tid {
                frame[places.server_port..places.server_port + 2].copy_from_slice(&(20_100 + (flow % 10_000) as u16).to_be_bytes());
            }
            if let Some((checksum, _)) = places.checksum {
                let words = [[client[0], client[1]], [client[2], client[3]]].map(|word| u32::from(u16::from_be_bytes(word)));
                let mut sum = self.base + words[0] + words[1];
                sum = (sum & 0xffff) + (sum >> 16);
                sum = (sum & 0xffff) + (sum >> 16);
                frame[checksum..checksum + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            }
        }
    }

    /// The batch as an io would hand it over.
    pub fn frames(&mut self) -> [Frame<'_>; BATCH] {
        let mut buffers = self.memory.chunks_exact_mut(STRIDE);
        let len = self.len;
        std::array::from_fn(|_| Frame::new(buffers.next().expect("one for each frame"), HEADROOM, len))
    }

    /// Runs the path over one batch, and says how long that took.
    #[inline(always)]
    pub fn run(&mut self, tables: &Snapshot, state: &mut State, now: Time) -> Duration {
        self.run_by(BATCH, tables, state, now)
    }

    /// The same in batches of `size` packets; the time is that of all of them.
    pub fn run_by(&mut self, size: usize, tables: &Snapshot, state: &mut State, now: Time) -> Duration {
        self.fill();
        let mut frames = self.frames();
        let start = Instant::now();
        for frames in frames.chunks_mut(size) {
            path::run(frames, tables, state, now);
        }
        let took = start.elapsed();
        std::hint::black_box(&frames);
        took
    }
}
