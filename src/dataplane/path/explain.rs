//! "Where would this packet go, and why?": the real stages, asked for one packet without changing anything.

use super::select::{self, By, Flow, Plan};
use super::site;
use crate::tables::Key;
use crate::tables::{Backend, Kind, ServiceId, Snapshot, TFTP_PORT};
use guideway_packet::verdict::Reason;
use std::net::SocketAddr;

/// TFTP's acknowledgement (RFC 1350 section 5).
const ACKNOWLEDGEMENT: u16 = 4;

/// Where a packet goes, and why.
#[derive(Clone, Debug)]
pub struct Explained<'t> {
    /// The service that it falls to.
    pub service: ServiceId,
    /// Its label.
    pub label: &'t str,
    /// What the choice depends on, for people.
    pub key: &'static str,
    /// Hash of that, if it was needed.
    pub hash: Option<u64>,
    /// Row of the Maglev table, if it was asked.
    pub row: Option<u32>,
    /// What named the backend.
    pub by: By,
    /// The backend.
    pub backend: &'t Backend,
    /// The backend that is down and in whose place it goes on.
    pub instead_of: Option<&'t Backend>,
    /// Whether the packet was taken for a TFTP request.
    pub request: bool,
    /// Whether the flow table of a running director may name another backend.
    pub flow_table: bool,
    /// Whether it is an acknowledgement to a port that lies in no TID range, although the pool's backends have some.
    pub stray: bool,
}

/// Explains a packet from `client` to `vip` of this transport protocol. To port 69 of a `tftp` service it is a read request,
/// to another port an acknowledgement. The flow table is taken to be empty.
///
/// # Errors
/// The reason for which the packet would be dropped.
pub fn explain<'t>(tables: &'t Snapshot, protocol: u8, client: SocketAddr, vip: SocketAddr) -> Result<Explained<'t>, Reason> {
    let entry = tables.vips.get(vip.ip()).ok_or(Reason::NotVip)?;
    let id = entry.service(protocol, vip.port()).ok_or(Reason::NoService)?;
    let service = &tables.services[usize::from(id)];
    let tftp = matches!(service.kind, Kind::Tftp(_));
    let request = tftp && vip.port() == TFTP_PORT;
    let opcode = tftp.then_some(if request { 1 } else { ACKNOWLEDGEMENT });
    let flow = Flow {
        service: id,
        protocol,
        client: client.ip(),
        vip: vip.ip(),
        client_port: client.port(),
        server_port: vip.port(),
        opcode,
        about: false,
    };
    let (backend, by, hash, row, flow_table) = match select::plan(&flow, false, tables)? {
        Plan::Chosen(choice) => (choice.backend, choice.by, None, None, false),
        Plan::Tables { hash, read, .. } => {
            let row_hash = select::row_hash(&flow, hash, tables);
            match select::maglev(row_hash, service) {
                Some(backend) => (backend, By::Maglev, Some(row_hash), Some(service.pool.maglev.row(row_hash)), read),
                None => (site::choose(&flow, false, tables).ok_or(Reason::NoBackend)?.backend, By::Site, Some(hash), None, read),
            }
        }
    };
    let backend = tables.backend(backend).ok_or(Reason::NoBackend)?;
    let key = match (by, service.kind) {
        (By::TidRange, _) => "server port",
        (By::Site, Kind::Tftp(_)) => "client address and port",
        (By::Heir, _) => "server port, client address and port",
        (_, Kind::Tftp(Key::Client)) => "client address",
        (_, Kind::Tftp(Key::Flow)) => "client address and port",
        (_, Kind::Flow) => "5-tuple",
    };
    let owner = service.pool.succession.orphaned(vip.port()).filter(|_| by == By::Heir);
    let instead_of = owner.and_then(|id| tables.backend(id));
    let stray = tftp && !request && service.pool.tid.is_some() && !matches!(by, By::TidRange | By::Site) && owner.is_none();
    Ok(Explained { service: id, label: &service.label, key, hash, row, by, backend, instead_of, request, flow_table, stray })
}
