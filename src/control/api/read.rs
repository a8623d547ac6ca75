//! What can be read: the running director, and the set that it follows.

use super::Api;
use super::answer::Refusal;
use super::asked::Asked;
use crate::View;
use crate::board::QUIET;
use crate::explained::{self, Destination, Question};
use crate::neighbour::mac;
use crate::{Known, State};
use axum::Json;
use axum::extract::State as Of;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use guideway_config::{Backend, Intent, Pool, duration};
use guideway_dataplane::maglev::Table;
use guideway_dataplane::tables::BackendId;
use guideway_store::Set;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// How many flows still run on each backend that gets nothing new; the flows of others are not looked at.
type Running = HashMap<BackendId, usize>;
type Answer = Result<Json<Value>, Refusal>;

pub(super) async fn status(Of(api): Of<Arc<Api>>, _: Asked) -> Json<Value> {
    Json(api.board.status())
}

pub(super) async fn vips(Of(api): Of<Arc<Api>>, _: Asked) -> Answer {
    Ok(Json(json!({"vips": vips_of(&*api.view()?, |_| true)})))
}

pub(super) async fn pools(Of(api): Of<Arc<Api>>, _: Asked) -> Answer {
    let (set, view, running) = (api.set(), api.view()?, api.board.still_running());
    let pools: Vec<Value> = set.intent.pools.iter().map(|pool| pool_json(&running, &set, &view, pool)).collect();
    Ok(Json(json!({"pools": pools})))
}

pub(super) async fn pool(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    let set = api.set();
    let pool = find_pool(&set.intent, asked.name("pool"))?;
    Ok(Json(pool_json(&api.board.still_running(), &set, &*api.view()?, pool)))
}

pub(super) async fn backends(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    let (set, view, running) = (api.set(), api.view()?, api.board.still_running());
    let pools: Vec<&Pool> = match asked.parameter("pool") {
        Some(name) => vec![find_pool(&set.intent, name)?],
        None => set.intent.pools.iter().collect(),
    };
    let mut backends: Vec<Value> = pools.iter().flat_map(|pool| backends_of(&running, &set, &view, pool)).collect();
    if asked.parameter("pool").is_none() {
        // Pools that are gone still have backends that end their transfers.
        let gone = view.backends.iter().filter(|known| set.intent.pool(&known.pool).is_none());
        backends.extend(gone.map(|known| retired_json(&running, &view, known)));
    }
    Ok(Json(json!({"backends": backends})))
}

pub(super) async fn backend(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    let (set, view) = (api.set(), api.view()?);
    let pool = find_pool(&set.intent, asked.name("pool"))?;
    let all = backends_of(&api.board.still_running(), &set, &view, pool);
    let found = all.iter().find(|backend| backend["name"] == asked.name("backend"));
    let known = || all.iter().filter_map(|backend| backend["name"].as_str());
    found.cloned().map(Json).ok_or_else(|| unknown_backend(&pool.name, asked.name("backend"), known().collect()))
}

