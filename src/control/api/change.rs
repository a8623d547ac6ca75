//! Changes: each operation edits the intent's document, which the reader of the file then checks.

use super::commit::commit;
use super::error::{ApiError, quote};
use super::read::{find_pool, unknown_backend};
use super::request::ApiRequest;
use super::state::{Api, ReloadRequest};
use axum::Json;
use axum::extract::State as AxumState;
use axum::http::StatusCode;
use axum::response::Response;
use guideway_api::status::{Maintenance, Reloaded};
use guideway_config::{Intent, Pool};
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::oneshot;

type ApiResult = Result<Response, ApiError>;

/// Lets control read its file again.
pub(super) async fn reload(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> Result<Json<Reloaded>, ApiError> {
    let gone = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the director is ending; nothing was changed");
    let (reply, answered) = oneshot::channel();
    api.reloads.send(ReloadRequest { origin: request.origin, reply }).await.map_err(|_| gone())?;
    let outcome = answered.await.map_err(|_| gone())?;
    outcome.map(|generation| Json(Reloaded { generation })).map_err(|reasons| ApiError::reasons(StatusCode::UNPROCESSABLE_ENTITY, &reasons))
}

pub(super) async fn maintenance_on(AxumState(api): AxumState<Arc<Api>>, _: ApiRequest) -> Json<Maintenance> {
    set_maintenance(&api, true)
}

pub(super) async fn maintenance_off(AxumState(api): AxumState<Arc<Api>>, _: ApiRequest) -> Json<Maintenance> {
    set_maintenance(&api, false)
}

fn set_maintenance(api: &Api, on: bool) -> Json<Maintenance> {
    api.status.set_maintenance(on);
    Json(api.maintenance())
}

pub(super) async fn put_intent(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, replace).await
}

/// Replaces all that is wanted by the body.
pub(super) fn replace(_: &Intent, document: &mut Value, request: &ApiRequest) -> Result<(), ApiError> {
    *document = request.body.clone();
    Ok(())
}

pub(super) async fn add_pool(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, |_, document, request| add(document, "pool", request.body.clone())).await
}

pub(super) async fn delete_pool(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, |intent, document, request| {
        let name = find_pool(intent, request.name("pool"))?.name.as_str();
        let users: Vec<String> = intent.vips.iter().filter(|vip| vip.pool == name).map(|vip| vip.address.to_string()).collect();
        if !users.is_empty() {
            let users = guideway_config::text::abbreviate_list(&users.iter().map(String::as_str).collect::<Vec<_>>());
            let error = format!("pool {name} is used by VIP {users}; remove them, or give them another pool first");
            return Err(ApiError::new(StatusCode::CONFLICT, error));
        }
        list(document, "pool")?.remove(position(intent, name));
        Ok(())
    })
    .await
}

pub(super) async fn put_backend(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, |intent, document, request| {
        let pool = find_pool(intent, request.name("pool"))?;
        let mut body = request.body.clone();
        named(&mut body, request.name("backend"))?;
        let place = place(pool, request.name("backend"));
        let backends = backends(document, intent, pool)?;
        match place.and_then(|place| backends.get_mut(place)) {
            Some(backend) => *backend = body,
            None => backends.push(body),
        }
        Ok(())
    })
    .await
}

pub(super) async fn patch_backend(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, |intent, document, request| {
        let (pool, place) = find_backend(intent, request)?;
        let mut body = request.body.clone();
        named(&mut body, request.name("backend"))?;
        merge(backends(document, intent, pool)?.get_mut(place), body);
        Ok(())
    })
    .await
}

pub(super) async fn delete_backend(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, |intent, document, request| {
        let (pool, place) = find_backend(intent, request)?;
        backends(document, intent, pool)?.remove(place);
        Ok(())
    })
    .await
}

pub(super) async fn drain(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, |intent, document, request| set_drain(intent, document, request, true)).await
}

pub(super) async fn undrain(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, |intent, document, request| set_drain(intent, document, request, false)).await
}

fn set_drain(intent: &Intent, document: &mut Value, request: &ApiRequest, drain: bool) -> Result<(), ApiError> {
    let (pool, place) = find_backend(intent, request)?;
    merge(backends(document, intent, pool)?.get_mut(place), json!({"drain": drain}));
    Ok(())
}

pub(super) async fn add_vip(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, |_, document, request| add(document, "vip", request.body.clone())).await
}

