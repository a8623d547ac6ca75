//! Handlers that read: the running director, and the cluster state that it follows.

use super::error::ApiError;
use super::request::ApiRequest;
use super::state::Api;
use crate::explain::{self, Destination, ExplainQuery};
use crate::neighbour::{link_layer, mac};
use crate::status::IDLE_TIMEOUT;
use crate::view::{fingerprint, unknown_because};
use crate::{BackendEntry, BackendState, Unresolved, View};
use axum::extract::State as AxumState;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use guideway_api::backend::{self, BackendHealth, BackendStatus, Backends, HealthState};
use guideway_api::counters::PacketCounters;
use guideway_api::explain::Explanation;
use guideway_api::neighbour::{Link, Neighbour, Neighbours};
use guideway_api::pool::{PoolStatus, Pools};
use guideway_api::status::{DirectorStatus, Maintenance};
use guideway_api::transfers::{Transfer, Transfers};
use guideway_api::vip::{ServedVip, Vips};
use guideway_config::{Backend, Intent, Pool, duration};
use guideway_dataplane::maglev::Table;
use guideway_dataplane::tables::{BackendId, NextHop, Service};
use guideway_store::{ClusterState, Observation, Observed};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use utoipa::ToSchema;

/// The OpenAPI document.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(value_type = Object)]
pub struct OpenApi(pub Arc<Value>);

/// Number of flows that still run, for each backend without new flows.
type DrainingCounts = HashMap<BackendId, usize>;
type ApiResult<T> = Result<Json<T>, ApiError>;

pub(super) async fn status(AxumState(api): AxumState<Arc<Api>>, _: ApiRequest) -> Json<DirectorStatus> {
    Json(api.status.document())
}

pub(super) async fn vips(AxumState(api): AxumState<Arc<Api>>, _: ApiRequest) -> ApiResult<Vips> {
    Ok(Json(Vips { vips: vips_of(&*api.view()?, |_| true) }))
}

pub(super) async fn pools(AxumState(api): AxumState<Arc<Api>>, _: ApiRequest) -> ApiResult<Pools> {
    let (cluster, view, running) = (api.cluster(), api.view()?, api.status.draining_counts());
    Ok(Json(Pools { pools: cluster.intent.pools.iter().map(|pool| pool_status(&running, &cluster, &view, pool)).collect() }))
}

