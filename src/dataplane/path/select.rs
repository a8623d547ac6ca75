//! Fifth stage: from a flow to a backend. TFTP steering (its request, or the owner of the TID), else flow table, else Maglev.
//!
//! What needs no state is decided in [`plan`]; what reads or writes the flow table in [`finish`], after its cache line was fetched.

use super::{guard, heir, site};
use crate::counters::Number;
use crate::flow::FlowTable;
use crate::tables::Key;
use crate::tables::{Backend, BackendId, Kind, Service, ServiceId, Snapshot, TFTP_PORT, TID_MIN};
use guideway_packet::time::Time;
use guideway_packet::verdict::Reason;
use std::net::IpAddr;
use std::sync::Arc;

/// One client's conversation with a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The service at the VIP.
    pub service: ServiceId,
    /// Transport protocol.
    pub protocol: u8,
    /// The client's address.
    pub client: IpAddr,
    /// The VIP.
    pub vip: IpAddr,
    /// The client's port: its TID, in TFTP.
    pub client_port: u16,
    /// The port at the VIP: the server's TID, or 69.
    pub server_port: u16,
    /// First 16 bits of the UDP payload.
    pub opcode: Option<u16>,
    /// The packet is *about* the flow (ICMP) and not of it: it neither starts nor refreshes anything.
    pub about: bool,
}

impl Flow {
    /// A TFTP request: it names no backend yet.
    pub(super) fn is_request(&self, service: &Service) -> bool {
        let Kind::Tftp(_) = service.kind else { return false };
        !self.about && self.server_port == TFTP_PORT && matches!(self.opcode, Some(READ_REQUEST | WRITE_REQUEST))
    }
}

/// What named the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The TID range that the server's port lies in.
    TidRange,
    /// The flow table.
    Flow,
    /// The Maglev table.
    Maglev,
    /// Another backend's absence: it is down, or leaves the request unanswered.
    Heir,
    /// Nobody here: no backend takes the packet, or its server port is none of theirs, and a director of the other site gets it.
    Site,
}

impl By {
    /// The counter of packets whose backend was named so.
    pub fn number(self) -> Number {
        match self {
            By::TidRange => Number::ByTidRange,
            By::Flow => Number::ByFlow,
            By::Maglev => Number::ByMaglev,
            By::Heir => Number::ByHeir,
            By::Site => Number::BySite,
        }
    }

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            By::TidRange => "tid_range",
            By::Flow => "flow",
            By::Maglev => "maglev",
            By::Heir => "heir",
            By::Site => "site",
        }
    }
}

/// A chosen backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its number.
    pub backend: BackendId,
    /// What named it.
    pub by: By,
}

/// What is left to do for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the server's port names the backend.
    Chosen(Choice),
    /// Look into the tables.
    Tables {
        /// Hash of the flow.
        hash: u64,
        /// Whether the flow table may name the backend.
        read: bool,
        /// Whether the flow table shall remember the choice.
        learn: bool,
    },
}

/// TFTP's opcodes (RFC 1350 section 5, RFC 2347).
pub(super) const READ_REQUEST: u16 = 1;
pub(super) const WRITE_REQUEST: u16 = 2;
const OPTION_ACKNOWLEDGEMENT: u16 = 6;

/// What can be said of a packet by its service, server port and opcode alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Steering {
    /// The server's port lies in the TID range of this backend.
    Owner(BackendId),
    /// It lies in none of a backend that is up; servers of this pool go on with one another's transfers, or another site has a server of this port.
    Orphan,
    /// A request, which names nobody yet. It has to pass the guard.
    Request {
        /// Whether the flow table shall remember who gets it.
        learn: bool,
    },
    /// The tables name the backend.
    Tables {
        /// Whether the flow table may.
        read: bool,
        /// Whether the flow table shall remember the choice.
        learn: bool,
    },
}

/// TFTP steering, and what the flow table has to do with a packet.
#[inline(always)]
pub(super) fn steer(service: &Service, server_port: u16, opcode: Option<u16>, about: bool) -> Result<Steering, Reason> {
    if service.paused {
        return Err(Reason::ServicePaused);
    }
    let Kind::Tftp(_) = service.kind else { return Ok(Steering::Tables { read: true, learn: !about }) };
    let opcode = opcode.filter(|opcode| (READ_REQUEST..=OPTION_ACKNOWLEDGEMENT).contains(opcode));
    if opcode.is_none() && !about {
        return Err(Reason::NotTftp);
    }
    // A request names nobody yet, and never reads the flow table: GRUB comes back on the ports of its last boot.
    let request = matches!(opcode, Some(READ_REQUEST | WRITE_REQUEST)) && server_port == TFTP_PORT;
    if request {
        // With ranges no transfer depends on the flow table, so none is put there.
        return Ok(Steering::Request { learn: service.pool.tid.is_none() });
    }
    if let Some(tid) = &service.pool.tid {
        if let Some(backend) = tid.owner(server_port) {
            return Ok(Steering::Owner(backend));
        }
        let orphan = (service.pool.succession.takeover || service.elsewhere) && server_port >= TID_MIN;
        return Ok(if orphan { Steering::Orphan } else { Steering::Tables { read: false, learn: false } });
    }
    Ok(Steering::Tables { read: true, learn: !about })
}

