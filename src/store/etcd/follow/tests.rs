//! A fake gateway for events of a real one whose timing tests cannot control.

use super::super::keyspace::{GenerationRecord, intent_entries};
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

/// The responses of the gateway for each kind of request; the last one repeats.
#[derive(Default)]
struct Script {
    ranges: Vec<u64>,
    watches: Vec<Value>,
    /// Generation of the intent in the response to a probe.
    probes: Vec<u64>,
}

fn next<T: Clone>(lines: &mut Vec<T>) -> T {
    if lines.len() > 1 { lines.remove(0) } else { lines[0].clone() }
}

fn generation_key(revision: u64) -> Value {
    let generation_record = serde_json::to_vec(&GenerationRecord { pools: 0, ..GenerationRecord::default() }).unwrap();
    json!({"key": STANDARD.encode("/g/intent/generation"), "value": STANDARD.encode(generation_record), "mod_revision": revision.to_string()})
}

/// A response with an empty intent that was committed at `revision`.
fn range_at(revision: u64) -> Value {
    let key = |(short, value): (String, Value)| {
        let (key, value) = (STANDARD.encode(format!("/g/{short}")), STANDARD.encode(value.to_string()));
        json!({"key": key, "value": value, "mod_revision": revision.to_string()})
    };
    let kvs: Vec<Value> = intent_entries(&Intent::default()).into_iter().map(key).chain([generation_key(revision)]).collect();
    json!({"header": {"revision": revision.to_string()}, "kvs": kvs})
}

async fn follow(script: Script) -> (tokio::sync::watch::Receiver<StoreView>, tokio::task::JoinHandle<()>) {
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
                let message = format!("{}\n", next(&mut watches.lock().unwrap().watches));
                // No further messages, and no end of the stream.
                Body::from_stream(once(async { Ok::<_, std::io::Error>(Bytes::from(message)) }).chain(pending()))
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let config = config::Etcd { endpoints: vec![endpoint], prefix: "/g/".to_owned(), ..config::Etcd::default() };
    tokio::spawn(async { axum::serve(listener, routes).await });
    let client = Arc::new(Client::new(&config).unwrap());
    let (view, watch) = tokio::sync::watch::channel(StoreView::default());
    let follower =
        Follower { client, keys: Keys::new("/g/"), view, known: Known::load(None), last_fresh: Instant::now(), unavailable: false };
    (watch, tokio::spawn(follower.run()))
}

fn created() -> Value {
    json!({"result": {"created": true}})
}

#[tokio::test]
async fn a_compaction_before_the_watch_starts_causes_a_full_read() {
    let compacted = json!({"result": {"created": true, "canceled": true, "compact_revision": "8"}});
    let script = Script { ranges: vec![3, 9], watches: vec![compacted, created()], probes: vec![9] };
    let (mut watch, _follower) = follow(script).await;
    for generation in [3, 9] {
        let view = watch.wait_for(|view| view.cluster.generation >= generation || view.stale.is_some()).await.unwrap().clone();
        assert!(view.stale.is_none(), "{:?}", view.stale);
    }
    assert_eq!(watch.borrow().cluster.generation, 9);
}

#[tokio::test]
async fn a_watch_without_known_changes_is_dropped() {
    let script = Script { ranges: vec![3, 9], watches: vec![created()], probes: vec![3, 9] };
    let (mut watch, _follower) = follow(script).await;
    let began = Instant::now();
    watch.wait_for(|view| view.cluster.generation == 9).await.unwrap();
    assert!(began.elapsed() < 4 * PROBE_INTERVAL, "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_reason_of_a_cancelled_watch_is_reported_and_the_watch_retried() {
    let ended = json!({"result": {"canceled": true, "cancel_reason": "etcdserver: permission denied"}});
    let refused = json!({"error": {"grpc_code": 2, "message": "no leader"}});
    let script = Script { ranges: vec![3], watches: vec![ended, refused, created()], probes: vec![3] };
    let (mut watch, _follower) = follow(script).await;
    for why in ["permission denied", "no leader"] {
        let is_stale = |view: &StoreView| view.stale.as_ref().is_some_and(|stale| stale.why.contains(why));
        watch.wait_for(is_stale).await.unwrap();
    }
    assert_eq!(watch.wait_for(|view| view.stale.is_none()).await.unwrap().cluster.generation, 3);
}
