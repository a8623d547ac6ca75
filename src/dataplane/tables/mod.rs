//! The tables that workers read: VIPs, services, pools and backends of one generation. Built by the one writer, immutable, swapped whole.

mod backend;
mod fleet;
mod policy;
mod prefix_set;
mod request_policy;
mod successors;
mod tid;
mod vips;

pub use backend::{
    Backend, BackendId, ENCAP_LEN_V4, ENCAP_LEN_V6, EncapFields, EncapHeader, EncapHeaderV4, EncapHeaderV4Sources, EncapHeaderV6,
    NO_BACKEND, NextHop, OutputInterface,
};
pub use fleet::{FLEET_TABLE_SIZE, Fleet, MAX_DIRECTORS};
pub use policy::{Addresses, Admission, Echo, HashKey, Unmatched, Writes};
pub use prefix_set::PrefixSet;
pub use request_policy::{RequestPolicy, is_bogus_source};
pub use successors::{Member, Successors};
pub use tid::TidMap;
pub use vips::{PortRange, ServiceId, TFTP_PORT, TID_MIN, Vip, VipTable};

use crate::maglev::Table;
use guideway_hash::PacketHasher;
use std::sync::Arc;

/// All tables of one generation.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts up with every change that the writer publishes.
    pub generation: u64,
    /// Link-layer address of our interface.
    pub mac: [u8; 6],
    /// MTU of our interface in bytes.
    pub mtu: u16,
    /// Destination of GRE from routers, and source of GRE to backends.
    pub address: Addresses,
    /// Addresses that may send us GRE.
    pub routers: PrefixSet,
    /// The policy for GRE to an address that is no VIP.
    pub unmatched: Unmatched,
    /// The policy for echo requests to a VIP.
    pub icmp_echo: Echo,
    /// (destination, protocol, port) → service
    pub vips: VipTable,
    /// By [`ServiceId`].
    pub services: Vec<Service>,
    /// Addresses of this director and of backends: no client has one of them.
    pub internal_addresses: PrefixSet,
    /// Directors of the remote site, by number. They get packets that no local backend can take.
    pub remote_site_directors: Vec<BackendId>,
    /// Their addresses. Packets from there are not sent to a remote site again.
    pub remote_site_addresses: PrefixSet,
    /// The directors of this fleet, among which datagrams in fragments are divided.
    pub fleet: Fleet,
    /// The server of this host, if it is a backend: it gets GRE that no router sent.
    pub local_server: Option<BackendId>,
    /// By [`BackendId`]; directors of the remote site and of the fleet are among them. An unused id is `None`.
    pub backends: Vec<Option<Backend>>,
    /// The keyed hashes of flows and fragments.
    pub hash: PacketHasher,
}

impl Snapshot {
    /// The backend of this number.
    #[inline]
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(usize::from(id))?.as_ref()
    }
}

/// A service of a VIP.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its label for operators: `tftp`, `udp/53`, …
    pub label: String,
    /// TFTP steering, or plain flows.
    pub kind: ServiceKind,
    /// The backends.
    pub pool: Arc<Pool>,
    /// Seconds after which an idle flow is forgotten.
    pub idle: u16,
    /// Takes no packets at all.
    pub paused: bool,
    /// There is a remote site, so a TID outside the pool's ranges belongs to it.
    pub has_remote_site: bool,
    /// Which requests to a `tftp` service are forwarded.
    pub request_policy: Arc<RequestPolicy>,
}

/// How a service's packets find their backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// TFTP steering; the server's port is not part of the key.
    Tftp(HashKey),
    /// UDP or TCP by 5-tuple.
    Flow,
}

/// The backends behind one or more services.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Chooses for new flows. Its entries are indices into `members`.
    pub maglev: Arc<Table>,
    /// Backend numbers in the order of the Maglev table's backends (sorted by name).
    pub members: Vec<BackendId>,
    /// Server port → backend, when the pool has TID ranges. With takeover, ports of a backend that is down are in [`Successors`] instead.
    pub tid: Option<Arc<TidMap>>,
    /// The successors of each backend.
    pub successors: Arc<Successors>,
}