pub(super) async fn patch_vip(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, |intent, document, request| {
        let place = find_vip(intent, request)?;
        if let Some(address) = request.body.get("address").filter(|address| **address != json!(intent.vips[place].address)) {
            let error = format!("address = {address}: cannot be changed; add a VIP with that address, then remove this one");
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error));
        }
        merge(list(document, "vip")?.get_mut(place), request.body.clone());
        Ok(())
    })
    .await
}

pub(super) async fn delete_vip(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> ApiResult {
    commit(api, request, |intent, document, request| {
        let place = find_vip(intent, request)?;
        list(document, "vip")?.remove(place);
        Ok(())
    })
    .await
}

/// Returns the index of the requested VIP: by its address, and by its service if it has several.
fn find_vip(intent: &Intent, request: &ApiRequest) -> Result<usize, ApiError> {
    let (text, service) = (request.name("address"), request.parameter("service"));
    let addresses: Vec<String> = intent.vips.iter().map(|vip| vip.address.to_string()).collect();
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(ApiError::unknown("VIP", text, addresses.iter().map(String::as_str)));
    };
    let there: Vec<(usize, String)> =
        intent.vips.iter().enumerate().filter(|(_, vip)| vip.address == address).map(|(place, vip)| (place, vip.service.label())).collect();
    let services = || there.iter().map(|(_, label)| label.as_str());
    match (there.as_slice(), service) {
        ([], _) => Err(ApiError::unknown("VIP", text, addresses.iter().map(String::as_str))),
        ([(place, _)], None) => Ok(*place),
        (_, None) => {
            let known = guideway_config::text::alternatives(services());
            Err(ApiError::bad(format!("VIP {address} has several services; say which by the parameter service: {known}")))
        }
        (_, Some(service)) => {
            let found = there.iter().find(|(_, label)| label == service);
            found
                .map(|(place, _)| *place)
                .ok_or_else(|| ApiError::unknown(&format!("service of VIP {address} called"), service, services()))
        }
    }
}

/// Returns the pool of the requested backend, and the index of the backend in it.
fn find_backend<'i>(intent: &'i Intent, request: &ApiRequest) -> Result<(&'i Pool, usize), ApiError> {
    let pool = find_pool(intent, request.name("pool"))?;
    let name = request.name("backend");
    let known = || pool.backends.iter().map(|backend| backend.name.as_str()).collect();
    place(pool, name).map(|place| (pool, place)).ok_or_else(|| unknown_backend(&pool.name, name, known()))
}

fn place(pool: &Pool, name: &str) -> Option<usize> {
    pool.backends.iter().position(|backend| backend.name == name)
}

/// Adds the backend's name, which is in the path, to the body. The body may repeat it.
fn named(body: &mut Value, name: &str) -> Result<(), ApiError> {
    match body.get("name") {
        None | Some(Value::Null) => {}
        Some(Value::String(same)) if same == name => {}
        Some(other) => {
            let error = format!("name = {}: the path says {}; leave the name out", quote(&other.to_string()), quote(name));
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error));
        }
    }
    body["name"] = json!(name);
    Ok(())
}

/// Copies the keys of `changes`.
fn merge(into: Option<&mut Value>, changes: Value) {
    if let (Some(into), Value::Object(changes)) = (into.and_then(Value::as_object_mut), changes) {
        into.extend::<Map<_, _>>(changes);
    }
}

fn add(document: &mut Value, key: &str, element: Value) -> Result<(), ApiError> {
    list(document, key)?.push(element);
    Ok(())
}

fn list<'d>(document: &'d mut Value, key: &str) -> Result<&'d mut Vec<Value>, ApiError> {
    let missing = || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the intent has no list `{key}`"));
    document.get_mut(key).and_then(Value::as_array_mut).ok_or_else(missing)
}

/// Returns the backends of a pool in the intent's document, which has the pools in the order of the intent.
fn backends<'d>(document: &'d mut Value, intent: &Intent, pool: &Pool) -> Result<&'d mut Vec<Value>, ApiError> {
    match list(document, "pool")?.get_mut(position(intent, &pool.name)) {
        Some(found) => list(found, "backends"),
        None => Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the intent has no such pool")),
    }
}

/// Returns the index of a pool that exists.
fn position(intent: &Intent, pool: &str) -> usize {
    intent.pools.iter().take_while(|known| known.name != pool).count()
}
