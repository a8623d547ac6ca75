//! Frames made from nothing: flows, shapes, with GRE around them or without.

use crate::tag::{self, Tag};
use crate::zipf::Zipf;
use guideway_packet::wire::build::{self, Packet};
use guideway_packet::wire::checksum::{fold, sum};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What frames come from.
pub trait FrameSource {
    /// Makes the frame with this number. It is sent, or made again. `None` at the end.
    fn next_frame(&mut self, seq: u64, now: u64) -> Option<&[u8]>;

    /// The frame that was made last was sent.
    fn sent(&mut self) {}

    /// When the next frame is due after the first one, for what has times of its own.
    fn due(&self) -> Option<Duration> {
        None
    }
}

/// What the datagrams look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Zeroes
    Udp,
    /// TFTP read requests, to port 69
    Request,
    /// TFTP acknowledgements, to a TID of the server for each flow
    Ack,
    /// Both: as many requests as --requests says
    Tftp,
}

/// The requested traffic.
#[derive(Clone, Debug)]
pub struct TrafficConfig {
    /// Link-layer source and destination.
    pub macs: [[u8; 6]; 2],
    /// Source of the first flow.
    pub from: SocketAddr,
    /// Destination: its port counts for `Shape::Udp` only.
    pub to: SocketAddr,
    /// Outer addresses.
    pub gre: Option<[IpAddr; 2]>,
    /// Bytes of a frame without its checksum; 0 for the shortest there is, at least 60.
    pub len: usize,
    /// How many flows.
    pub flows: u32,
    /// How many destination addresses, from that of `to` on.
    pub destinations: u32,
    /// Skew of the flows.
    pub skew: f64,
    /// What they look like.
    pub shape: Shape,
    /// Requests among the frames of `Shape::Tftp`, in percent.
    pub requests: u8,
    /// Server ports of acknowledgements, inclusive.
    pub tids: (u16, u16),
    /// What chance starts from.
    pub seed: u64,
}

/// Why there is no such traffic.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The frame does not hold its headers.
    #[error("-l {len}: a frame of this kind has at least {least} bytes (headers, and {} bytes of sequence number and time)", tag::LEN)]
    Short {
        /// The requested length.
        len: usize,
        /// What it takes.
        least: usize,
    },
    /// Two families.
    #[error("{0} and {1} are of different families")]
    Families(IpAddr, IpAddr),
}

/// A frame whose flow is written into it, and where.
#[derive(Debug)]
struct Template {
    frame: Vec<u8>,
    /// Where the last 4 bytes of the source address are, and those of the destination's.
    addresses: [usize; 2],
    /// Where the source port is; the destination port follows it, and 2 bytes after that one the checksum.
    ports: usize,
    /// Where the checksum of the inner IPv4 header is.
    header_check: Option<usize>,
}

/// Makes frames of flows.
#[derive(Debug)]
pub struct Traffic {
    request: Template,
    ack: Template,
    config: TrafficConfig,
    zipf: Zipf,
    random: fastrand::Rng,
    frame: Vec<u8>,
}

const READ_REQUEST: &[u8] = b"\0\x01boot1\0octet\0";
const ACK: &[u8] = &[0, 4, 0, 1];
const TFTP: u16 = 69;
/// Bytes of the shortest Ethernet frame without its checksum.
const SHORTEST: usize = 60;
/// Ports of clients, from 1024 on, before the next address follows.
const PORTS: u32 = 64_000;

impl Traffic {
    /// Traffic as `wanted`.
    pub fn new(config: TrafficConfig) -> Result<Traffic, Error> {
        let families = [(config.from.ip(), config.to.ip())].into_iter().chain(config.gre.map(|[a, b]| (a, b)));
        for (a, b) in families {
            if a.is_ipv4() != b.is_ipv4() {
                return Err(Error::Families(a, b));
            }
        }
        let (request, ack) = match config.shape {
            Shape::Udp => (&[][..], &[][..]),
            Shape::Request => (READ_REQUEST, READ_REQUEST),
            Shape::Ack => (ACK, ACK),
            Shape::Tftp => (READ_REQUEST, ACK),
        };
        let (request, ack) = (Template::new(&config, request)?, Template::new(&config, ack)?);
        let (zipf, random) = (Zipf::new(config.flows, config.skew), fastrand::Rng::with_seed(config.seed));
        Ok(Traffic { request, ack, config, zipf, random, frame: Vec::new() })
    }
}