pub(super) async fn transfers(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    let view = api.view()?;
    let (pool, name) = (asked.name("pool"), asked.name("backend"));
    let known: Vec<&Known> = view.backends.iter().filter(|known| &*known.pool == pool && &*known.name == name).collect();
    if known.is_empty() {
        let set = api.set();
        let of_pool = find_pool(&set.intent, pool)?;
        if of_pool.backends.iter().any(|backend| backend.name == name) {
            return Err(Refusal::new(StatusCode::CONFLICT, format!("this director has not taken {pool}/{name} over yet; ask again")));
        }
        return Err(unknown_backend(pool, name, of_pool.backends.iter().map(|backend| backend.name.as_str()).collect()));
    }
    let quiet = asked.parameter("quiet").and_then(|quiet| duration::parse(quiet).ok()).unwrap_or(QUIET);
    let ids: Vec<BackendId> = known.iter().map(|known| known.id).collect();
    // As long as one of several (the address was changed) gets new flows, the name is not drained.
    let draining = ids.iter().map(|id| api.board.watched_since(*id)).collect::<Option<Vec<_>>>();
    let draining = draining.and_then(|all| all.into_iter().max()).map(|since| since.elapsed());
    let running = api.board.running(&ids, quiet);
    let transfers = running.flows.iter().map(|flow| {
        let of = flow.conversation;
        json!({
            "client": of.client, "client_port": of.client_port, "vip": of.vip, "server_port": of.server_port, "protocol": protocol(of.protocol),
            "packets": flow.packets, "silent_seconds": flow.silent.as_secs_f64(),
        })
    });
    let states: Vec<&str> = known.iter().map(|known| known.state.name()).collect();
    Ok(Json(json!({
        "pool": pool,
        "backend": name,
        "state": known.iter().find(|known| known.state != State::Retired).map_or(states[0], |known| known.state.name()),
        "generation": view.snapshot.generation,
        "quiet_seconds": quiet.as_secs_f64(),
        "draining_seconds": draining.map(|since| since.as_secs_f64()),
        "running": running.flows.len(),
        "not_shown": running.replaced,
        "ended": running.flows.is_empty() && draining.is_some_and(|since| since >= quiet),
        "transfers": transfers.collect::<Vec<_>>(),
    })))
}

pub(super) async fn neighbours(Of(api): Of<Arc<Api>>, _: Asked) -> Answer {
    let view = api.view()?;
    let neighbour = |(address, hop): (&std::net::IpAddr, &Result<guideway_dataplane::tables::NextHop, _>)| match hop {
        Ok(hop) => json!({"address": address, "neighbour": mac(hop.mac), "mtu": hop.mtu, "unresolved_because": null}),
        Err::<_, crate::Unresolved>(why) => {
            json!({"address": address, "neighbour": null, "mtu": null, "unresolved_because": why.to_string()})
        }
    };
    let link = view.hops.link;
    let neighbours: Vec<Value> = view.hops.hops.iter().map(neighbour).collect();
    Ok(Json(json!({"link": {"address": mac(link.mac), "mtu": link.mtu}, "neighbours": neighbours})))
}

pub(super) async fn counters(Of(api): Of<Arc<Api>>, _: Asked) -> Json<Value> {
    let status = api.board.status();
    let keys = ["generation", "counters", "steering", "per_worker", "flows"];
    Json(keys.iter().map(|key| ((*key).to_owned(), status[*key].clone())).collect::<serde_json::Map<_, _>>().into())
}

pub(super) async fn explain(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    let client = explained::address(asked.parameter("client").unwrap_or_default()).map_err(Refusal::bad)?;
    let to: Destination = asked.parameter("to").unwrap_or_default().parse().map_err(Refusal::bad)?;
    let question = Question::new(client, to).map_err(Refusal::bad)?;
    let (set, view) = (api.set(), api.view()?);
    let range = |backend: &guideway_dataplane::tables::Backend| {
        set.intent.pool(&backend.pool)?.backends.iter().find(|b| b.name == *backend.name && b.address == backend.address)?.tid_range
    };
    let mut answer = question.answer(&view.snapshot, range);
    answer["generation"] = json!(view.snapshot.generation);
    Ok(Json(answer))
}

pub(super) async fn intent(Of(api): Of<Arc<Api>>, _: Asked) -> Response {
    let set = api.set();
    ([(header::ETAG, format!("\"{}\"", set.intent_generation))], Json(set.intent.to_json())).into_response()
}

pub(super) async fn openapi(_: Asked) -> Json<Value> {
    Json(super::openapi::document())
}

/// The VIPs that the director serves.
fn vips_of(view: &View, wanted: impl Fn(&str) -> bool) -> Vec<Value> {
    let services = view.vips.iter().zip(&view.snapshot.services).filter(|(_, service)| wanted(&service.pool.name));
    let vip = |(vip, service): (&std::net::IpAddr, &guideway_dataplane::tables::Service)| {
        json!({
            "address": vip,
            "service": service.label,
            "pool": &*service.pool.name,
            "idle_seconds": service.idle,
            "paused": service.paused,
            "table_size": service.pool.maglev.size(),
            "fingerprint": format!("{:016x}", service.pool.maglev.fingerprint()),
        })
    };
    services.map(vip).collect()
}

