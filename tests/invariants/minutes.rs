//! Minutes of a director with several workers, whose pools change, beside a stranger who floods: every packet of a flow, whole or in fragments, and every ICMP
//! error about it goes to the flow's backend, by whatever receive queue it comes.

use super::Random;
use guideway_config as config;
use guideway_control::{NextHops, Writer};
use guideway_dataplane::path::{Shared, State, release_known, run};
use guideway_dataplane::tables::Snapshot;
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::time::Time;
use guideway_packet::wire::build::{self, Packet};
use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const WORKERS: usize = 3;
const TICK: Duration = Duration::from_millis(100);
const TICKS: u64 = 1_500;
/// A flow ends after this many ticks.
const LIFE: u64 = 600;
/// Packets of the stranger in a tick.
const FLOOD: u64 = 60;
const ROUTER: ([u8; 6], &str) = ([2, 0, 0, 0, 0, 1], "10.0.0.1");
const DIRECTOR: ([u8; 6], &str) = ([2, 0, 0, 0, 1, 0x11], "10.0.1.11");
/// A service by 5-tuple, and `tftp` without ranges.
const SERVICES: [(&str, u16); 2] = [("192.0.2.53", 53), ("192.0.2.70", 40_000)];

/// What an operator does, and in which tick: backends, each drained (`!`) or not.
const CHANGES: [(u64, &str); 6] = [
    (0, "b1 b2 b3 b4"),
    (300, "!b1 b2 b3 b4"),
    (500, "!b1 b2 b3 b4 b5"),
    (700, "b1 b3 b4 b5"),
    (900, "b1 !b3 b4 b5 b6"),
    (1_200, "b1 b2 b3 b6"),
];

fn configuration(backends: &str) -> config::Config {
    let mut text = format!(
        "[director]\nname = \"d1\"\naddress = \"{}\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\nrouters = [\"10.0.0.0/24\"]\n\
         io = {{ kind = \"pcap\", mac = \"02:00:00:00:01:11\" }}\n\
         [[vip]]\naddress = \"192.0.2.53\"\nservice = {{ protocol = \"udp\", ports = [53] }}\npool = \"p\"\nidle = \"20s\"\n\
         [[vip]]\naddress = \"192.0.2.70\"\nservice = \"tftp\"\npool = \"p\"\nidle = \"20s\"\n\
         [[pool]]\nname = \"p\"\ntable_size = 1009\nbackends = [\n",
        DIRECTOR.1
    );
    for backend in backends.split(' ') {
        let (name, drain) = backend.strip_prefix('!').map_or((backend, false), |name| (name, true));
        writeln!(text, "{{ name = \"{name}\", address = \"10.0.2.{}\", drain = {drain} }},", &name[1..]).unwrap();
    }
    text.push_str("]\n");
    for n in 1..=6 {
        write!(text, "[[neighbour]]\naddress = \"10.0.2.{n}\"\nmac = \"02:00:00:00:02:0{n}\"\n").unwrap();
    }
    config::read(&text).config.unwrap()
}

/// Workers, and what a router sends them.
struct Director {
    workers: Vec<State>,
    writer: Writer,
    tables: Snapshot,
    now: Time,
    /// Packets for each worker in this tick.
    queues: [Vec<Vec<u8>>; WORKERS],
    /// Backend of each packet that left in this tick, by its bytes.
    sent: HashMap<Vec<u8>, IpAddr>,
}

impl Director {
    fn new() -> Director {
        let shared = Shared::new(WORKERS);
        let worker = |at| {
            let mut state = State::new(8_192, 1_500);
            state.share(at, &shared);
            state
        };
        let (mut writer, now) = (Writer::new(), Time(1_000_000_000));
        let config = configuration(CHANGES[0].1);
        let tables = writer.apply(&config, &NextHops::from_config(&config), now).unwrap();
        Director { workers: (0..WORKERS).map(worker).collect(), writer, tables, now, queues: Default::default(), sent: HashMap::new() }
    }

    fn change(&mut self, backends: &str) {
        let config = configuration(backends);
        self.tables = self.writer.apply(&config, &NextHops::from_config(&config), self.now).unwrap();
    }

    fn receive(&mut self, worker: u64, packet: &Packet) {
        let frame = packet.gre(ROUTER.1.parse().unwrap(), DIRECTOR.1.parse().unwrap()).frame(ROUTER.0, DIRECTOR.0);
        self.queues[(worker % WORKERS as u64) as usize].push(frame);
    }

    /// Every worker handles what came; those that hold something look again.
    fn tick(&mut self) {
        self.now = self.now.plus(TICK);
        for _ in 0..2 {
            for (state, queue) in self.workers.iter_mut().zip(&mut self.queues) {
                let mut buffers: Vec<Vec<u8>> = queue.drain(..).map(|frame| [&[0; HEADROOM][..], &frame].concat()).collect();
                let mut sent = Vec::new();
                for batch in buffers.chunks_mut(64) {
                    let mut frames: Vec<Frame<'_>> = batch
                        .iter_mut()
                        .map(|buffer| {
                            let len = buffer.len() - HEADROOM;
                            Frame::new(buffer, HEADROOM, len)
                        })
                        .collect();
                    run(&mut frames, &self.tables, state, self.now);
                    let transmitted = frames.iter().filter(|frame| frame.verdict == guideway_packet::verdict::Verdict::Transmit);
                    sent.extend(transmitted.map(|frame| frame.bytes().to_vec()));
                    state.drain_outbox(|frame, _| {
                        sent.push(frame.to_vec());
                        true
                    });
                }
                release_known(&self.tables, state, self.now);
                state.drain_outbox(|frame, _| {
                    sent.push(frame.to_vec());
                    true
                });
                assert!(state.counters.balanced(), "{}", state.counters.to_json());
                // Ethernet, IPv4, GRE.
                self.sent.extend(sent.iter().map(|frame| (frame[38..].to_vec(), IpAddr::from(*frame[30..34].first_chunk::<4>().unwrap()))));
            }
        }
    }
}

