//! The one list of operations. Routes, the checks of requests, and the OpenAPI document are made from it.

use super::operation::{Document, Operation, Parameter, of};
use super::read::OpenApi;
use super::state::Api;
use super::{change, history, read, stream};
use crate::explain::{self, Destination};
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use guideway_api::backend::{BackendStatus, Backends};
use guideway_api::counters::PacketCounters;
use guideway_api::event::StreamMessage;
use guideway_api::explain::Explanation;
use guideway_api::history::History;
use guideway_api::intent::{BackendChange, BackendPut, Intent, Pool, Vip, VipChange};
use guideway_api::neighbour::Neighbours;
use guideway_api::plan::Plan;
use guideway_api::pool::{PoolStatus, Pools};
use guideway_api::state::ClusterState;
use guideway_api::status::{DirectorStatus, Maintenance, Reloaded};
use guideway_api::transfers::Transfers;
use guideway_api::vip::Vips;
use guideway_config::duration;
use guideway_store::{MAX_ENTRIES, MAX_REASON};
use std::sync::Arc;

const DRY_RUN: Parameter = Parameter {
    name: "dry_run",
    description: "true: say what the change would do, and change nothing",
    required: false,
    kind: "boolean",
    example: "true",
    check: |value| if matches!(value, "true" | "false") { Ok(()) } else { Err("is neither true nor false".to_owned()) },
};
const CONFIRM: Parameter = Parameter {
    name: "confirm",
    description: "true: make the change also if it leaves no VIP, or a pool without a backend for new requests",
    required: false,
    kind: "boolean",
    example: "true",
    check: DRY_RUN.check,
};
const REASON: Parameter = Parameter {
    name: "reason",
    description: "why, for the history and the log: at most 500 characters without control characters",
    required: false,
    kind: "string",
    example: "broken-disk",
    check: |value| match value.chars().count() {
        0 => Err("is empty".to_owned()),
        length if length > MAX_REASON => Err(format!("has {length} characters; at most {MAX_REASON} are kept")),
        _ if value.chars().any(char::is_control) => Err("has a control character".to_owned()),
        _ => Ok(()),
    },
};
const LIMIT: Parameter = Parameter {
    name: "limit",
    description: "how many changes, the newest first: 1 to 1000, default 20",
    required: false,
    kind: "integer",
    example: "20",
    check: |value| match value.parse() {
        Ok(1..=MAX_ENTRIES) => Ok(()),
        _ => Err(format!("is no number from 1 to {MAX_ENTRIES}")),
    },
};
const SERVICE: Parameter = Parameter {
    name: "service",
    description: "which service of the VIP, as /v1/vips writes it (tftp, udp/53); needed if it has several",
    required: false,
    kind: "string",
    example: "tftp",
    check: |_| Ok(()),
};
const POOL: Parameter = Parameter {
    name: "pool",
    description: "only the backends of this pool",
    required: false,
    kind: "string",
    example: "boot",
    check: |_| Ok(()),
};
const IDLE_TIMEOUT: Parameter = Parameter {
    name: "idle_timeout",
    description: "a transfer that was silent for so long has ended: 100ms to 1h, default 10s",
    required: false,
    kind: "string",
    example: "10s",
    check: |value| {
        let idle_timeout = duration::parse(value).map_err(|why| why.to_string())?;
        let limits = std::time::Duration::from_millis(100)..=std::time::Duration::from_secs(3600);
        if limits.contains(&idle_timeout) { Ok(()) } else { Err("is out of range; allowed: 100ms to 1h".to_owned()) }
    },
};
const SINCE: Parameter = Parameter {
    name: "since",
    description: "id of the event that was seen last, as the header Last-Event-ID; 0: all that are kept",
    required: false,
    kind: "integer",
    example: "0",
    check: |value| value.parse::<u64>().map(drop).map_err(|_| "is no id of an event, which is a number".to_owned()),
};
const CLIENT: Parameter = Parameter {
    name: "client",
    description: "address and port of the client",
    required: true,
    kind: "string",
    example: "198.51.100.7:2070",
    check: |value| explain::address(value).map(drop),
};
const TO: Parameter = Parameter {
    name: "to",
    description: "VIP, port and transport protocol (udp or tcp; udp if left out)",
    required: true,
    kind: "string",
    example: "192.0.2.69:69/udp",
    check: |value| value.parse::<Destination>().map(drop),
};

const NO_QUERY: &[Parameter] = &[];
const CHANGE: &[Parameter] = &[DRY_RUN, CONFIRM, REASON];
const VIP_CHANGE: &[Parameter] = &[DRY_RUN, CONFIRM, REASON, SERVICE];

/// An operation that reads.
const fn query_operation(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    query: &'static [Parameter],
    answer: Document,
    route: fn() -> MethodRouter<Arc<Api>>,
) -> Operation {
    Operation { method: "GET", path, id, summary, query, body: None, answer, route }
}

/// An operation that changes the intent; its answer is the plan.
const fn change_operation(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    query: &'static [Parameter],
    body: Option<Document>,
    route: fn() -> MethodRouter<Arc<Api>>,
) -> Operation {
    Operation { method, path, id, summary, query, body, answer: of::<Plan>(), route }
}

const BACKEND: &str = "/v1/pools/{pool}/backends/{backend}";
const ONE_VIP: &str = "/v1/vips/{address}";