fn pool_json(running: &Running, set: &Set, view: &View, pool: &Pool) -> Value {
    let table = table(view, &pool.name);
    json!({
        "name": pool.name,
        "table_size": pool.table_size,
        "fingerprint": table.map(|table| format!("{:016x}", table.fingerprint())),
        "tid_ranges": pool.backends.iter().any(|backend| backend.tid_range.is_some()),
        "vips": vips_of(view, |name| name == pool.name),
        "backends": backends_of(running, set, view, pool),
    })
}

/// The Maglev table of a pool that some VIP uses.
fn table<'v>(view: &'v View, pool: &str) -> Option<&'v Table> {
    view.snapshot.services.iter().find(|service| &*service.pool.name == pool).map(|service| &*service.pool.maglev)
}

/// Those of the intent, then those that are retired.
fn backends_of(running: &Running, set: &Set, view: &View, pool: &Pool) -> Vec<Value> {
    let of_pool: Vec<&Known> = view.backends.iter().filter(|known| *known.pool == *pool.name).collect();
    let known: HashMap<_, &Known> = of_pool.iter().map(|known| ((&*known.name, known.address), *known)).collect();
    let wanted: HashMap<_, &Backend> = pool.backends.iter().map(|b| ((b.name.as_str(), b.address), b)).collect();
    let shares = table(view, &pool.name).map(shares).unwrap_or_default();
    let mut all: Vec<Value> = Vec::with_capacity(pool.backends.len());
    for backend in &pool.backends {
        let known = known.get(&(backend.name.as_str(), backend.address));
        let shown = known.map(|known| view.backend(known, &[])).unwrap_or_default();
        let health = set.health.get(&pool.name).and_then(|health| health.backends.get(&backend.name));
        let mut document = backend.to_json();
        document["pool"] = json!(pool.name);
        document["state"] = known.map_or(json!("pending"), |known| json!(known.state.name()));
        document["share"] = json!(shares.get(backend.name.as_str()));
        document["health"] = json!(health);
        document["neighbour"] = shown["neighbour"].clone();
        document["unresolved_because"] = shown["unresolved_because"].clone();
        document["running"] = json!(known.and_then(|known| running.get(&known.id)));
        all.push(document);
    }
    all.extend(of_pool.iter().filter(|k| !wanted.contains_key(&(&*k.name, k.address))).map(|known| retired_json(running, view, known)));
    all
}

fn retired_json(running: &Running, view: &View, known: &Known) -> Value {
    let mut document = view.backend(known, &[]);
    document["running"] = json!(running.get(&known.id));
    document
}

/// The part of the rows that each member has.
pub(super) fn shares(table: &Table) -> HashMap<&str, f64> {
    let entries = table.entries();
    let share = |rows: u32| f64::from(rows) / f64::from(table.size().max(1));
    table.members().iter().zip(&entries).map(|(member, rows)| (&*member.name, share(*rows))).collect()
}

fn protocol(number: u8) -> Value {
    match number {
        guideway_packet::wire::l4::UDP => json!("udp"),
        guideway_packet::wire::l4::TCP => json!("tcp"),
        other => json!(other.to_string()),
    }
}

/// The pool of this name.
pub(super) fn find_pool<'i>(intent: &'i Intent, name: &str) -> Result<&'i Pool, Refusal> {
    intent.pool(name).ok_or_else(|| Refusal::unknown("pool", name, intent.pools.iter().map(|pool| pool.name.as_str())))
}

/// There is no such backend in the pool.
pub(super) fn unknown_backend(pool: &str, name: &str, known: Vec<&str>) -> Refusal {
    Refusal::unknown(&format!("backend in pool {pool} called"), name, known)
}
