//! The one list of what the interface does. Routes, the checks of requests, and the OpenAPI document are made from it.

use super::{Api, change, read, stream};
use crate::explained::{self, Destination};
use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use guideway_config::duration;
use std::sync::Arc;

/// One thing that can be asked.
pub struct Operation {
    /// `GET`, `PUT`, …
    pub method: &'static str,
    /// As OpenAPI and axum write it: `/v1/pools/{pool}`.
    pub path: &'static str,
    /// Its name in the document.
    pub id: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// What may stand behind the `?`.
    pub query: &'static [Parameter],
    /// The schema of its body, if it takes one.
    pub body: Option<&'static str>,
    /// The schema of its answer.
    pub answer: &'static str,
    /// What axum routes to.
    pub route: fn() -> MethodRouter<Arc<Api>>,
}

/// A parameter of a query.
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it does, and what it looks like.
    pub about: &'static str,
    /// Whether it must be given.
    pub required: bool,
    /// Its JSON type.
    pub kind: &'static str,
    /// A good value.
    pub example: &'static str,
    /// Says what is wrong with a value.
    pub check: fn(&str) -> Result<(), String>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Operation {
    /// Whether it changes the intent.
    pub fn changes(&self) -> bool {
        self.method != "GET"
    }

    /// The names in the path.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// The operation of a method at a route.
pub fn find(method: &Method, path: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.path == path && operation.method == method.as_str())
}

const DRY_RUN: Parameter = Parameter {
    name: "dry_run",
    about: "true: say what the change would do, and change nothing",
    required: false,
    kind: "boolean",
    example: "true",
    check: |value| if matches!(value, "true" | "false") { Ok(()) } else { Err("is neither true nor false".to_owned()) },
};
const SERVICE: Parameter = Parameter {
    name: "service",
    about: "which service of the VIP, as /v1/vips writes it (tftp, udp/53); needed if it has several",
    required: false,
    kind: "string",
    example: "tftp",
    check: |_| Ok(()),
};
const POOL: Parameter = Parameter {
    name: "pool",
    about: "only the backends of this pool",
    required: false,
    kind: "string",
    example: "boot",
    check: |_| Ok(()),
};
const QUIET: Parameter = Parameter {
    name: "quiet",
    about: "a transfer that was silent for so long has ended: 100ms to 1h, default 10s",
    required: false,
    kind: "string",
    example: "10s",
    check: |value| {
        let quiet = duration::parse(value).map_err(|why| why.to_string())?;
        let limits = std::time::Duration::from_millis(100)..=std::time::Duration::from_secs(3600);
        if limits.contains(&quiet) { Ok(()) } else { Err("is outside of what is allowed: 100ms to 1h".to_owned()) }
    },
};
const SINCE: Parameter = Parameter {
    name: "since",
    about: "id of the event that was seen last, as the header Last-Event-ID; 0: all that are kept",
    required: false,
    kind: "integer",
    example: "0",
    check: |value| value.parse::<u64>().map(drop).map_err(|_| "is no id of an event, which is a number".to_owned()),
};
const CLIENT: Parameter = Parameter {
    name: "client",
    about: "address and port of the client",
    required: true,
    kind: "string",
    example: "198.51.100.7:2070",
    check: |value| explained::address(value).map(drop),
};
const TO: Parameter = Parameter {
    name: "to",
    about: "VIP, port and transport protocol (udp or tcp; udp if left out)",
    required: true,
    kind: "string",
    example: "192.0.2.69:69/udp",
    check: |value| value.parse::<Destination>().map(drop),
};

const NO_QUERY: &[Parameter] = &[];
const CHANGE: &[Parameter] = &[DRY_RUN];
const VIP_CHANGE: &[Parameter] = &[DRY_RUN, SERVICE];

/// A question without a body.
const fn asks(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    query: &'static [Parameter],
    answer: &'static str,
    route: fn() -> MethodRouter<Arc<Api>>,
) -> Operation {
    Operation { method: "GET", path, id, summary, query, body: None, answer, route }
}