/// All operations.
pub static OPERATIONS: &[Operation] = &[
    query_operation("/v1/status", "status", "What the director does, in one document.", NO_QUERY, of::<DirectorStatus>(), || {
        get(read::status)
    }),
    query_operation("/v1/vips", "vips", "The VIPs that it serves, with the fingerprint of each table.", NO_QUERY, of::<Vips>(), || {
        get(read::vips)
    }),
    query_operation("/v1/pools", "pools", "The pools with their backends.", NO_QUERY, of::<Pools>(), || get(read::pools)),
    query_operation("/v1/pools/{pool}", "pool", "One pool.", NO_QUERY, of::<PoolStatus>(), || get(read::pool)),
    query_operation("/v1/backends", "backends", "All backends, those that end their transfers too.", &[POOL], of::<Backends>(), || {
        get(read::backends)
    }),
    query_operation(BACKEND, "backend", "One backend.", NO_QUERY, of::<BackendStatus>(), || get(read::backend)),
    query_operation(
        "/v1/pools/{pool}/backends/{backend}/transfers",
        "transfers",
        "What still runs on a backend that is drained, down or removed, as its packets show.",
        &[IDLE_TIMEOUT],
        of::<Transfers>(),
        || get(read::transfers),
    ),
    query_operation("/v1/neighbours", "neighbours", "Next hops towards the backends.", NO_QUERY, of::<Neighbours>(), || {
        get(read::neighbours)
    }),
    query_operation("/v1/counters", "counters", "What became of every packet.", NO_QUERY, of::<PacketCounters>(), || get(read::counters)),
    query_operation(
        "/v1/explain",
        "explain",
        "Where a packet would go, and why. The tables answer; a worker's flow table may know better, and `flow_table_consulted` says when.",
        &[CLIENT, TO],
        of::<Explanation>(),
        || get(read::explain),
    ),
    query_operation("/v1/intent", "intent", "What is wanted, whole; its ETag is its generation.", NO_QUERY, of::<Intent>(), || {
        get(read::intent)
    }),
    query_operation(
        "/v1/state",
        "cluster_state",
        "The cluster state in force, intent and health: what `guideway store restore` writes into a lost store.",
        NO_QUERY,
        of::<ClusterState>(),
        || get(read::cluster_state),
    ),
    query_operation("/v1/events", "events", "What happens, as server-sent events.", &[SINCE], of::<StreamMessage>(), || {
        get(stream::events)
    }),
    query_operation(
        "/v1/history",
        "history",
        "Who changed the intent, from where, when, why, and what.",
        &[LIMIT],
        of::<History>(),
        || get(history::history),
    ),
    query_operation("/v1/openapi.json", "openapi", "This document.", NO_QUERY, of::<OpenApi>(), || get(read::openapi)),
    query_operation(
        "/v1/maintenance",
        "maintenance",
        "Whether it is in maintenance, and what still comes.",
        NO_QUERY,
        of::<Maintenance>(),
        || get(read::maintenance),
    ),
    Operation {
        method: "POST",
        path: "/v1/maintenance/on",
        id: "maintenance_on",
        summary: "Withdraws all VIPs; what still comes is forwarded.",
        query: NO_QUERY,
        body: None,
        answer: of::<Maintenance>(),
        route: || post(change::maintenance_on),
    },
    Operation {
        method: "POST",
        path: "/v1/maintenance/off",
        id: "maintenance_off",
        summary: "Announces the VIPs again.",
        query: NO_QUERY,
        body: None,
        answer: of::<Maintenance>(),
        route: || post(change::maintenance_off),
    },
    Operation {
        method: "POST",
        path: "/v1/reload",
        id: "reload",
        summary: "Reads the file and the files that it names again, as SIGHUP does, and answers when that is done.",
        query: &[REASON],
        body: None,
        answer: of::<Reloaded>(),
        route: || post(change::reload),
    },
    change_operation("PUT", "/v1/intent", "put_intent", "Replaces all that is wanted.", CHANGE, Some(of::<Intent>()), || {
        put(change::put_intent)
    }),
    change_operation(
        "POST",
        "/v1/history/{generation}/rollback",
        "rollback",
        "Makes the intent again what it was at a generation, as a new change.",
        CHANGE,
        None,
        || post(history::rollback),
    ),
    change_operation("POST", "/v1/pools", "add_pool", "Adds a pool.", CHANGE, Some(of::<Pool>()), || post(change::add_pool)),
    change_operation("DELETE", "/v1/pools/{pool}", "delete_pool", "Removes a pool that no VIP uses.", CHANGE, None, || {
        delete(change::delete_pool)
    }),
    change_operation("PUT", BACKEND, "put_backend", "Adds a backend, or replaces it.", CHANGE, Some(of::<BackendPut>()), || {
        put(change::put_backend)
    }),
    change_operation("PATCH", BACKEND, "patch_backend", "Changes what the body names.", CHANGE, Some(of::<BackendChange>()), || {
        patch(change::patch_backend)
    }),
    change_operation("DELETE", BACKEND, "delete_backend", "Removes a backend; its transfers go on.", CHANGE, None, || {
        delete(change::delete_backend)
    }),
    change_operation(
        "POST",
        "/v1/pools/{pool}/backends/{backend}/drain",
        "drain",
        "Gives a backend no new requests; what runs there goes on.",
        CHANGE,
        None,
        || post(change::drain),
    ),
    change_operation(
        "POST",
        "/v1/pools/{pool}/backends/{backend}/undrain",
        "undrain",
        "Gives a drained backend new requests again.",
        CHANGE,
        None,
        || post(change::undrain),
    ),
    change_operation("POST", "/v1/vips", "add_vip", "Adds a VIP.", CHANGE, Some(of::<Vip>()), || post(change::add_vip)),
    change_operation("PATCH", ONE_VIP, "patch_vip", "Changes what the body names, or pauses.", VIP_CHANGE, Some(of::<VipChange>()), || {
        patch(change::patch_vip)
    }),
    change_operation("DELETE", ONE_VIP, "delete_vip", "Removes a VIP.", VIP_CHANGE, None, || delete(change::delete_vip)),
];
