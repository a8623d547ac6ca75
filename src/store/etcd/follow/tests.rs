//! A gateway that does what a real one does only at moments that no test can choose.

use super::super::contents::{Mark, values};
use super::*;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use futures_util::stream::{once, pending};
use guideway_config::{self as config, Intent};
use serde_json::{Value, json};
use std::sync::Mutex;
use tokio::net::TcpListener;

/// What the gateway says to the next of each kind of question; the last is said for ever.
#[derive(Default)]
struct Script {
    ranges: Vec<u64>,
    watches: Vec<Value>,
    /// Generation of the intent, to a probe.
    probes: Vec<u64>,
}

fn next<T: Clone>(lines: &mut Vec<T>) -> T {
    if lines.len() > 1 { lines.remove(0) } else { lines[0].clone() }
}

fn generation_key(revision: u64) -> Value {
    let mark = serde_json::to_vec(&Mark { pools: 0, ..Mark::default() }).unwrap();
    json!({"key": STANDARD.encode("/g/intent/generation"), "value": STANDARD.encode(mark), "mod_revision": revision.to_string()})
}

/// An empty intent that was committed at `revision`.
fn range_at(revision: u64) -> Value {
    let key = |(short, value): (String, Value)| {
        let (key, value) = (STANDARD.encode(format!("/g/{short}")), STANDARD.encode(value.to_string()));
        json!({"key": key, "value": value, "mod_revision": revision.to_string()})
    };
    let kvs: Vec<Value> = values(&Intent::default()).into_iter().map(key).chain([generation_key(revision)]).collect();
    json!({"header": {"revision": revision.to_string()}, "kvs": kvs})
}

async fn follow(script: Script) -> (tokio::sync::watch::Receiver<Seen>, tokio::task::JoinHandle<()>) {
    let script = Arc::new(Mutex::new(script));
    let (ranges, watches, probes) = (script.clone(), script.clone(), script);
    let routes = Router::new()
        .route("/v3/kv/range", post(async move || range_at(next(&mut ranges.lock().unwrap().ranges)).to_string()))
        .route(
            "/v3/kv/txn",
            post(async move || {
                let revision = next(&mut probes.lock().unwrap().probes);
                json!({"succeeded": true, "responses": [{"response_range": {"kvs": [generation_key(revision)]}}]}).to_string()
            }),
        )
        .route(
            "/v3/watch",
            post(async move || {
                let said = format!("{}\n", next(&mut watches.lock().unwrap().watches));
                // And then nothing more, without an end.
                Body::from_stream(once(async { Ok::<_, std::io::Error>(Bytes::from(said)) }).chain(pending()))
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let config = config::Etcd { endpoints: vec![endpoint], prefix: "/g/".to_owned(), ..config::Etcd::default() };
    tokio::spawn(async { axum::serve(listener, routes).await });
    let client = Arc::new(Client::new(&config).unwrap());
    let (seen, watch) = tokio::sync::watch::channel(Seen::default());
    let follower = Follower { client, keys: Keys::new("/g/"), seen, fresh: Instant::now(), away: false };
    (watch, tokio::spawn(follower.run()))
}

fn created() -> Value {
    json!({"result": {"created": true}})
}

#[tokio::test]
async fn when_the_past_was_compacted_before_the_watch_began_all_is_read_again() {
    let compacted = json!({"result": {"created": true, "canceled": true, "compact_revision": "8"}});
    let script = Script { ranges: vec![3, 9], watches: vec![compacted, created()], probes: vec![9] };
    let (mut watch, _follower) = follow(script).await;
    for generation in [3, 9] {
        let seen = watch.wait_for(|seen| seen.set.generation >= generation || seen.trouble.is_some()).await.unwrap().clone();
        assert!(seen.trouble.is_none(), "{:?}", seen.trouble);
    }
    assert_eq!(watch.borrow().set.generation, 9);
}

#[tokio::test]
async fn a_watch_that_brings_nothing_of_what_has_happened_is_given_up() {
    let script = Script { ranges: vec![3, 9], watches: vec![created()], probes: vec![3, 9] };
    let (mut watch, _follower) = follow(script).await;
    let began = Instant::now();
    watch.wait_for(|seen| seen.set.generation == 9).await.unwrap();
    assert!(began.elapsed() < 4 * PROBE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_watch_that_etcd_ends_is_told_with_its_reason_and_tried_again() {
    let ended = json!({"result": {"canceled": true, "cancel_reason": "etcdserver: permission denied"}});
    let refused = json!({"error": {"grpc_code": 2, "message": "no leader"}});
    let script = Script { ranges: vec![3], watches: vec![ended, refused, created()], probes: vec![3] };
    let (mut watch, _follower) = follow(script).await;
    for why in ["permission denied", "no leader"] {
        let told = |seen: &Seen| seen.trouble.as_ref().is_some_and(|trouble| trouble.why.contains(why));
        watch.wait_for(told).await.unwrap();
    }
    assert_eq!(watch.wait_for(|seen| seen.trouble.is_none()).await.unwrap().set.generation, 3);
}
