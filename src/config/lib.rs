//! The configuration: what the TOML file says, checked and with its defaults filled in.
//!
//! Values of these types are consistent in themselves: names are unique, pools exist, ranges are disjoint, primes are prime.
//!
//! [`read`] goes from text to [`Config`] in two passes. The first takes each section by itself (`director`, `vip`, `pool`, `neighbour`) through
//! `reader`, which knows keys, types and lines; the second (`cross`, `promise`) compares what the sections say of one another. Neither stops at
//! an error: whoever mends a file sees all of them at once.
//!
//! | section | keys |
//! |---|---|
//! | (top) | `active_key` |
//! | `[director]` | `name`, `address`, `key`, `next_key`, `io`, `routers`, `socket`, `metrics`, `unmatched`, `icmp_echo`, `flows`, `retire`, `steering` |
//! | `[api]` | `listen`, `token_file`, `cert`, `key`, `client_ca` |
//! | `[[vip]]` | `address`, `service`, `pool`, `idle`, `paused`; of a `tftp` service `writes`, `clients`, `admission` |
//! | `[[pool]]` | `name`, `table_size`, `takeover`, `check`, `backends = [{ name, address, weight, tid_range, drain }]` |
//! | `[[neighbour]]` | `address`, `mac` |
//! | `[announce]` | `table`, `linger`, `interface` |
//! | `[store]`, in place of `[[vip]]` and `[[pool]]` | `kind`, `path`, `endpoints`, `prefix`, `ca`, `cert`, `key`, `user`, `password_file`, `cache` |
//!
//! A health controller has a file of its own: [`health`].

mod announce;
mod api;
mod check;
mod checking;
mod cross;
mod director;
pub mod duration;
mod export;
mod guard;
pub mod health;
pub mod here;
mod intent;
mod kind;
mod load;
mod neighbour;
mod pool;
mod problem;
mod promise;
pub mod reader;
mod restart;
mod service;
pub mod size;
pub mod store;
mod summary;
#[cfg(test)]
mod tests;
pub mod text;
mod vip;

pub use api::{ApiListen, Tls};
pub use check::check_command;
pub use check::tell;
pub use checking::{Check, Expect, Probe, TftpProbe};
pub use director::{duration_within, key as fleet_key, key_of as fleet_key_of};
pub use guard::Guard;
pub use intent::{Intent, read_any_intent, read_intent};
pub use kind::Kind;
pub use load::{Checked, LoadError, load, read};
pub use load::{load_with, pools, read_kind, tables};
pub use problem::{Problem, Severity};
pub use store::{Etcd, Store, read_store};

pub use guideway_dataplane::tables::{Addresses, Admission, Echo, Key, Unmatched, Writes};
use guideway_hash::{FleetKey, KeyId};
use ipnet::IpNet;
use netmap_rings::PortName;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[director]`
    pub director: Director,
    /// `active_key`: which of the director's keys is used; without, `[director] key`.
    pub active_key: Option<KeyId>,
    /// `[[vip]]`, in the order of the file.
    pub vips: Vec<Vip>,
    /// `[[pool]]`, in the order of the file.
    pub pools: Vec<Pool>,
    /// `[[neighbour]]`: static, for replay and tests.
    pub neighbours: Vec<Neighbour>,
    /// `[announce]`: whether and how VIPs are announced.
    pub announce: Option<Announce>,
    /// `[store]`: where VIPs and pools live, if not in this file.
    pub store: Option<Store>,
    /// `[api]`: the interface over TCP; none by default.
    pub api: Option<ApiListen>,
}

/// `[director]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Director {
    /// 1–63 characters of `a-z A-Z 0-9 - _ .`
    pub name: String,
    /// Where GRE from routers arrives; the source of GRE to backends. At least one of the two families.
    pub address: Addresses,
    /// The fleet's hash key.
    pub key: FleetKey,
    /// The key that the fleet is going to have: known before it is used.
    pub next_key: Option<FleetKey>,
    /// How packets get in and out.
    pub io: Io,
    /// Who may send us GRE.
    pub routers: Vec<IpNet>,
    /// Directors of the other site, at most 256: they get what no backend here can take, and may send us the same.
    pub other_site: Vec<IpAddr>,
    /// The control socket.
    pub socket: PathBuf,
    /// Where metrics are served to Prometheus; nowhere by default.
    pub metrics: Option<SocketAddr>,
    /// What becomes of GRE for an address that is no VIP.
    pub unmatched: Unmatched,
    /// What becomes of echo requests to a VIP.
    pub icmp_echo: Echo,
    /// Flows that each worker's flow table has room for, 1,024–67,108,864; default 1,048,576.
    pub flows: usize,
    /// How long a backend that is no longer in the file keeps its TID range and its flows; default 10 min.
    pub retire: Duration,
    /// Workers that one steering thread spreads packets over, 2–64; 0, the default: a worker for each receive queue instead.
    pub steering: usize,
}

