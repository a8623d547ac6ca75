//! A small world: one director, two families, a TFTP pool with TID ranges, one without, and DNS.

use crate::counters::{Counters, PacketCounter};
use crate::maglev::Table;
use crate::path::{State, run};
use crate::tables::{Addresses, Echo, Fleet, HashKey, Unmatched};
use crate::tables::{
    Backend, BackendId, Member, NextHop, Pool, PrefixSet, RequestPolicy, Service, ServiceKind, Snapshot, Successors, TidMap, VipTable,
};
use guideway_hash::FleetKey;
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::time::Time;
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build::{self, Packet};
use guideway_packet::wire::ethernet::Ethernet;
use guideway_packet::wire::gre::Gre;
use guideway_packet::wire::ip::Ip;
use guideway_packet::wire::l4::{TCP, UDP};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const DIRECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x11];
pub const MTU: u16 = 1500;
pub const ROUTER: [&str; 2] = ["10.0.0.1", "2001:db8:0::1"];
pub const DIRECTOR: [&str; 2] = ["10.0.1.11", "2001:db8:1::11"];
/// Directors of a remote site, where a test has it.
pub const REMOTE_SITE: [&str; 2] = ["10.9.1.11", "10.9.1.12"];
/// TFTP with TID ranges: t4 and t6, reached over IPv4 and IPv6.
pub const BOOT: [&str; 2] = ["192.0.2.69", "2001:db8:f::69"];
/// TFTP without TID ranges, key = flow.
pub const STOCK: [&str; 2] = ["192.0.2.70", "2001:db8:f::70"];
/// TFTP without TID ranges, key = client.
pub const CLIENT_KEY: [&str; 2] = ["192.0.2.71", "2001:db8:f::71"];
/// Sources of GRE over IPv4, where a test has them.
pub const SOURCES: &str = "10.0.1.16/28";
/// The numbers of the backends of [`DNS`].
pub const DNS_BACKENDS: [u8; 2] = [5, 6];
/// DNS over UDP and TCP.
pub const DNS: [&str; 2] = ["192.0.2.53", "2001:db8:f::53"];
pub const CLIENT: [&str; 2] = ["198.51.100.7", "2001:db8:c::7"];

pub fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

fn service(label: &str, kind: ServiceKind, pool: &Arc<Pool>) -> Service {
    Service {
        label: label.into(),
        kind,
        pool: pool.clone(),
        idle: 60,
        paused: false,
        has_remote_site: false,
        request_policy: Arc::new(RequestPolicy::default()),
    }
}

/// The tables, with a worker's state and the frames that come out.
pub struct Fixture {
    pub tables: Snapshot,
    pub state: State,
    pub now: Time,
}

/// What became of one frame.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    /// The frame as it then stood.
    pub frame: Vec<u8>,
    /// What the batch originated or released.
    pub outbox: Vec<Vec<u8>>,
}

