//! What workers read: VIPs, services, pools and backends of one generation. Built by the one writer, immutable, swapped whole.

mod backend;
mod guard;
mod policy;
mod routers;
mod succession;
mod tid;
mod vips;

pub use backend::{Backend, BackendId, HEAD_V4, HEAD_V6, Head, HeadV4, HeadV6, NO_BACKEND, NextHop, Variable};
pub use guard::{Guard, nobody};
pub use policy::{Addresses, Admission, Echo, Key, Unmatched, Writes};
pub use routers::Routers;
pub use succession::{Member, Succession};
pub use tid::TidMap;
pub use vips::{ServiceId, Span, TFTP_PORT, TID_MIN, Vip, VipTable};

use crate::maglev::Table;
use guideway_hash::PacketHash;
use std::sync::Arc;

/// Everything that the packet path needs to know about the world.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts up with every change that the writer publishes.
    pub generation: u64,
    /// Link-layer address of our interface.
    pub mac: [u8; 6],
    /// MTU of our interface in bytes.
    pub mtu: u16,
    /// Where GRE from routers arrives; source of GRE to backends.
    pub address: Addresses,
    /// Who may send us GRE.
    pub routers: Routers,
    /// What becomes of GRE for an address that is no VIP.
    pub unmatched: Unmatched,
    /// What becomes of echo requests to a VIP.
    pub icmp_echo: Echo,
    /// (destination, protocol, port) → service
    pub vips: VipTable,
    /// By [`ServiceId`].
    pub services: Vec<Service>,
    /// Addresses of this director and of backends: no client has one of them.
    pub inside: Routers,
    /// Directors of the other site, by number: they get what no backend here can take.
    pub sites: Vec<BackendId>,
    /// Their addresses: what comes from there is not sent to another site again.
    pub site_addresses: Routers,
    /// By [`BackendId`]; directors of the other site are among them. A number that belongs to nobody is `None`.
    pub backends: Vec<Option<Backend>>,
    /// The keyed hashes of flows and fragments.
    pub hash: PacketHash,
}

impl Snapshot {
    /// The backend of this number.
    #[inline]
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(usize::from(id))?.as_ref()
    }
}

/// What is served at a VIP.
#[derive(Clone, Debug)]
pub struct Service {
    /// For people: `tftp`, `udp/53`, …
    pub label: String,
    /// TFTP steering, or plain flows.
    pub kind: Kind,
    /// The backends.
    pub pool: Arc<Pool>,
    /// A flow that is silent for so long is forgotten, in seconds.
    pub idle: u16,
    /// Takes no packets at all.
    pub paused: bool,
    /// There is another site, so a TID that lies in no range of the pool's is one of theirs.
    pub elsewhere: bool,
    /// What of the requests to a `tftp` service gets as far as a backend.
    pub guard: Arc<Guard>,
}

/// How a service's packets find their backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TFTP steering; the server's port is not part of the key.
    Tftp(Key),
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
    /// Server port → backend, when the pool has TID ranges. With takeover, ports of a backend that is down are not in it: see `succession`.
    pub tid: Option<Arc<TidMap>>,
    /// Who takes a backend's place.
    pub succession: Arc<Succession>,
}
