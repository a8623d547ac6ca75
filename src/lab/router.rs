//! A test router: takes packets for VIPs out of its kernel by a TUN device, chooses a director by ECMP, and sends them on in GRE.

use super::link::Link;
use super::nexthops::{self, NextHops};
use arc_swap::ArcSwap;
use guideway_host::error::{Context, Error};
use guideway_host::netlink::{Netlink, Via};
use guideway_host::tun::open_tun;
use guideway_packet::wire::flow::{self as packet, Flow};
use guideway_packet::wire::gre;
use ipnet::IpNet;
use nix::sys::signal::{SigSet, Signal};
use siphasher::sip::SipHasher13;
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tun_rs::SyncDevice;

/// The main routing table.
pub const MAIN_TABLE: u32 = 254;

/// What the router hashes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Ecmp {
    /// Addresses, protocol and ports: a request and its acknowledgements reach different directors, a first fragment and the later ones, too.
    #[value(name = "5tuple")]
    FiveTuple,
    /// Addresses and protocol: one client's packets all reach the same director.
    #[value(name = "3tuple")]
    ThreeTuple,
    /// The client's address and port: one transfer stays together. No router does this; it serves to leave the directors out.
    #[value(name = "client", hide = true)]
    Client,
}

impl Ecmp {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Ecmp::FiveTuple => "5tuple",
            Ecmp::ThreeTuple => "3tuple",
            Ecmp::Client => "client",
        }
    }

    /// The hash of a flow under `key`. A later fragment has no ports, so it hashes by what is left.
    pub fn hash(self, key: &[u8; 16], flow: &Flow) -> u64 {
        let octets = |a: IpAddr| match a {
            IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
            IpAddr::V6(a) => a.octets(),
        };
        let mut m = [0u8; 37];
        m[..16].copy_from_slice(&octets(flow.source));
        if self != Ecmp::Client {
            m[16..32].copy_from_slice(&octets(flow.destination));
            m[32] = flow.protocol;
        }
        let ports = if self == Ecmp::FiveTuple { flow.visible_ports } else { flow.ports };
        if let Some((source, destination)) = ports {
            if self != Ecmp::ThreeTuple {
                m[33..35].copy_from_slice(&source.to_be_bytes());
            }
            if self == Ecmp::FiveTuple {
                m[35..37].copy_from_slice(&destination.to_be_bytes());
            }
        }
        SipHasher13::new_with_key(key).hash(&m)
    }

    /// Returns the hop of a flow. It keeps no state: when the hops change, flows move, as on a real router.
    pub fn choose(self, key: &[u8; 16], flow: &Flow, hops: &[IpAddr]) -> Option<IpAddr> {
        let count = hops.len() as u64;
        (count > 0).then(|| hops[(self.hash(key, flow) % count) as usize])
    }
}

/// How a router is set up.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// The interface that clients' packets come in on.
    pub ingress: String,
    /// What is sent to directors.
    pub vips: Vec<IpNet>,
    /// What the choice depends on.
    pub ecmp: Ecmp,
    /// The key of the hash.
    pub key: [u8; 16],
    /// The outer source address; by the kernel's choice when there is none of the director's family.
    pub sources: Vec<IpAddr>,
    /// The routing table whose next hops are the directors.
    pub directors_table: u32,
    /// A routing table of its own, and the priority of the rule that leads there.
    pub divert_table: u32,
    /// Name of the TUN device.
    pub tun: String,
    /// The link to the clients, where it is not perfect or is to be watched: then packets for the clients pass through here too.
    pub link: Option<Link>,
}

impl Default for RouterConfig {
    fn default() -> Self {
        RouterConfig {
            ingress: "eth0".to_owned(),
            vips: Vec::new(),
            ecmp: Ecmp::FiveTuple,
            key: *b"guideway router.",
            sources: Vec::new(),
            directors_table: MAIN_TABLE,
            divert_table: 4754,
            tun: "ecmp0".to_owned(),
            link: None,
        }
    }
}

/// What the router counts, in packets.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets for VIPs.
    pub received: AtomicU64,
    /// Without a director.
    pub unroutable: AtomicU64,
    /// Refused by the kernel when sent.
    pub send_errors: AtomicU64,
    directors: Mutex<BTreeMap<IpAddr, u64>>,
}

