//! "Where would this packet go, and why?": runs the real stages for one packet without changing anything.

use super::choice::SelectedBy;
use super::flow::Flow;
use super::remote_site;
use super::select::{self, Plan};
use crate::tables::HashKey;
use crate::tables::{Backend, ServiceId, ServiceKind, Snapshot, TFTP_PORT};
use guideway_packet::verdict::Reason;
use guideway_packet::wire::layout::tftp::{ACKNOWLEDGEMENT, READ_REQUEST};
use std::net::SocketAddr;

/// Where a packet goes, and why.
#[derive(Clone, Debug)]
pub struct Explanation<'t> {
    /// Its service.
    pub service: ServiceId,
    /// Its label.
    pub label: &'t str,
    /// The fields that the choice depends on, as text.
    pub key: &'static str,
    /// Hash of these fields, if it was needed.
    pub hash: Option<u64>,
    /// Row of the Maglev table, if it was used.
    pub row: Option<u32>,
    /// What named the backend.
    pub by: SelectedBy,
    /// The backend.
    pub backend: &'t Backend,
    /// The owner of the transfer, which is down and whose successor takes the packet.
    pub failed_owner: Option<&'t Backend>,
    /// Whether the packet was taken for a TFTP request.
    pub request: bool,
    /// Whether the flow table of a running director may name another backend.
    pub flow_table: bool,
    /// Whether it is an acknowledgement to a port that lies in no TID range, although the pool's backends have some.
    pub unknown_tid: bool,
}

/// Explains a packet from `client` to `vip` of this transport protocol. To port 69 of a `tftp` service it is a read request,
/// to another port an acknowledgement. The flow table is taken to be empty.
///
/// # Errors
/// The reason for which the packet would be dropped.
pub fn explain<'t>(tables: &'t Snapshot, protocol: u8, client: SocketAddr, vip: SocketAddr) -> Result<Explanation<'t>, Reason> {
    let entry = tables.vips.get(vip.ip()).ok_or(Reason::NotVip)?;
    let id = entry.service(protocol, vip.port()).ok_or(Reason::NoService)?;
    let service = &tables.services[usize::from(id)];
    let tftp = matches!(service.kind, ServiceKind::Tftp(_));
    let request = tftp && vip.port() == TFTP_PORT;
    let opcode = tftp.then_some(if request { READ_REQUEST } else { ACKNOWLEDGEMENT });
    let flow = Flow {
        service: id,
        protocol,
        client: client.ip(),
        vip: vip.ip(),
        client_port: client.port(),
        server_port: vip.port(),
        opcode,
        opens_connection: false,
        related: false,
    };
    let (backend, by, hash, row, flow_table) = match select::plan(&flow, false, tables)? {
        Plan::Chosen(choice) => (choice.backend, choice.by, None, None, false),
        Plan::Tables { hash, read, .. } => {
            let row_hash = flow.row_hash(hash, tables);
            match select::maglev(row_hash, service) {
                Some(backend) => (backend, SelectedBy::Maglev, Some(row_hash), Some(service.pool.maglev.row(row_hash)), read),
                None => (
                    remote_site::choose(&flow, false, tables).ok_or(Reason::NoBackend)?.backend,
                    SelectedBy::RemoteSite,
                    Some(hash),
                    None,
                    read,
                ),
            }
        }
    };
    let backend = tables.backend(backend).ok_or(Reason::NoBackend)?;
    let key = match (by, service.kind) {
        (SelectedBy::TidRange, _) => "server port",
        (SelectedBy::RemoteSite, ServiceKind::Tftp(_)) => "client address and port",
        (SelectedBy::Successor, _) => "server port, client address and port",
        (_, ServiceKind::Tftp(HashKey::Client)) => "client address",
        (_, ServiceKind::Tftp(HashKey::Flow)) => "client address and port",
        (_, ServiceKind::Flow) => "5-tuple",
    };
    let owner = service.pool.successors.orphaned(vip.port()).filter(|_| by == SelectedBy::Successor);
    let failed_owner = owner.and_then(|id| tables.backend(id));
    let unknown_tid =
        tftp && !request && service.pool.tid.is_some() && !matches!(by, SelectedBy::TidRange | SelectedBy::RemoteSite) && owner.is_none();
    Ok(Explanation { service: id, label: &service.label, key, hash, row, by, backend, failed_owner, request, flow_table, unknown_tid })
}
