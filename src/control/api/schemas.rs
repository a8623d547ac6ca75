//! What stands in bodies and answers, as JSON schemas (draft 2020-12, as OpenAPI 3.1 wants it).

use crate::events;
use serde_json::{Map, Value, json};

/// A name of a pool or a backend.
const NAME: &str = "^[A-Za-z0-9._-]{1,63}$";

/// An object with these keys and no others; the required ones first.
fn object(about: &str, required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "description": about, "required": required, "properties": properties, "additionalProperties": false})
}

/// An object of which these keys are certain; there may be more.
fn state(about: &str, properties: Value) -> Value {
    let required: Vec<&String> = properties.as_object().map(|p| p.keys().collect()).unwrap_or_default();
    json!({"type": "object", "description": about, "required": required, "properties": properties})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

fn maybe(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

/// Every schema, by name.
pub fn all() -> Map<String, Value> {
    let mut schemas = Map::new();
    wanted(&mut schemas);
    told(&mut schemas);
    schemas
}

/// What is sent to the director.
fn wanted(schemas: &mut Map<String, Value>) {
    let text = |about: &str| json!({"type": "string", "description": about});
    let name = json!({"type": "string", "pattern": NAME});
    let range = json!({
        "type": ["string", "integer", "null"], "minimum": 1024, "maximum": 65535, "pattern": "^[0-9]+(-[0-9]+)?$",
        "description": "The server ports that are its own: \"20000-20999\", or one. All backends of a pool have a range or none has."
    });
    let weight = json!({"type": ["integer", "null"], "minimum": 0, "maximum": 1000, "description": "default 100; 0: no new flows"});
    let drain = json!({"type": ["boolean", "null"], "description": "gets no new flows and keeps those that it has; default false"});
    let address = json!({"type": "string", "description": "a unicast address, IPv4 or IPv6"});
    let idle = json!({"type": ["string", "null"], "description": "a silent flow is forgotten after so long, 1s to 12h; default 60s"});
    let paused = json!({"type": ["boolean", "null"], "description": "takes no packets at all; default false"});
    let backend = json!({"name": name, "address": address, "weight": weight, "tid_range": range, "drain": drain});
    let service = json!({
        "description": "\"tftp\", or a protocol with its ports or key",
        "oneOf": [
            {"const": "tftp"},
            object("TFTP", &["protocol"], json!({"protocol": {"const": "tftp"}, "key": {"enum": ["flow", "client", null]}})),
            object("UDP or TCP", &["protocol", "ports"], json!({
                "protocol": {"enum": ["udp", "tcp"]},
                "ports": {"type": "array", "minItems": 1, "items": {"type": ["integer", "string"], "minimum": 1, "maximum": 65535, "pattern": "^[0-9]+(-[0-9]+)?$"}},
            })),
        ],
    });
    let vip = json!({"address": address, "service": reference("Service"), "pool": name, "idle": idle, "paused": paused});
    let size = json!({"type": ["integer", "null"], "minimum": 2, "maximum": 5_000_011, "description": "prime, at least 100 × backends; default 65537"});
    let pool = json!({"name": name, "table_size": size, "backends": list(reference("Backend"))});
    let mut put = |name: &str, schema: Value| drop(schemas.insert(name.to_owned(), schema));
    put("Service", service);
    put("Backend", object("A backend, as in the file.", &["name", "address"], backend.clone()));
    let mut backend = backend;
    backend["name"] = json!({"type": ["string", "null"], "pattern": NAME, "description": "the name in the path, if it is given at all"});
    put("BackendPut", object("A backend; the path says its name.", &["address"], backend.clone()));
    put("BackendChange", object("Keys of a backend that change; null brings the default back.", &[], backend));
    put("Vip", object("A VIP with one service, as in the file.", &["address", "service", "pool"], vip));
    let change = json!({"service": reference("Service"), "pool": name, "idle": idle, "paused": paused});
    put("VipChange", object("Keys of a VIP that change; null brings the default back.", &[], change));
    put("Pool", object("A pool, as in the file.", &["name", "backends"], pool));
    let some = |of: &str| json!({"type": ["array", "null"], "items": reference(of)});
    let intent = json!({"vip": some("Vip"), "pool": some("Pool")});
    put("Intent", object("What is wanted. A missing list is an empty one.", &[], intent));
    let problem = json!({"key": text("the key by name"), "value": maybe("string"), "message": text("what is wrong and what is allowed")});
    put("Problem", json!({"type": "object", "required": ["message"], "properties": problem}));
    let error = json!({"error": text("why, in a sentence"), "problems": list(reference("Problem")), "did_you_mean": maybe("string"), "intent_generation": {"type": "integer"}});
    put("Error", json!({"type": "object", "description": "Nothing was changed.", "required": ["error", "problems"], "properties": error}));
}

/// What the director tells.
fn told(schemas: &mut Map<String, Value>) {
    let (text, number, integer, truth) =
        (json!({"type": "string"}), json!({"type": "number"}), json!({"type": "integer"}), json!({"type": "boolean"}));
    let anything = json!({"type": "object"});
    let mut put = |name: &str, schema: Value| drop(schemas.insert(name.to_owned(), schema));
    let moved = state(
        "A VIP that is served differently. `moved`: rows of its Maglev table that change their owner; `moved_from_stayers`: those of them whose owner \
         stays; null where there was no table of that size.",
        json!({
            "vip": text, "service": text, "pool": text, "rows": integer,
            "change": {"enum": ["added", "removed", "changed", "paused", "resumed", "rows"]},
            "moved": maybe("integer"), "moved_share": maybe("number"), "moved_from_stayers": maybe("integer"),
        }),
    );
    let share = state(
        "A backend that is another or gets another share of new flows; null where no VIP uses its pool.",
        json!({
            "pool": text, "backend": text, "share_before": maybe("number"), "share_after": maybe("number"),
            "change": {"enum": ["added", "removed", "address", "drained", "undrained", "changed", "share"]},
        }),
    );
    let running = state(
        "What becomes of what runs in a pool that changes. `transfers_affected` is null where nobody can know.",
        json!({"pool": text, "transfers_affected": maybe("integer"), "promise": text}),
    );
    put(
        "Plan",
        state(
            "What a change does, or would do.",
            json!({
                "dry_run": truth, "changed": truth, "applied": {"type": "boolean", "description": "this director's workers have it"},
                "not_applied_because": maybe("string"),
                "intent_generation": state("null: not committed", json!({"before": integer, "after": maybe("integer")})),
                "survives_restart": truth, "restart": text,
                "vips": list(moved), "backends": list(share), "running": list(running), "warnings": list(reference("Problem")),
            }),
        ),
    );
    put(
        "Status",
        state(
            "The director at one moment.",
            json!({
                "kind": {"const": "director"}, "name": text, "version": text, "generation": integer, "published": integer, "tables_built": integer, "store": anything,
                "ready": truth, "io": anything, "workers": integer, "uptime_seconds": integer, "counters": anything, "steering": {"type": ["object", "null"]},
                "per_worker": list(anything.clone()), "vips": list(anything.clone()), "backends": list(anything.clone()), "flows": anything, "reload": anything,
                "draining": {"type": "object", "additionalProperties": integer, "description": "by pool/backend: transfers that still run"},
                "other_site": list(state("A director of the other site.", json!({"address": text, "neighbour": text, "unresolved_because": maybe("string")}))),
            }),
        ),
    );
    put(
        "Vips",
        state(
            "Every VIP.",
            json!({"vips": list(state("One.", json!({
                "address": text, "service": text, "pool": text, "idle_seconds": integer, "paused": truth, "table_size": integer, "fingerprint": text,
            })))}),
        ),
    );
    put(
        "BackendState",
        state(
            "A backend and how it does.",
            json!({
                "name": text, "pool": text, "address": text, "weight": integer,
                "state": {"enum": ["active", "drained", "slow", "down", "retired", "pending"]},
                "neighbour": maybe("string"), "unresolved_because": maybe("string"),
                "running": {"type": ["integer", "null"], "description": "transfers that still run, of one that gets nothing new"},
            }),
        ),
    );
    put("Backends", state("Backends.", json!({"backends": list(reference("BackendState"))})));
    put(
        "PoolState",
        state(
            "A pool and how it does.",
            json!({
                "name": text, "table_size": integer, "fingerprint": maybe("string"), "tid_ranges": truth, "vips": list(anything.clone()),
                "backends": list(reference("BackendState")),
            }),
        ),
    );
    put("Pools", state("Every pool.", json!({"pools": list(reference("PoolState"))})));
    put(
        "Transfers",
        state(
            "What still runs on a backend.",
            json!({
                "pool": text, "backend": text, "state": text, "generation": integer, "quiet_seconds": number, "draining_seconds": maybe("number"),
                "running": integer, "ended": {"type": "boolean", "description": "none runs, and it was watched for long enough to say so"},
                "not_shown": {"type": "integer", "description": "flows for which there was no room, since the start"},
                "transfers": list(state("One.", json!({
                    "client": text, "client_port": integer, "vip": text, "server_port": integer, "protocol": text, "packets": integer, "silent_seconds": number,
                }))),
            }),
        ),
    );
    put(
        "Neighbours",
        state(
            "Next hops.",
            json!({"link": anything, "neighbours": list(state("One.", json!({
                "address": text, "neighbour": maybe("string"), "mtu": maybe("integer"), "unresolved_because": maybe("string"),
            })))}),
        ),
    );
    put(
        "Counters",
        state(
            "What became of packets.",
            json!({"generation": integer, "counters": anything, "per_worker": list(anything.clone()), "flows": anything}),
        ),
    );
    put(
        "Explained",
        state(
            "Where a packet would go; why it goes to no backend.",
            json!({
                "client": text, "vip": text, "port": integer, "service": maybe("string"), "backend": maybe("string"), "generation": integer,
            }),
        ),
    );
    let kinds: Vec<&str> = events::Kind::ALL.iter().map(|kind| kind.name()).collect();
    put(
        "Event",
        state(
            "The `data:` of one event; `id:` and `event:` repeat two of its keys. Besides, `missed` and `cut_off` say that events were lost.",
            json!({
                "id": integer, "time": number, "generation": integer, "event": {"enum": kinds}, "data": anything,
            }),
        ),
    );
    put("OpenApi", anything);
}