/// A client's conversation, and the backend that its first packet went to.
struct Flow {
    number: u64,
    client: SocketAddr,
    server: SocketAddr,
    born: u64,
    backend: Option<IpAddr>,
}

impl Flow {
    fn new(number: u64, born: u64) -> Flow {
        let (vip, port) = SERVICES[(number % 2) as usize];
        let client =
            SocketAddr::from(([198, 18 + (number >> 16) as u8, (number >> 8) as u8, number as u8], 2_000 + (number % 50_000) as u16));
        Flow { number, client, server: SocketAddr::new(vip.parse().unwrap(), port), born, backend: None }
    }

    /// An acknowledgement of TFTP, whatever the service; `serial` makes its bytes its own.
    fn data(&self, serial: u64, len: usize) -> Vec<u8> {
        [&[0, 4][..], &serial.to_be_bytes(), &vec![7; len]].concat()
    }

    fn whole(&self, serial: u64) -> Packet {
        build::udp(self.client, self.server, &self.data(serial, 4))
    }

    fn fragments(&self, serial: u64) -> Vec<Packet> {
        build::udp(self.client, self.server, &self.data(serial, 90)).fragments(serial as u32, 40)
    }

    fn error(&self, serial: u64) -> Packet {
        let quoted = build::udp(self.server, self.client, &self.data(serial, 4));
        build::icmp([203, 0, 113, 9].into(), self.server.ip(), 3, 4, &[&[0; 4], quoted.bytes()].concat())
    }
}

/// A stranger's packet: a first fragment that nothing follows, a later one, or a new flow.
fn forged(random: &mut Random) -> Packet {
    let client = SocketAddr::from(((random.next() as u32 | 0x4000_0000).to_be_bytes(), 1_024 + random.below(60_000) as u16));
    let (vip, port) = SERVICES[random.below(2)];
    let packet = build::udp(client, SocketAddr::new(vip.parse().unwrap(), port), &[&[0, 4][..], &[9; 60]].concat());
    match random.below(8) {
        0 => packet,
        kind => packet.fragments(random.next() as u32, 40).swap_remove(usize::from(kind == 1)),
    }
}

#[test]
fn over_minutes_every_flow_stays_whole_beside_changes_and_a_flood() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut director, mut flows) = (Director::new(), Vec::<Flow>::new());
    let mut counts = [0u64; 3];
    for tick in 0..TICKS {
        if let Some((_, backends)) = CHANGES.iter().find(|(at, _)| *at == tick) {
            director.change(backends);
        }
        flows.retain(|flow| tick - flow.born < LIFE);
        flows.push(Flow::new(tick, tick));
        let mut expected: Vec<(usize, usize, Packet)> = Vec::new();
        for (at, flow) in flows.iter().enumerate() {
            let (age, n, serial) = (tick - flow.born, flow.number, tick << 20 | flow.number);
            // A third of the flows begin in fragments. Each has its own receive queue for whole packets, and three others for the rest.
            let fragmented = if n % 3 == 0 { age.is_multiple_of(40) } else { age % 40 == 13 };
            if age.is_multiple_of(25) && !(fragmented && age == 0) {
                expected.push((0, at, flow.whole(serial)));
                director.receive(n, &flow.whole(serial));
            }
            if fragmented {
                let fragments = flow.fragments(serial);
                let order = if random.one_in(4) { [2, 0, 1] } else { [0, 1, 2] };
                for place in order {
                    director.receive(n + 1 + (place as u64).min(1), &fragments[place]);
                }
                expected.extend(fragments.into_iter().map(|fragment| (1, at, fragment)));
            }
            if age % 70 == 50 {
                expected.push((2, at, flow.error(serial)));
                director.receive(n + 2, &flow.error(serial));
            }
        }
        for _ in 0..FLOOD {
            director.receive(random.next(), &forged(&mut random));
        }
        director.tick();
        for (kind, at, packet) in expected {
            counts[kind] += 1;
            let flow = &mut flows[at];
            let backend = director.sent.get(packet.bytes()).copied();
            let before =
                *flow.backend.get_or_insert(backend.unwrap_or_else(|| panic!("tick {tick}: the first packet of flow {at} was lost")));
            assert_eq!(
                backend,
                Some(before),
                "tick {tick}: {} of {}, flow of tick {}",
                ["a packet", "a fragment", "an error"][kind],
                flow.client,
                flow.born
            );
        }
        director.sent.clear();
    }
    println!("{} packets, {} fragments, {} errors", counts[0], counts[1], counts[2]);
    assert!(counts.iter().all(|count| *count > 5_000), "the test would show nothing: {counts:?}");
}