impl Fixture {
    pub fn new() -> Fixture {
        let key = FleetKey::new(*b"0123456789abcdef");
        let mut backends = Vec::new();
        let mut vips = VipTable::default();
        let mut services = Vec::new();
        let mut pool = |name: &str, members: &[(&str, &str)], ranges: bool| {
            let name: Arc<str> = name.into();
            let first = backends.len() as u16;
            for (n, (backend, address)) in members.iter().enumerate() {
                let source = if ip(address).is_ipv4() { ip(DIRECTOR[0]) } else { ip(DIRECTOR[1]) };
                let next_hop = Some(NextHop { mac: [2, 0, 0, 0, 2, first as u8 + n as u8], mtu: MTU, output: None });
                let mut backend = Backend::new((*backend).into(), name.clone(), DIRECTOR_MAC, source, ip(address), next_hop).unwrap();
                backend.spread(key.packet_hasher().clients, None);
                backends.push(Some(backend));
            }
            let weights: Vec<_> = members.iter().map(|(name, _)| (*name, 100)).collect();
            let members: Vec<u16> = (first..first + members.len() as u16).collect();
            let range = |id: u16| (20_000 + 1000 * id, 20_999 + 1000 * id);
            let tid = ranges.then(|| Arc::new(TidMap::new(members.iter().map(|id| (range(*id), *id)))));
            let named: Vec<_> =
                weights.iter().zip(&members).map(|((name, _), id)| (*name, Member { id: *id, accepts_new: true })).collect();
            let successors = Arc::new(Successors::new(key, false, &named, [], &[]));
            Arc::new(Pool { name, maglev: Arc::new(Table::build(&key, 1_009, &weights).unwrap()), members, tid, successors })
        };
        let boot = pool("boot", &[("t4", "10.0.2.21"), ("t6", "2001:db8:2::22")], true);
        let stock = pool("stock", &[("s1", "10.0.2.31"), ("s2", "10.0.2.32"), ("s3", "10.0.2.33")], false);
        let dns = pool("dns", &[("n1", "10.0.2.41"), ("n2", "10.0.2.42")], false);
        for family in 0..2 {
            for (address, key, pool) in [
                (BOOT[family], HashKey::Flow, &boot),
                (STOCK[family], HashKey::Flow, &stock),
                (CLIENT_KEY[family], HashKey::Client, &stock),
            ] {
                vips.add_tftp(ip(address), services.len() as u16);
                services.push(service("tftp", ServiceKind::Tftp(key), pool));
            }
            for (protocol, label) in [(UDP, "udp/53"), (TCP, "tcp/53")] {
                vips.add_ports(ip(DNS[family]), protocol, &[(53, 53)], services.len() as u16);
                services.push(service(label, ServiceKind::Flow, &dns));
            }
        }
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (ip(DIRECTOR[0]), ip(DIRECTOR[1])) else { unreachable!() };
        let tables = Snapshot {
            generation: 1,
            mac: DIRECTOR_MAC,
            mtu: MTU,
            address: Addresses { v4: Some(v4), v6: Some(v6) },
            routers: PrefixSet::new(&["10.0.0.0/24".parse().unwrap(), "2001:db8::/64".parse().unwrap()]),
            unmatched: Unmatched::Host,
            icmp_echo: Echo::Forward,
            vips,
            services,
            internal_addresses: PrefixSet::new(&[DIRECTOR[0], DIRECTOR[1], "10.0.2.21", "2001:db8:2::22"].map(|a| ip(a).into())),
            remote_site_directors: Vec::new(),
            remote_site_addresses: PrefixSet::default(),
            fleet: Fleet::default(),
            local_server: None,
            backends,
            hash: key.packet_hasher(),
        };
        Fixture { tables, state: State::new(4096, MTU), now: Time(1_000_000_000) }
    }

    /// Servers of the pool with TID ranges go on with one another's transfers from now on, and this one of them, if any, is down.
    pub fn take_over(&mut self, down: Option<BackendId>) {
        let range = |id: BackendId| ((20_000 + 1000 * id, 20_999 + 1000 * id), id);
        let members = [0, 1].map(|id| (["t4", "t6"][usize::from(id)], Member { id, accepts_new: down != Some(id) }));
        let (dead, living): (Vec<_>, Vec<_>) = [0, 1].map(range).into_iter().partition(|(_, id)| down == Some(*id));
        for backend in self.tables.backends.iter_mut().flatten() {
            backend.down = false;
        }
        for (_, id) in &dead {
            self.tables.backends[usize::from(*id)].as_mut().unwrap().down = true;
        }
        let key = FleetKey::new(*b"0123456789abcdef");
        for service in self.tables.services.iter_mut().filter(|service| &*service.pool.name == "boot") {
            let mut pool = (*service.pool).clone();
            pool.tid = Some(Arc::new(TidMap::new(living.iter().copied())));
            pool.successors = Arc::new(Successors::new(key, true, &members, [], &dead));
            service.pool = Arc::new(pool);
        }
    }