pub(super) async fn pool(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult<PoolStatus> {
    let cluster = api.cluster();
    let pool = find_pool(&cluster.intent, request.name("pool"))?;
    Ok(Json(pool_status(&api.status.draining_counts(), &cluster, &*api.view()?, pool)))
}

pub(super) async fn backends(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult<Backends> {
    let (cluster, view, running) = (api.cluster(), api.view()?, api.status.draining_counts());
    let pools: Vec<&Pool> = match request.parameter("pool") {
        Some(name) => vec![find_pool(&cluster.intent, name)?],
        None => cluster.intent.pools.iter().collect(),
    };
    let mut backends: Vec<BackendStatus> = pools.iter().flat_map(|pool| backends_of(&running, &cluster, &view, pool)).collect();
    if request.parameter("pool").is_none() {
        // Removed pools may have retired backends, whose transfers still run.
        let gone = view.backends.iter().filter(|entry| cluster.intent.pool(&entry.pool).is_none());
        backends.extend(gone.map(|entry| retired(&running, &view, entry)));
    }
    Ok(Json(Backends { backends }))
}

pub(super) async fn backend(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult<BackendStatus> {
    let (cluster, view) = (api.cluster(), api.view()?);
    let pool = find_pool(&cluster.intent, request.name("pool"))?;
    let all = backends_of(&api.status.draining_counts(), &cluster, &view, pool);
    let found = all.iter().find(|backend| backend.name == request.name("backend"));
    let known = || all.iter().map(|backend| backend.name.as_str()).collect();
    found.cloned().map(Json).ok_or_else(|| unknown_backend(&pool.name, request.name("backend"), known()))
}

pub(super) async fn transfers(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult<Transfers> {
    let view = api.view()?;
    let (pool, name) = (request.name("pool"), request.name("backend"));
    let known: Vec<&BackendEntry> = view.backends.iter().filter(|entry| &*entry.pool == pool && &*entry.name == name).collect();
    if known.is_empty() {
        let cluster = api.cluster();
        let of_pool = find_pool(&cluster.intent, pool)?;
        if of_pool.backends.iter().any(|backend| backend.name == name) {
            return Err(ApiError::new(StatusCode::CONFLICT, format!("this director has not taken {pool}/{name} over yet; ask again")));
        }
        return Err(unknown_backend(pool, name, of_pool.backends.iter().map(|backend| backend.name.as_str()).collect()));
    }
    let idle_timeout =
        request.parameter("idle_timeout").and_then(|idle_timeout| duration::parse(idle_timeout).ok()).unwrap_or(IDLE_TIMEOUT);
    let ids: Vec<BackendId> = known.iter().map(|entry| entry.id).collect();
    // A name has several backends after its address was changed. It is drained when none of them gets new flows.
    let draining = ids.iter().map(|id| api.status.draining_since(*id)).collect::<Option<Vec<_>>>();
    let draining = draining.and_then(|all| all.into_iter().max()).map(|since| since.elapsed());
    let draining_flows = api.status.draining_flows(&ids, idle_timeout);
    let transfers = draining_flows.flows.iter().map(|flow| {
        let of = flow.flow_key;
        Transfer {
            client: of.client,
            client_port: of.client_port,
            vip: of.vip,
            server_port: of.server_port,
            protocol: protocol(of.protocol),
            packets: flow.packets,
            idle_seconds: flow.idle.as_secs_f64(),
        }
    });
    let state = known.iter().find(|entry| entry.state != BackendState::Retired).map_or(known[0].state, |entry| entry.state);
    Ok(Json(Transfers {
        pool: pool.to_owned(),
        backend: name.to_owned(),
        state: state.into(),
        generation: view.snapshot.generation,
        idle_timeout_seconds: idle_timeout.as_secs_f64(),
        draining_seconds: draining.map(|since| since.as_secs_f64()),
        running: draining_flows.flows.len(),
        untracked: draining_flows.evicted,
        ended: draining_flows.flows.is_empty() && draining.is_some_and(|since| since >= idle_timeout),
        transfers: transfers.collect(),
    }))
}

pub(super) async fn maintenance(AxumState(api): AxumState<Arc<Api>>, _: ApiRequest) -> Json<Maintenance> {
    Json(api.maintenance())
}

pub(super) async fn neighbours(AxumState(api): AxumState<Arc<Api>>, _: ApiRequest) -> ApiResult<Neighbours> {
    let view = api.view()?;
    let neighbour = |(address, hop): (&IpAddr, &Result<NextHop, Unresolved>)| {
        let known = hop.as_ref().ok();
        Neighbour {
            address: *address,
            neighbour: known.map(link_layer),
            mtu: known.map(|hop| hop.mtu),
            unresolved_because: hop.as_ref().err().map(ToString::to_string),
        }
    };
    let link = Link { address: mac(view.hops.link.mac), mtu: view.hops.link.mtu };
    Ok(Json(Neighbours { link, neighbours: view.hops.hops.iter().map(neighbour).collect() }))
}

pub(super) async fn counters(AxumState(api): AxumState<Arc<Api>>, _: ApiRequest) -> Json<PacketCounters> {
    let DirectorStatus { generation, counters, steering, per_worker, flows, .. } = api.status.document();
    Json(PacketCounters { generation, counters, steering, per_worker, flows })
}

pub(super) async fn explain(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult<Explanation> {
    let client = explain::address(request.parameter("client").unwrap_or_default()).map_err(ApiError::bad)?;
    let to: Destination = request.parameter("to").unwrap_or_default().parse().map_err(ApiError::bad)?;
    let explain_query = ExplainQuery::new(client, to).map_err(ApiError::bad)?;
    let (cluster, view) = (api.cluster(), api.view()?);
    let range = |backend: &guideway_dataplane::tables::Backend| {
        cluster.intent.pool(&backend.pool)?.backends.iter().find(|b| b.name == *backend.name && b.address == backend.address)?.tid_range
    };
    Ok(Json(Explanation { generation: Some(view.snapshot.generation), ..explain_query.answer(&view.snapshot, range) }))
}

pub(super) async fn cluster_state(AxumState(api): AxumState<Arc<Api>>, _: ApiRequest) -> Json<Value> {
    Json(guideway_store::to_json(&api.cluster()))
}

pub(super) async fn intent(AxumState(api): AxumState<Arc<Api>>, _: ApiRequest) -> Response {
    let cluster = api.cluster();
    ([(header::ETAG, format!("\"{}\"", cluster.intent_generation))], Json(cluster.intent.to_json())).into_response()
}

pub(super) async fn openapi(Extension(document): Extension<OpenApi>, _: ApiRequest) -> Json<OpenApi> {
    Json(document)
}

/// Returns the VIPs that the director serves.
fn vips_of(view: &View, wanted: impl Fn(&str) -> bool) -> Vec<ServedVip> {
    let services = view.vips.iter().zip(&view.snapshot.services).filter(|(_, service)| wanted(&service.pool.name));
    let vip = |(vip, service): (&IpAddr, &Service)| ServedVip {
        address: *vip,
        service: service.label.clone(),
        pool: service.pool.name.to_string(),
        idle_seconds: service.idle,
        paused: service.paused,
        table_size: service.pool.maglev.size(),
        fingerprint: fingerprint(&service.pool.maglev),
    };
    services.map(vip).collect()
}

fn pool_status(running: &DrainingCounts, cluster: &ClusterState, view: &View, pool: &Pool) -> PoolStatus {
    PoolStatus {
        name: pool.name.clone(),
        table_size: pool.table_size,
        fingerprint: table(view, &pool.name).map(fingerprint),
        tid_ranges: pool.backends.iter().any(|backend| backend.tid_range.is_some()),
        vips: vips_of(view, |name| name == pool.name),
        backends: backends_of(running, cluster, view, pool),
    }
}

/// Returns the Maglev table of a pool, if a VIP uses it.
fn table<'v>(view: &'v View, pool: &str) -> Option<&'v Table> {
    view.snapshot.services.iter().find(|service| &*service.pool.name == pool).map(|service| &*service.pool.maglev)
}

/// Returns the backends of the intent, then the retired ones.
fn backends_of(running: &DrainingCounts, cluster: &ClusterState, view: &View, pool: &Pool) -> Vec<BackendStatus> {
    let of_pool: Vec<&BackendEntry> = view.backends.iter().filter(|entry| *entry.pool == *pool.name).collect();
    let known: HashMap<_, &BackendEntry> = of_pool.iter().map(|entry| ((&*entry.name, entry.address), *entry)).collect();
    let wanted: HashMap<_, &Backend> = pool.backends.iter().map(|b| ((b.name.as_str(), b.address), b)).collect();
    let shares = table(view, &pool.name).map(shares).unwrap_or_default();
    let health = cluster.health.get(&pool.name);
    let configured = |backend: &Backend| {
        let entry = known.get(&(backend.name.as_str(), backend.address));
        let (neighbour, unresolved_because) = entry.map(|entry| view.neighbour(entry.address)).unzip();
        BackendStatus {
            name: backend.name.clone(),
            address: backend.address,
            weight: backend.weight,
            drain: Some(backend.drain),
            tid_range: backend.tid_range.map(guideway_config::text::port_range_text),
            pool: pool.name.clone(),
            state: entry.map_or(backend::BackendState::Pending, |entry| entry.state.into()),
            share: shares.get(backend.name.as_str()).copied(),
            health: pool.check.as_ref().and(Some(health_document(health.and_then(|health| health.backends.get(&backend.name))))),
            neighbour,
            unresolved_because: unresolved_because.flatten(),
            running: entry.and_then(|entry| flows_of(running, entry)),
        }
    };
    let mut all: Vec<BackendStatus> = pool.backends.iter().map(configured).collect();
    all.extend(of_pool.iter().filter(|k| !wanted.contains_key(&(&*k.name, k.address))).map(|entry| retired(running, view, entry)));
    all
}

fn retired(running: &DrainingCounts, view: &View, entry: &BackendEntry) -> BackendStatus {
    let (neighbour, unresolved_because) = view.neighbour(entry.address);
    BackendStatus {
        name: entry.name.to_string(),
        address: entry.address,
        weight: entry.weight,
        drain: None,
        tid_range: None,
        pool: entry.pool.to_string(),
        state: entry.state.into(),
        share: None,
        health: None,
        neighbour: Some(neighbour),
        unresolved_because,
        running: flows_of(running, entry),
    }
}

fn flows_of(running: &DrainingCounts, entry: &BackendEntry) -> Option<u64> {
    running.get(&entry.id).map(|flows| *flows as u64)
}

/// Returns the health of a backend whose pool has a check.
fn health_document(observed: Option<&Observed>) -> BackendHealth {
    let (state, percent) = match observed.map(|observed| observed.state) {
        Some(Observation::Slow { percent }) => (HealthState::Slow, Some(percent)),
        Some(Observation::Down) => (HealthState::Down, None),
        Some(Observation::Up) | None => (HealthState::Up, None),
    };
    let since = observed.map(|observed| observed.since);
    match unknown_because(observed) {
        Some(why) => BackendHealth { state: HealthState::Unknown, percent, since, why },
        None => BackendHealth { state, percent, since, why: observed.map(|observed| observed.why.clone()).unwrap_or_default() },
    }
}

/// Returns the share of the rows that each member has.
pub(super) fn shares(table: &Table) -> HashMap<&str, f64> {
    let entries = table.entries();
    let share = |rows: u32| f64::from(rows) / f64::from(table.size().max(1));
    table.members().iter().zip(&entries).map(|(member, rows)| (&*member.name, share(*rows))).collect()
}

fn protocol(number: u8) -> String {
    match number {
        guideway_packet::wire::l4::UDP => "udp".to_owned(),
        guideway_packet::wire::l4::TCP => "tcp".to_owned(),
        other => other.to_string(),
    }
}

/// Returns the pool with this name.
pub(super) fn find_pool<'i>(intent: &'i Intent, name: &str) -> Result<&'i Pool, ApiError> {
    intent.pool(name).ok_or_else(|| ApiError::unknown("pool", name, intent.pools.iter().map(|pool| pool.name.as_str())))
}

/// Refuses an unknown name of a backend.
pub(super) fn unknown_backend(pool: &str, name: &str, known: Vec<&str>) -> ApiError {
    ApiError::unknown(&format!("backend in pool {pool} called"), name, known)
}
