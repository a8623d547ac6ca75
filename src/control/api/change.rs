//! What can be changed: each operation is a small edit of the intent's document, which the file's own checker then reads.

use super::Api;
use super::answer::{Refusal, text_shown};
use super::asked::Asked;
use super::commit::commit;
use super::read::{find_pool, unknown_backend};
use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::Response;
use guideway_config::{Intent, Pool};
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::sync::Arc;

type Answer = Result<Response, Refusal>;

pub(super) async fn put_intent(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |_, document, asked| {
        *document = asked.body.clone();
        Ok(())
    })
    .await
}

pub(super) async fn add_pool(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |_, document, asked| add(document, "pool", asked.body.clone())).await
}

pub(super) async fn delete_pool(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |intent, document, asked| {
        let name = find_pool(intent, asked.name("pool"))?.name.as_str();
        let users: Vec<String> = intent.vips.iter().filter(|vip| vip.pool == name).map(|vip| vip.address.to_string()).collect();
        if !users.is_empty() {
            let users = guideway_config::text::some_of(&users.iter().map(String::as_str).collect::<Vec<_>>());
            let error = format!("pool {name} is used by VIP {users}; remove them, or give them another pool first");
            return Err(Refusal::new(StatusCode::CONFLICT, error));
        }
        list(document, "pool")?.retain(|pool| pool["name"] != name);
        Ok(())
    })
    .await
}

pub(super) async fn put_backend(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |intent, document, asked| {
        let pool = find_pool(intent, asked.name("pool"))?;
        let mut body = asked.body.clone();
        named(&mut body, asked.name("backend"))?;
        let place = place(pool, asked.name("backend"));
        let backends = backends(document, pool)?;
        match place.and_then(|place| backends.get_mut(place)) {
            Some(backend) => *backend = body,
            None => backends.push(body),
        }
        Ok(())
    })
    .await
}

pub(super) async fn patch_backend(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |intent, document, asked| {
        let (pool, place) = find_backend(intent, asked)?;
        let mut body = asked.body.clone();
        named(&mut body, asked.name("backend"))?;
        merge(backends(document, pool)?.get_mut(place), body);
        Ok(())
    })
    .await
}

pub(super) async fn delete_backend(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |intent, document, asked| {
        let (pool, place) = find_backend(intent, asked)?;
        backends(document, pool)?.remove(place);
        Ok(())
    })
    .await
}

pub(super) async fn drain(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |intent, document, asked| set_drain(intent, document, asked, true)).await
}

pub(super) async fn undrain(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |intent, document, asked| set_drain(intent, document, asked, false)).await
}

fn set_drain(intent: &Intent, document: &mut Value, asked: &Asked, drain: bool) -> Result<(), Refusal> {
    let (pool, place) = find_backend(intent, asked)?;
    merge(backends(document, pool)?.get_mut(place), json!({"drain": drain}));
    Ok(())
}

pub(super) async fn add_vip(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |_, document, asked| add(document, "vip", asked.body.clone())).await
}

pub(super) async fn patch_vip(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |intent, document, asked| {
        let place = find_vip(intent, asked)?;
        if let Some(address) = asked.body.get("address").filter(|address| **address != json!(intent.vips[place].address)) {
            let error = format!("address = {address}: cannot be changed; add a VIP with that address, then remove this one");
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error));
        }
        merge(list(document, "vip")?.get_mut(place), asked.body.clone());
        Ok(())
    })
    .await
}

pub(super) async fn delete_vip(Of(api): Of<Arc<Api>>, asked: Asked) -> Answer {
    commit(api, asked, |intent, document, asked| {
        let place = find_vip(intent, asked)?;
        list(document, "vip")?.remove(place);
        Ok(())
    })
    .await
}

/// The place of the VIP that is meant: its address, and its service if several are served there.
fn find_vip(intent: &Intent, asked: &Asked) -> Result<usize, Refusal> {
    let (text, service) = (asked.name("address"), asked.parameter("service"));
    let addresses: Vec<String> = intent.vips.iter().map(|vip| vip.address.to_string()).collect();
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(Refusal::unknown("VIP", text, addresses.iter().map(String::as_str)));
    };
    let there: Vec<(usize, String)> =
        intent.vips.iter().enumerate().filter(|(_, vip)| vip.address == address).map(|(place, vip)| (place, vip.service.label())).collect();
    let services = || there.iter().map(|(_, label)| label.as_str());
    match (there.as_slice(), service) {
        ([], _) => Err(Refusal::unknown("VIP", text, addresses.iter().map(String::as_str))),
        ([(place, _)], None) => Ok(*place),
        (_, None) => {
            let known = guideway_config::text::alternatives(services());
            Err(Refusal::bad(format!("VIP {address} has several services; say which by the parameter service: {known}")))
        }
        (_, Some(service)) => {
            let found = there.iter().find(|(_, label)| label == service);
            found.map(|(place, _)| *place).ok_or_else(|| Refusal::unknown(&format!("service of VIP {address} called"), service, services()))
        }
    }
}

/// The pool and the place in it of the backend that is meant.
fn find_backend<'i>(intent: &'i Intent, asked: &Asked) -> Result<(&'i Pool, usize), Refusal> {
    let pool = find_pool(intent, asked.name("pool"))?;
    let name = asked.name("backend");
    let known = || pool.backends.iter().map(|backend| backend.name.as_str()).collect();
    place(pool, name).map(|place| (pool, place)).ok_or_else(|| unknown_backend(&pool.name, name, known()))
}

fn place(pool: &Pool, name: &str) -> Option<usize> {
    pool.backends.iter().position(|backend| backend.name == name)
}

/// A backend's name stands in the path; the body may repeat it.
fn named(body: &mut Value, name: &str) -> Result<(), Refusal> {
    match body.get("name") {
        None | Some(Value::Null) => {}
        Some(Value::String(same)) if same == name => {}
        Some(other) => {
            let error = format!("name = {}: the path says {}; leave the name out", text_shown(&other.to_string()), text_shown(name));
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error));
        }
    }
    body["name"] = json!(name);
    Ok(())
}

/// Takes the keys of `changes` over.
fn merge(into: Option<&mut Value>, changes: Value) {
    if let (Some(into), Value::Object(changes)) = (into.and_then(Value::as_object_mut), changes) {
        into.extend::<Map<_, _>>(changes);
    }
}

fn add(document: &mut Value, key: &str, element: Value) -> Result<(), Refusal> {
    list(document, key)?.push(element);
    Ok(())
}

fn list<'d>(document: &'d mut Value, key: &str) -> Result<&'d mut Vec<Value>, Refusal> {
    let missing = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the intent has no list `{key}`"));
    document.get_mut(key).and_then(Value::as_array_mut).ok_or_else(missing)
}

fn backends<'d>(document: &'d mut Value, pool: &Pool) -> Result<&'d mut Vec<Value>, Refusal> {
    let found = list(document, "pool")?.iter_mut().find(|element| element["name"] == pool.name.as_str());
    match found {
        Some(found) => list(found, "backends"),
        None => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the intent has no such pool")),
    }
}