    /// There is a remote site from now on, with two directors; their link-layer addresses end with 9 and 10.
    pub fn add_remote_site(&mut self) {
        let first = self.tables.backends.len() as BackendId;
        for (n, address) in REMOTE_SITE.iter().enumerate() {
            let next_hop = Some(NextHop { mac: [2, 0, 0, 0, 9, 9 + n as u8], mtu: MTU, output: None });
            let director = Backend::new((*address).into(), "remote site".into(), DIRECTOR_MAC, ip(DIRECTOR[0]), ip(address), next_hop);
            self.tables.backends.push(director);
            self.tables.remote_site_directors.push(first + n as BackendId);
        }
        self.tables.remote_site_addresses = PrefixSet::new(&REMOTE_SITE.map(|address| ip(address).into()));
        self.tables.routers = PrefixSet::new(&["10.0.0.0/24", "2001:db8::/64", "10.9.1.0/24"].map(|prefix| prefix.parse().unwrap()));
        self.tables.services.iter_mut().for_each(|service| service.has_remote_site = true);
    }

    /// The servers of [`STOCK`] and [`CLIENT_KEY`] have TID ranges from now on: 22000–22999, 23000–23999, 24000–24999.
    pub fn stock_with_ranges(mut self) -> Fixture {
        for service in self.tables.services.iter_mut().filter(|service| &*service.pool.name == "stock") {
            let mut pool = (*service.pool).clone();
            pool.tid = Some(Arc::new(TidMap::new(pool.members.iter().map(|id| ((20_000 + 1000 * id, 20_999 + 1000 * id), *id)))));
            service.pool = Arc::new(pool);
        }
        self
    }

    /// This backend of the pool gets nothing new from now on.
    pub fn drain(&mut self, pool: &str, id: BackendId) {
        self.tables.backends[usize::from(id)].as_mut().unwrap().draining = true;
        for service in self.tables.services.iter_mut().filter(|service| &*service.pool.name == pool) {
            let mut pool = (*service.pool).clone();
            let name = |id: &BackendId| self.tables.backends[usize::from(*id)].as_ref().unwrap().name.to_string();
            let named: Vec<(String, u16)> = pool.members.iter().map(|member| (name(member), if *member == id { 0 } else { 100 })).collect();
            let weights: Vec<(&str, u16)> = named.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
            pool.maglev = Arc::new(Table::build(&FleetKey::new(*b"0123456789abcdef"), 1_009, &weights).unwrap());
            service.pool = Arc::new(pool);
        }
    }

    /// GRE over IPv4 comes from this prefix from now on.
    pub fn spread_over(&mut self, prefix: &str) {
        for backend in self.tables.backends.iter_mut().flatten() {
            backend.spread(self.tables.hash.clients, Some(prefix.parse().unwrap()));
        }
    }

    /// No backend gets anything new from now on.
    pub fn remove_all_backends(&mut self) {
        let nobody = Arc::new(Table::build(&FleetKey::new([7; 16]), 1_009, &[("none", 0)]).unwrap());
        for service in &mut self.tables.services {
            let mut pool = (*service.pool).clone();
            pool.maglev = nobody.clone();
            service.pool = Arc::new(pool);
        }
    }

    /// Runs one frame through the path.
    pub fn frame(&mut self, bytes: &[u8]) -> Outcome {
        let mut outcomes = self.batch(&[bytes.to_vec()]);
        outcomes.remove(0)
    }

    /// Runs a batch; the outbox of the whole batch is given with its last frame.
    pub fn batch(&mut self, batch: &[Vec<u8>]) -> Vec<Outcome> {
        let mut buffers: Vec<Vec<u8>> = batch.iter().map(|bytes| [&[0xee; HEADROOM][..], bytes].concat()).collect();
        let mut frames: Vec<Frame> =
            buffers.iter_mut().zip(batch).map(|(buffer, bytes)| Frame::new(buffer, HEADROOM, bytes.len())).collect();
        run(&mut frames, &self.tables, &mut self.state, self.now);
        let mut outcomes: Vec<Outcome> =
            frames.iter().map(|frame| Outcome { verdict: frame.verdict, frame: frame.bytes().to_vec(), outbox: Vec::new() }).collect();
        let outbox = &mut outcomes.last_mut().unwrap().outbox;
        self.state.drain_outbox(|frame, _| {
            outbox.push(frame.to_vec());
            true
        });
        assert!(self.state.counters.balanced(), "{}", self.state.counters.to_json());
        outcomes
    }