impl Template {
    fn new(config: &TrafficConfig, head: &[u8]) -> Result<Template, Error> {
        let tag = Tag { seq: 0, sent: 0 }.bytes();
        let build = |padding: usize| {
            let packet = build::udp(config.from, config.to, &[head, &vec![0; padding], &tag].concat());
            let inner = packet.bytes().len();
            let outer = |packet: Packet| config.gre.map_or(packet.clone(), |[from, to]| packet.gre(from, to));
            (outer(packet).frame(config.macs[0], config.macs[1]), inner)
        };
        let least = build(0).0.len();
        let len = if config.len == 0 { least.max(SHORTEST) } else { config.len };
        let padding = len.checked_sub(least).ok_or(Error::Short { len: config.len, least })?;
        let (frame, inner) = build(padding);
        let at = frame.len() - inner;
        let v4 = config.from.is_ipv4();
        let ports = at + if v4 { 20 } else { 40 };
        let addresses = if v4 { [at + 12, at + 16] } else { [at + 20, at + 36] };
        Ok(Template { frame, addresses, ports, header_check: v4.then_some(at + 10) })
    }

    /// Replaces bytes at an even place, and what checksums say of them (RFC 1624, equation 3).
    fn replace(frame: &mut [u8], at: usize, new: &[u8], checks: impl IntoIterator<Item = usize>) {
        let Some(old) = frame.get_mut(at..at + new.len()) else { return };
        let change = u64::from(!sum(old)) + u64::from(sum(new));
        old.copy_from_slice(new);
        for check in checks {
            if let Some(field) = frame.get_mut(check..check + 2).and_then(|f| f.first_chunk_mut::<2>()) {
                *field = (!fold(u64::from(!u16::from_be_bytes(*field)) + change)).to_be_bytes();
            }
        }
    }
}

impl FrameSource for Traffic {
    fn next_frame(&mut self, seq: u64, now: u64) -> Option<&[u8]> {
        let Traffic { request, ack, config, zipf, random, frame } = self;
        let flow = if config.flows > 1 { zipf.draw(random) } else { 0 };
        let is_request = match config.shape {
            Shape::Udp | Shape::Ack => false,
            Shape::Request => true,
            Shape::Tftp => random.u8(..100) < config.requests,
        };
        let template = if is_request { request } else { ack };
        frame.clear();
        frame.extend_from_slice(&template.frame);
        let (udp_check, ports) = (template.ports + 6, template.ports);
        for (at, further) in template.addresses.into_iter().zip([flow / PORTS, flow % config.destinations]) {
            if let Some(last) = frame.get(at..).and_then(|f| f.first_chunk::<4>()).filter(|_| further > 0) {
                let address = u32::from_be_bytes(*last).wrapping_add(further);
                Template::replace(frame, at, &address.to_be_bytes(), [udp_check].into_iter().chain(template.header_check));
            }
        }
        let client = 1024 + ((u32::from(config.from.port().max(1024)) - 1024 + flow) % PORTS) as u16;
        let (first, last) = config.tids;
        let server = match (config.shape, is_request) {
            (Shape::Udp, _) => config.to.port(),
            (_, true) => TFTP,
            (_, false) => first + (flow % (u32::from(last - first) + 1)) as u16,
        };
        let both = [client.to_be_bytes(), server.to_be_bytes()].concat();
        Template::replace(frame, ports, &both, [udp_check]);
        write_tag(frame, seq, now);
        Some(frame)
    }
}