/// Decides what can be decided without state. What has `hopped` here from another site does not go on to a third one.
#[inline]
pub fn plan(flow: &Flow, hopped: bool, tables: &Snapshot) -> Result<Plan, Reason> {
    let service = &tables.services[usize::from(flow.service)];
    match steer(service, flow.server_port, flow.opcode, flow.about)? {
        // The owner of a TID range keeps its transfers, whatever its weight, for as long as it is in the tables and up.
        Steering::Owner(backend) => Ok(Plan::Chosen(Choice { backend, by: By::TidRange })),
        Steering::Orphan => Ok(match site::stray(flow, service, hopped, tables).or_else(|| heir::stand_in(flow, service, tables)) {
            Some(choice) => Plan::Chosen(choice),
            None => Plan::Tables { hash: hash(flow, tables), read: false, learn: false },
        }),
        Steering::Request { learn } => {
            guard::check(flow, service, tables)?;
            Ok(Plan::Tables { hash: hash(flow, tables), read: false, learn })
        }
        Steering::Tables { read, learn } => Ok(Plan::Tables { hash: hash(flow, tables), read, learn }),
    }
}

/// Hash of a flow: of its 5-tuple, but that of a `tftp` service leaves out the server's port, which changes within a transfer.
#[inline]
pub fn hash(flow: &Flow, tables: &Snapshot) -> u64 {
    let server_port = match tables.services[usize::from(flow.service)].kind {
        Kind::Tftp(_) => 0,
        Kind::Flow => flow.server_port,
    };
    match (flow.client, flow.vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => tables.hash.flow_v4(flow.protocol, client, vip, flow.client_port, server_port),
        (client, vip) => tables.hash.flow_v6(flow.protocol, v6(client), v6(vip), flow.client_port, server_port),
    }
}

/// Hash that chooses the row of the Maglev table: that of the flow, or that of the client alone.
#[inline]
pub fn row_hash(flow: &Flow, flow_hash: u64, tables: &Snapshot) -> u64 {
    match tables.services[usize::from(flow.service)].kind {
        Kind::Tftp(Key::Client) => tables.hash.client(flow.client, flow.vip),
        Kind::Tftp(Key::Flow) | Kind::Flow => flow_hash,
    }
}

fn v6(address: IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

/// Does what `plan` left to do for a packet of `service`: the choice, and the backend if there is one of that number. `about` as in [`Flow`]. `row_hash` is
/// asked for only when the Maglev table is.
#[inline(always)]
pub fn finish<'t>(
    plan: &Plan,
    service: &Service,
    about: bool,
    row_hash: impl FnOnce(u64) -> u64,
    tables: &'t Snapshot,
    flows: &mut FlowTable,
    now: Time,
) -> Result<(Choice, Option<&'t Backend>), Reason> {
    let (hash, read, learn) = match plan {
        Plan::Chosen(choice) => return Ok((*choice, tables.backend(choice.backend))),
        Plan::Tables { hash, read, learn } => (*hash, read, learn),
    };
    if *read && let Some((id, backend)) = remembered(hash, service, about, tables, flows, now) {
        return Ok((Choice { backend: id, by: By::Flow }, Some(backend)));
    }
    let id = maglev(row_hash(hash), service).ok_or(Reason::NoBackend)?;
    if *learn {
        flows.insert(hash, id, now, service.idle);
    }
    Ok((Choice { backend: id, by: By::Maglev }, tables.backend(id)))
}

/// The backend that the flow table holds, if it still serves this pool. One that is down keeps its transfers, which nobody else could go on with; other
/// flows are chosen anew.
#[inline(always)]
fn remembered<'t>(
    hash: u64,
    service: &Service,
    about: bool,
    tables: &'t Snapshot,
    flows: &mut FlowTable,
    now: Time,
) -> Option<(BackendId, &'t Backend)> {
    let id = if about { flows.peek(hash, now)?.backend } else { flows.lookup(hash, now, service.idle)? };
    let backend = tables.backend(id)?;
    let serves = Arc::ptr_eq(&backend.pool, &service.pool.name) || backend.pool == service.pool.name;
    (serves && !(backend.down && service.kind == Kind::Flow)).then_some((id, backend))
}

/// The backend in the row of the service's Maglev table that `hash` falls on.
#[inline]
pub fn maglev(hash: u64, service: &Service) -> Option<BackendId> {
    let member = service.pool.maglev.choose(hash)?;
    service.pool.members.get(usize::from(member)).copied()
}
