//! Fifth stage: from a flow to a backend. TFTP steering (its request, or the owner of the TID), else flow table, else Maglev.
//!
//! [`plan`] needs no state. [`finish`] reads and writes the flow table, after its cache line was fetched.

use super::choice::{Choice, SelectedBy};
use super::flow::{Flow, Relation};
use super::{remote_site, request_policy, successor};
use crate::flow::FlowTable;
use crate::tables::{Backend, BackendId, Service, ServiceKind, Snapshot, TFTP_PORT, TID_MIN};
use guideway_packet::time::Time;
use guideway_packet::verdict::Reason;
use guideway_packet::wire::layout::tftp::{OPTION_ACKNOWLEDGEMENT, READ_REQUEST, WRITE_REQUEST};
use std::sync::Arc;

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

/// The steering of a packet, which depends on its service, server port and opcode alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Steering {
    /// The server's port lies in the TID range of this backend.
    Owner(BackendId),
    /// The port lies in no range of a backend that is up, and either servers of this pool take over transfers or there is a remote site.
    Orphan,
    /// A request, which names no backend yet. It has to pass the request policy.
    Request {
        /// Whether the flow table shall remember the choice.
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

/// Steers a packet: by its TID, or by the tables.
#[inline(always)]
pub(super) fn steer(service: &Service, server_port: u16, opcode: Option<u16>, related: bool) -> Result<Steering, Reason> {
    if service.paused {
        return Err(Reason::ServicePaused);
    }
    let ServiceKind::Tftp(_) = service.kind else { return Ok(Steering::Tables { read: true, learn: !related }) };
    let opcode = opcode.filter(|opcode| (READ_REQUEST..=OPTION_ACKNOWLEDGEMENT).contains(opcode));
    if opcode.is_none() && !related {
        return Err(Reason::NotTftp);
    }
    // A request names no backend yet, and never reads the flow table: GRUB comes back on the ports of its last boot.
    let request = matches!(opcode, Some(READ_REQUEST | WRITE_REQUEST)) && server_port == TFTP_PORT;
    if request {
        // With ranges no transfer depends on the flow table, so none is inserted.
        return Ok(Steering::Request { learn: service.pool.tid.is_none() });
    }
    if let Some(tid) = &service.pool.tid {
        if let Some(backend) = tid.owner(server_port) {
            return Ok(Steering::Owner(backend));
        }
        let orphan = (service.pool.successors.takeover || service.has_remote_site) && server_port >= TID_MIN;
        return Ok(if orphan { Steering::Orphan } else { Steering::Tables { read: false, learn: false } });
    }
    Ok(Steering::Tables { read: true, learn: !related })
}

/// Decides as much as needs no state. A packet that came from a remote site is not sent to a third one.
#[inline]
pub fn plan(flow: &Flow, from_remote_site: bool, tables: &Snapshot) -> Result<Plan, Reason> {
    let service = &tables.services[usize::from(flow.service)];
    match steer(service, flow.server_port, flow.opcode, flow.related)? {
        // The owner of a TID range keeps its transfers, whatever its weight, for as long as it is in the tables and up.
        Steering::Owner(backend) => Ok(Plan::Chosen(Choice { backend, by: SelectedBy::TidRange })),
        Steering::Orphan => {
            let elsewhere = remote_site::choose_for_unknown_tid(flow, service, from_remote_site, tables);
            let choice = elsewhere.or_else(|| successor::choose_successor(flow, service, tables));
            Ok(choice.map_or_else(|| Plan::Tables { hash: flow.hash(tables), read: false, learn: false }, Plan::Chosen))
        }
        Steering::Request { learn } => {
            request_policy::check(flow, service, tables)?;
            Ok(Plan::Tables { hash: flow.hash(tables), read: false, learn })
        }
        Steering::Tables { read, learn } => Ok(Plan::Tables { hash: flow.hash(tables), read, learn }),
    }
}

/// Completes `plan` for a packet of `service`. Returns the choice, and the backend if there is one of that number. Calls `row_hash` only if the Maglev table is needed.
#[inline(always)]
pub fn finish<'t>(
    plan: &Plan,
    service: &Service,
    relation: Relation,
    row_hash: impl FnOnce(u64) -> u64,
    tables: &'t Snapshot,
    flows: &mut FlowTable,
    now: Time,
) -> Result<(Choice, Option<&'t Backend>), Reason> {
    let (hash, read, learn) = match plan {
        Plan::Chosen(choice) => return Ok((*choice, tables.backend(choice.backend))),
        Plan::Tables { hash, read, learn } => (*hash, *read, learn),
    };
    if read && let Some((id, backend)) = lookup_flow_table(hash, service, relation, tables, flows, now) {
        return Ok((Choice { backend: id, by: SelectedBy::Flow }, Some(backend)));
    }
    if read
        && flows.may_be_elsewhere(now)
        && let Some((id, backend)) = lookup_elsewhere(hash, service, relation, tables, flows, now)
    {
        return Ok((Choice { backend: id, by: SelectedBy::Flow }, Some(backend)));
    }
    let id = maglev(row_hash(hash), service).ok_or(Reason::NoBackend)?;
    if *learn {
        flows.insert(hash, id, now, service.idle);
    }
    Ok((Choice { backend: id, by: SelectedBy::Maglev }, tables.backend(id)))
}

/// Returns the backend that the flow table holds, if it still serves this pool. A backend that is down keeps its transfers, which no other could continue;
/// other flows are chosen anew.
#[inline(always)]
fn lookup_flow_table<'t>(
    hash: u64,
    service: &Service,
    relation: Relation,
    tables: &'t Snapshot,
    flows: &mut FlowTable,
    now: Time,
) -> Option<(BackendId, &'t Backend)> {
    let id = if relation == Relation::About { flows.peek(hash, now)?.backend } else { flows.lookup(hash, now, service.idle)? };
    let backend = tables.backend(id)?;
    // A service's own name, but for backends whose pool was built anew.
    let serves = Arc::ptr_eq(&backend.pool, &service.pool.name) || same_name(&backend.pool, &service.pool.name);
    let opening = relation == Relation::Opening && backend.draining;
    (serves && !(backend.down && service.kind == ServiceKind::Flow) && !opening).then_some((id, backend))
}

#[cold]
fn same_name(one: &str, other: &str) -> bool {
    one == other
}

/// The same for a flow that a fragment opened at another worker.
#[cold]
#[inline(never)]
fn lookup_elsewhere<'t>(
    hash: u64,
    service: &Service,
    relation: Relation,
    tables: &'t Snapshot,
    flows: &mut FlowTable,
    now: Time,
) -> Option<(BackendId, &'t Backend)> {
    flows.adopt(hash, now);
    lookup_flow_table(hash, service, relation, tables, flows, now)
}

/// The backend in the row of the service's Maglev table that `hash` falls on.
#[inline]
pub fn maglev(hash: u64, service: &Service) -> Option<BackendId> {
    let member = service.pool.maglev.choose(hash)?;
    service.pool.members.get(usize::from(member)).copied()
}