/// `[announce]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The kernel's routing table that gets a route for each VIP, 1–4,294,967,295 but not one that the host itself routes by.
    pub table: u32,
    /// How long a director that was told to end goes on forwarding after it has withdrawn its VIPs, at most 60 s; default 2 s.
    pub linger: Duration,
    /// Name of the TUN device that the routes lead to; default `gw-` and the director's name, cut to 15 characters.
    pub interface: String,
}

/// `[director] io`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Io {
    /// Captures in and out, by `guideway replay` only.
    Pcap {
        /// Our link-layer address in the capture.
        mac: [u8; 6],
        /// MTU towards the backends in bytes, 1,280–9,216; default 1500.
        mtu: u16,
    },
    /// AF_XDP sockets, one for each receive queue.
    AfXdp {
        /// Name of the interface.
        interface: String,
        /// CPUs that the workers are pinned to, in the order of the queues; empty: spread over the CPUs that the process may use.
        cpus: Vec<usize>,
    },
    /// netmap rings, a worker for each receive ring.
    Netmap {
        /// Name of the interface.
        interface: String,
        /// What packets go through in place of the interface's own rings.
        detour: Option<Detour>,
        /// As for `AfXdp`.
        cpus: Vec<usize>,
    },
    /// A ring-mapped AF_PACKET socket for each worker.
    AfPacket {
        /// Name of the interface.
        interface: String,
        /// Workers, 1–64; default 1. More than one share the packets by hash.
        workers: usize,
        /// As for `AfXdp`.
        cpus: Vec<usize>,
    },
}

impl Io {
    /// Name of the interface, if there is one.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Io::Pcap { .. } => None,
            Io::AfXdp { interface, .. } | Io::Netmap { interface, .. } | Io::AfPacket { interface, .. } => Some(interface),
        }
    }
}

/// Two netmap ports that stand for an interface, which keeps its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detour {
    /// What packets come and go by: a port of a VALE switch, the end of a pipe, another interface.
    pub rings: PortName,
    /// What leads to the interface's own stack: the other end of a veth pair.
    pub host_rings: PortName,
}

/// `[[vip]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The virtual IP address.
    pub address: IpAddr,
    /// What is served there.
    pub service: Service,
    /// Name of the pool.
    pub pool: String,
    /// A flow that is silent for so long is forgotten, 1 s–12 h; default 60 s.
    pub idle: Duration,
    /// Takes no packets at all while true.
    pub paused: bool,
    /// `writes`, `clients` and `admission`; the defaults for other services than `tftp`.
    pub guard: Guard,
}

/// `[[vip]] service`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// `"tftp"`: UDP port 69 and every port from 1024 on.
    Tftp {
        /// What the choice of a backend depends on.
        key: Key,
    },
    /// UDP on these ports (sorted, disjoint, inclusive ranges of 1–65535).
    Udp {
        /// Inclusive ranges.
        ports: Vec<(u16, u16)>,
    },
    /// TCP on these ports.
    Tcp {
        /// Inclusive ranges.
        ports: Vec<(u16, u16)>,
    },
}

impl Service {
    /// For people and in JSON: `tftp`, `udp/53,8000-8100`.
    pub fn label(&self) -> String {
        let ports = |protocol, ports: &[(u16, u16)]| {
            let ports: Vec<_> = ports.iter().map(|range| text::port_range_text(*range)).collect();
            format!("{protocol}/{}", ports.join(","))
        };
        match self {
            Service::Tftp { .. } => "tftp".to_owned(),
            Service::Udp { ports: list } => ports("udp", list),
            Service::Tcp { ports: list } => ports("tcp", list),
        }
    }
}

/// `[[pool]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique, 1–63 characters as for the director's name.
    pub name: String,
    /// Size of the Maglev table: prime, at least 100 × backends, at most 5,000,011; default 65537.
    pub table_size: u32,
    /// Its servers go on with one another's transfers (Guideway's own do); needs TID ranges. Default false.
    pub takeover: bool,
    /// How the health controller checks the backends; without, they all count as up.
    pub check: Option<Check>,
    /// In the order of the file. At most 65,000 in all pools together.
    pub backends: Vec<Backend>,
}

/// One of `[[pool]] backends`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique in its pool, 1–63 characters as for the director's name.
    pub name: String,
    /// Where its GRE goes.
    pub address: IpAddr,
    /// 0–1000, default 100; 0 = no new flows.
    pub weight: u16,
    /// The server ports that are its own, inclusive, within 1024–65535. All backends of a pool have one or none has.
    pub tid_range: Option<(u16, u16)>,
    /// Gets no new flows and keeps those that it has, whatever its weight; default false.
    pub drain: bool,
}

/// `[[neighbour]]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// A backend's address, or a gateway's.
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac: [u8; 6],
}