/// A change, which is answered with its plan.
const fn does(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    query: &'static [Parameter],
    body: Option<&'static str>,
    route: fn() -> MethodRouter<Arc<Api>>,
) -> Operation {
    Operation { method, path, id, summary, query, body, answer: "Plan", route }
}

const BACKEND: &str = "/v1/pools/{pool}/backends/{backend}";
const ONE_VIP: &str = "/v1/vips/{address}";

/// Everything.
pub static OPERATIONS: &[Operation] = &[
    asks("/v1/status", "status", "What the director does, in one document.", NO_QUERY, "Status", || get(read::status)),
    asks("/v1/vips", "vips", "The VIPs that it serves, with the fingerprint of each table.", NO_QUERY, "Vips", || get(read::vips)),
    asks("/v1/pools", "pools", "The pools with their backends.", NO_QUERY, "Pools", || get(read::pools)),
    asks("/v1/pools/{pool}", "pool", "One pool.", NO_QUERY, "PoolState", || get(read::pool)),
    asks("/v1/backends", "backends", "All backends, those that end their transfers too.", &[POOL], "Backends", || get(read::backends)),
    asks(BACKEND, "backend", "One backend.", NO_QUERY, "BackendState", || get(read::backend)),
    asks(
        "/v1/pools/{pool}/backends/{backend}/transfers",
        "transfers",
        "What still runs on a backend that is drained, down or removed, as its packets show.",
        &[QUIET],
        "Transfers",
        || get(read::transfers),
    ),
    asks("/v1/neighbours", "neighbours", "Next hops towards the backends.", NO_QUERY, "Neighbours", || get(read::neighbours)),
    asks("/v1/counters", "counters", "What became of every packet.", NO_QUERY, "Counters", || get(read::counters)),
    asks(
        "/v1/explain",
        "explain",
        "Where a packet would go, and why. The tables answer; a worker's flow table may know better, and `flow_table_first` says when.",
        &[CLIENT, TO],
        "Explained",
        || get(read::explain),
    ),
    asks("/v1/intent", "intent", "What is wanted, whole; its ETag is its generation.", NO_QUERY, "Intent", || get(read::intent)),
    asks("/v1/events", "events", "What happens, as server-sent events.", &[SINCE], "Event", || get(stream::events)),
    asks("/v1/openapi.json", "openapi", "This document.", NO_QUERY, "OpenApi", || get(read::openapi)),
    does("PUT", "/v1/intent", "put_intent", "Replaces all that is wanted.", CHANGE, Some("Intent"), || put(change::put_intent)),
    does("POST", "/v1/pools", "add_pool", "Adds a pool.", CHANGE, Some("Pool"), || post(change::add_pool)),
    does("DELETE", "/v1/pools/{pool}", "delete_pool", "Removes a pool that no VIP uses.", CHANGE, None, || delete(change::delete_pool)),
    does("PUT", BACKEND, "put_backend", "Adds a backend, or replaces it.", CHANGE, Some("BackendPut"), || put(change::put_backend)),
    does("PATCH", BACKEND, "patch_backend", "Changes what the body names.", CHANGE, Some("BackendChange"), || patch(change::patch_backend)),
    does("DELETE", BACKEND, "delete_backend", "Removes a backend; its transfers go on.", CHANGE, None, || delete(change::delete_backend)),
    does(
        "POST",
        "/v1/pools/{pool}/backends/{backend}/drain",
        "drain",
        "Gives a backend no new requests; what runs there goes on.",
        CHANGE,
        None,
        || post(change::drain),
    ),
    does(
        "POST",
        "/v1/pools/{pool}/backends/{backend}/undrain",
        "undrain",
        "Gives a drained backend new requests again.",
        CHANGE,
        None,
        || post(change::undrain),
    ),
    does("POST", "/v1/vips", "add_vip", "Adds a VIP.", CHANGE, Some("Vip"), || post(change::add_vip)),
    does("PATCH", ONE_VIP, "patch_vip", "Changes what the body names, or pauses.", VIP_CHANGE, Some("VipChange"), || {
        patch(change::patch_vip)
    }),
    does("DELETE", ONE_VIP, "delete_vip", "Removes a VIP.", VIP_CHANGE, None, || delete(change::delete_vip)),
];