    /// Runs a client's packet as a router sends it: in GRE over the family of `DIRECTOR[outer]`.
    pub fn gre(&mut self, packet: &Packet, outer: usize) -> Outcome {
        self.frame(&in_gre(packet, outer))
    }

    pub fn counters(&self) -> &Counters {
        &self.state.counters
    }

    pub fn count(&self, number: PacketCounter) -> u64 {
        self.state.counters.get(number)
    }
}

/// A client's packet in GRE from the router, in a frame.
pub fn in_gre(packet: &Packet, outer: usize) -> Vec<u8> {
    packet.gre(ip(ROUTER[outer]), ip(DIRECTOR[outer])).frame(ROUTER_MAC, DIRECTOR_MAC)
}

/// A read request from `CLIENT[family]:port`.
pub fn read_request(vip: &str, port: u16) -> Packet {
    build::udp(socket(client_of(vip), port), socket(vip, 69), b"\0\x01pxelinux.0\0octet\0")
}

/// A write request from `client`:2000.
pub fn write_request(vip: &str, client: &str) -> Packet {
    build::udp(socket(client, 2000), socket(vip, 69), b"\0\x02config\0octet\0")
}

/// Changes the guard of every service.
pub fn with_request_policy(fixture: &mut Fixture, change: impl Fn(&mut RequestPolicy)) {
    for service in &mut fixture.tables.services {
        let mut request_policy = (*service.request_policy).clone();
        change(&mut request_policy);
        service.request_policy = Arc::new(request_policy);
    }
}

/// An acknowledgement from `CLIENT[family]:port` to the server's TID.
pub fn acknowledgement(vip: &str, port: u16, tid: u16) -> Packet {
    build::udp(socket(client_of(vip), port), socket(vip, tid), &[0, 4, 0, 1])
}

/// A DNS query from `CLIENT[family]:port`.
pub fn query(vip: &str, port: u16) -> Packet {
    build::udp(socket(client_of(vip), port), socket(vip, 53), b"query")
}

pub fn client_of(vip: &str) -> &'static str {
    if ip(vip).is_ipv4() { CLIENT[0] } else { CLIENT[1] }
}

/// What a frame carries that the director sent to a backend: all of it is checked.
pub struct Sent {
    pub mac: [u8; 6],
    pub outer: Ip,
    pub inner: Vec<u8>,
}

/// Takes a transmitted frame apart and checks every header that the director wrote.
pub fn sent(frame: &[u8]) -> Sent {
    let ethernet = Ethernet::parse(frame).unwrap();
    assert_eq!(frame[6..12], DIRECTOR_MAC);
    let packet = &frame[ethernet.len..];
    let outer = Ip::parse(ethernet.ethertype, packet).unwrap();
    assert!(outer.checksum_ok(packet));
    assert_eq!(usize::from(outer.total_len), packet.len(), "nothing stands behind the packet");
    assert_eq!(outer.protocol, 47);
    assert!(outer.df && outer.fragment.is_none());
    assert!(DIRECTOR.map(ip).contains(&outer.source) || SOURCES.parse::<ipnet::IpNet>().unwrap().contains(&outer.source));
    let payload = &packet[usize::from(outer.header_len)..];
    let gre = Gre::parse(payload).unwrap();
    assert_eq!(gre.len, 4);
    let inner = payload[4..].to_vec();
    let ip = Ip::parse(gre.protocol, &inner).unwrap();
    assert_eq!(usize::from(ip.total_len), inner.len());
    assert!(ip.checksum_ok(&inner));
    Sent { mac: ethernet.destination, outer, inner }
}