impl Counters {
    /// Packets sent to each director.
    pub fn directors(&self) -> BTreeMap<IpAddr, u64> {
        self.directors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn sent(&self, director: IpAddr) {
        *self.directors.lock().unwrap_or_else(PoisonError::into_inner).entry(director).or_default() += 1;
    }
}

/// A router at work. It ends with the process.
#[derive(Debug)]
pub struct Router {
    /// What it has done.
    pub counters: Arc<Counters>,
    /// Its directors now.
    pub directors: Arc<ArcSwap<NextHops>>,
    /// The link to the clients, where it is watched.
    pub link: Option<Link>,
    key: Arc<ArcSwap<[u8; 16]>>,
}

impl Router {
    /// Changes the key of the hash: from now on every flow may go to another director.
    pub fn reshuffle(&self, key: [u8; 16]) {
        self.key.store(Arc::new(key));
    }
}

/// Starts a router in the network namespace of the calling thread. When this returns, packets are taken.
///
/// # Errors
/// When the TUN device, the rule, the routes or the sockets cannot be had.
pub fn start(config: RouterConfig) -> Result<Router, Error> {
    let directors = Arc::new(ArcSwap::from_pointee(NextHops::default()));
    nexthops::watch(config.vips.clone(), config.directors_table, Arc::clone(&directors))?;
    let tun = open_tun(&config.tun)?;
    let sockets = Sockets::open(&config.sources)?;
    add_divert_rules(&config)?;
    let (counters, key) = (Arc::new(Counters::default()), Arc::new(ArcSwap::from_pointee(config.key)));
    let router =
        Router { counters: Arc::clone(&counters), directors: Arc::clone(&directors), link: config.link.clone(), key: Arc::clone(&key) };
    let link = config.link.clone();
    let forward = Forwarder { sockets, config, directors, key, counters };
    match link {
        None => spawn_tun_reader("router", move || {
            let mut buffer = vec![0u8; MAX_PACKET_LEN];
            loop {
                let length = GRE_HEADER_LEN + tun.recv(&mut buffer[GRE_HEADER_LEN..])?;
                forward.send(&mut buffer[..length]);
            }
        })?,
        Some(link) => forward_over_link(link, tun, forward)?,
    }
    Ok(router)
}

/// Bytes of the GRE header, for which packets leave room.
const GRE_HEADER_LEN: usize = 4;
/// The longest packet with that header, in bytes.
const MAX_PACKET_LEN: usize = GRE_HEADER_LEN + 65536;
/// Name of the TUN device for what goes to the clients, and the routing table that leads there.
const RETURN_TUN: (&str, u32) = ("back0", 4755);

/// Sends what comes from clients and what goes to them along `link`, each direction by itself.
fn forward_over_link(link: Link, tun: SyncDevice, forward: Forwarder) -> Result<(), Error> {
    let transfer_log = Arc::clone(&link.transfer_log);
    let mut up = link.direction("router up", move |packet| {
        transfer_log.on_delivered(&packet[GRE_HEADER_LEN..], Instant::now());
        forward.send(packet);
    })?;
    spawn_tun_reader("router", move || {
        let mut buffer = vec![0u8; MAX_PACKET_LEN];
        loop {
            let length = GRE_HEADER_LEN + tun.recv(&mut buffer[GRE_HEADER_LEN..])?;
            up.send(buffer[..length].to_vec());
        }
    })?;
    let return_tun = Arc::new(open_tun(RETURN_TUN.0)?);
    let (out, transfer_log) = (Arc::clone(&return_tun), Arc::clone(&link.transfer_log));
    let mut down = link.direction("router down", move |packet| {
        transfer_log.on_delivered(packet, Instant::now());
        // What the kernel does not take is lost, as on any link.
        let _refused = out.send(packet);
    })?;
    let (link_config, networks, fabric) = (link.clone(), link.clients, link.fabric);
    spawn_tun_reader("router back", move || {
        let mut buffer = vec![0u8; MAX_PACKET_LEN];
        loop {
            let length = return_tun.recv(&mut buffer)?;
            let packet = &buffer[..length];
            // The kernel itself talks to its neighbours on any device.
            if packet::flow(packet).is_some_and(|flow| link_config.is_client(flow.destination)) {
                link_config.transfer_log.on_sent(packet, Instant::now());
                down.send(packet.to_vec());
            }
        }
    })?;
    let netlink = Netlink::open()?;
    for network in networks {
        netlink.set_route(network, &Via::Interface(RETURN_TUN.0.to_owned()), RETURN_TUN.1, None)?;
        netlink.add_rule(&fabric, network, RETURN_TUN.1, RETURN_TUN.1)?;
    }
    Ok(())
}

/// Starts a thread that goes on until reading fails.
fn spawn_tun_reader(name: &'static str, body: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), Error> {
    let body = move || {
        if let Err(e) = body() {
            tracing::error!("the thread {name} stopped: reading from a TUN device: {e}");
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop).with_context(|| format!("starting the thread {name}"))
}

/// Runs a router until SIGTERM or Ctrl-C. Says `ready: …` on stdout when packets are taken, and takes its rules back in the end. To be
/// called before the program starts threads.
///
/// # Errors
/// As [`start`].
pub fn run(config: RouterConfig) -> Result<Arc<Counters>, Error> {
    let mut signals = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT].into_iter().for_each(|s| signals.add(s));
    signals.thread_block().with_context(|| "waiting for signals".to_owned())?;
    let (vips, table) = (config.vips.clone(), config.divert_table);
    let router = start(config)?;
    println!("ready: {}", vips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    signals.wait().with_context(|| "waiting for signals".to_owned())?;
    Netlink::open()?.remove_rules(table)?;
    Ok(router.counters)
}

/// Leads packets for VIPs from the ingress into the TUN device, by a table that nothing else uses.
fn add_divert_rules(config: &RouterConfig) -> Result<(), Error> {
    let netlink = Netlink::open()?;
    let tun = Via::Interface(config.tun.clone());
    for vip in &config.vips {
        netlink.set_route(*vip, &tun, config.divert_table, None)?;
        netlink.add_rule(&config.ingress, *vip, config.divert_table, config.divert_table)?;
    }
    Ok(())
}

struct Sockets {
    v4: Socket,
    v6: Socket,
}

impl Sockets {
    fn open(sources: &[IpAddr]) -> Result<Self, Error> {
        let open = |domain, v6: bool| {
            let protocol = Protocol::from(i32::from(gre::PROTOCOL));
            let socket = Socket::new(domain, Type::RAW, Some(protocol)).with_context(|| "opening a raw socket for GRE".to_owned())?;
            if let Some(source) = sources.iter().find(|s| s.is_ipv6() == v6) {
                socket.bind(&SockAddr::from(SocketAddr::new(*source, 0))).with_context(|| format!("sending GRE from {source}"))?;
            }
            // It only sends: BPF_RET 0 lets nothing in, or what arrives would pile up in its buffer.
            socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).with_context(|| "closing the receiving half".to_owned())?;
            Ok::<_, Error>(socket)
        };
        Ok(Sockets { v4: open(Domain::IPV4, false)?, v6: open(Domain::IPV6, true)? })
    }

    fn send(&self, director: IpAddr, bytes: &[u8]) -> std::io::Result<usize> {
        let socket = if director.is_ipv4() { &self.v4 } else { &self.v6 };
        socket.send_to(bytes, &SockAddr::from(SocketAddr::new(director, 0)))
    }
}

/// Where packets for VIPs go on.
struct Forwarder {
    sockets: Sockets,
    config: RouterConfig,
    directors: Arc<ArcSwap<NextHops>>,
    key: Arc<ArcSwap<[u8; 16]>>,
    counters: Arc<Counters>,
}

impl Forwarder {
    /// Sends one packet, before which there is room for GRE, to its director.
    fn send(&self, buffer: &mut [u8]) {
        let inner = &buffer[GRE_HEADER_LEN..];
        // The kernel itself talks to its neighbours on any device, also where there are none.
        let Some(flow) = packet::flow(inner).filter(|flow| self.config.vips.iter().any(|vip| vip.contains(&flow.destination))) else {
            return;
        };
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        let chosen = self.config.ecmp.choose(&self.key.load(), &flow, self.directors.load().for_destination(flow.destination));
        let (Some(director), Some(header)) = (chosen, inner.first().and_then(|b| packet::gre_header(*b))) else {
            self.counters.unroutable.fetch_add(1, Ordering::Relaxed);
            return;
        };
        buffer[..GRE_HEADER_LEN].copy_from_slice(&header);
        match self.sockets.send(director, buffer) {
            Ok(_) => self.counters.sent(director),
            Err(_) => drop(self.counters.send_errors.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::l4::UDP;

    const KEY: &[u8; 16] = b"0123456789abcdef";

    fn flow(source_port: u16, destination_port: u16) -> Flow {
        Flow {
            source: "198.51.100.10".parse().unwrap(),
            destination: "192.0.2.69".parse().unwrap(),
            protocol: UDP,
            ports: Some((source_port, destination_port)),
            visible_ports: Some((source_port, destination_port)),
            payload: 20,
        }
    }

    #[test]
    fn each_kind_of_hash_sees_what_its_name_says() {
        let same = |ecmp: Ecmp, a: &Flow, b: &Flow| ecmp.hash(KEY, a) == ecmp.hash(KEY, b);
        let (request, ack, other) = (flow(40000, 69), flow(40000, 20001), flow(40001, 69));
        assert!(!same(Ecmp::FiveTuple, &request, &ack));
        assert!(same(Ecmp::ThreeTuple, &request, &ack) && same(Ecmp::ThreeTuple, &request, &other));
        assert!(same(Ecmp::Client, &request, &ack) && !same(Ecmp::Client, &request, &other));
        let (first, later) = (Flow { ports: None, ..request }, Flow { ports: None, visible_ports: None, ..request });
        assert!(same(Ecmp::FiveTuple, &first, &request) && !same(Ecmp::FiveTuple, &later, &request), "a first fragment shows its ports");
        assert!(same(Ecmp::FiveTuple, &later, &Flow { visible_ports: None, ports: None, ..ack }), "later fragments of one host go one way");
        assert!(same(Ecmp::Client, &first, &later));
    }

    #[test]
    fn every_director_gets_its_share() {
        let hops: Vec<IpAddr> = (11..14).map(|n| IpAddr::from([10, 0, 1, n])).collect();
        let mut counts = BTreeMap::new();
        for port in 0..3000 {
            *counts.entry(Ecmp::FiveTuple.choose(KEY, &flow(30000 + port, 69), &hops).unwrap()).or_insert(0) += 1;
        }
        // Binomial, n = 3000, p = 1/3: five standard deviations are 129.
        assert!(counts.len() == 3 && counts.values().all(|n| (871..=1129).contains(n)), "{counts:?}");
        assert_eq!(Ecmp::FiveTuple.choose(KEY, &flow(1, 69), &[]), None);
    }
}