/// Writes a tag over the one at the end of a frame.
pub fn write_tag(frame: &mut [u8], seq: u64, now: u64) {
    if let Some(place) = frame.last_chunk_mut() {
        *place = Tag { seq: seq as u32, sent: now }.bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::build::transport_checksum;
    use guideway_packet::wire::flow as packet;
    use guideway_packet::wire::l4::UDP;
    use std::collections::HashSet;

    fn config(shape: Shape) -> TrafficConfig {
        TrafficConfig {
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 0x11]],
            from: "198.51.100.10:65000".parse().unwrap(),
            to: "192.0.2.69:53".parse().unwrap(),
            gre: Some(["10.0.0.1".parse().unwrap(), "10.0.1.11".parse().unwrap()]),
            len: 101,
            flows: 100_000,
            destinations: 50,
            skew: 0.0,
            shape,
            requests: 20,
            tids: (20_000, 20_099),
            seed: 1,
        }
    }

    /// The inner packet of a frame, all of whose checksums are right.
    fn checked(frame: &[u8], gre: bool) -> (packet::Flow, Vec<u8>) {
        let outer = packet::flow(&frame[14..]).unwrap();
        let inner = if gre { packet::strip_gre(&frame[14 + outer.payload..]).unwrap() } else { &frame[14..] };
        let flow = packet::flow(inner).unwrap();
        if inner[0] == 0x45 {
            assert_eq!(sum(&inner[..20]), 0xffff);
        }
        assert_eq!(transport_checksum(flow.source, flow.destination, UDP, &inner[flow.payload..]), 0);
        (flow, inner[flow.payload + 8..].to_vec())
    }

    #[test]
    fn flows_differ_and_every_checksum_is_right_at_every_length() {
        for (v6, gre) in [(false, true), (true, true), (false, false)] {
            let (mut clients, mut tids, mut vips) = (HashSet::new(), HashSet::new(), HashSet::new());
            for len in [142, 143, 1514] {
                let mut config = TrafficConfig { len, ..config(Shape::Ack) };
                if v6 {
                    (config.from, config.to) = ("[2001:db8::10]:65000".parse().unwrap(), "[2001:db8:69::1]:53".parse().unwrap());
                    config.gre = Some(["2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()]);
                }
                config.gre = config.gre.filter(|_| gre);
                let to = config.to.ip();
                let mut traffic = Traffic::new(config).unwrap();
                for seq in 0..200 {
                    let frame = traffic.next_frame(seq, 77 * seq).unwrap().to_vec();
                    assert_eq!((frame.len(), Tag::in_frame(&frame)), (len, Some(Tag { seq: seq as u32, sent: 77 * seq })));
                    let (flow, payload) = checked(&frame, gre);
                    assert_eq!(payload[..4], [0, 4, 0, 1]);
                    let (client, tid) = flow.ports.unwrap();
                    clients.insert((flow.source, client));
                    tids.insert(tid);
                    let [first, this] = [to, flow.destination].map(|address| match address {
                        IpAddr::V4(address) => address.to_bits(),
                        IpAddr::V6(address) => address.to_bits() as u32,
                    });
                    vips.insert(this - first);
                }
            }
            assert!(clients.len() > 190 && tids.len() > 80 && vips.len() > 40, "{} {} {}", clients.len(), tids.len(), vips.len());
            assert!(vips.iter().all(|further| *further < 50), "200 flows by chance, over 50 destinations");
            assert!(tids.iter().all(|tid| (20_000..=20_099).contains(tid)));
        }
    }

    #[test]
    fn requests_and_acknowledgements_are_mixed_as_configured() {
        let mut traffic = Traffic::new(config(Shape::Tftp)).unwrap();
        let requests = (0..10_000)
            .filter(|seq| {
                let (flow, payload) = checked(traffic.next_frame(*seq, 0).unwrap(), true);
                let request = payload.starts_with(READ_REQUEST);
                assert_eq!(request, flow.ports.unwrap().1 == 69);
                request
            })
            .count();
        // Binomial, n = 10000, p = 0.2: six standard deviations are 240.
        assert!((1760..=2240).contains(&requests), "{requests}");
    }

    #[test]
    fn what_cannot_be_is_said() {
        let error = |change: fn(&mut TrafficConfig)| {
            let mut config = config(Shape::Request);
            change(&mut config);
            Traffic::new(config).unwrap_err().to_string()
        };
        assert!(error(|w| w.len = 60).contains("at least 94 bytes"), "{}", error(|w| w.len = 60));
        assert!(error(|w| w.to = "[2001:db8::1]:53".parse().unwrap()).contains("families"));
    }
}
