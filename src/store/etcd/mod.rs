//! The store in etcd, for any number of hosts: all directors that follow one etcd have the same cluster state with the same generation.
//!
//! The client uses etcd's JSON gateway (`/v3/…`, HTTP/1.1), which every etcd since 3.4 serves at its client port. The gRPC client for Rust
//! would require a protocol buffer compiler for every build.

mod api;
mod client;
mod commit;
mod follow;
mod journal;
mod keys;
mod keyspace;
mod lease;

use super::background_task::BackgroundTask;
use super::known::Known;
use super::presence::PresenceTopic;
use super::{Leadership, Presence, ReadError, StaleReason, StoreView};
use api::{Range, get, range};
use client::Client;
use guideway_config as config;
use keys::{INTENT_GENERATION, Keys, LEADER};
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// See [`super::Store::Etcd`].
#[derive(Debug)]
pub struct Etcd {
    client: Arc<Client>,
    keys: Keys,
    view: watch::Sender<StoreView>,
    /// While this process leads over health: the revision at which its leadership began.
    term: watch::Sender<Option<u64>>,
    /// The revision of `health/generation`, as known from this process's publications.
    published_at: AtomicU64,
    /// See [`Known::campaigns`].
    campaigns: Arc<AtomicBool>,
    follower: JoinHandle<()>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Etcd {
    /// Starts to follow; the view is stale until the first cluster state was read. `known` is what this host knows already.
    pub(super) fn start(config: &config::Etcd, known: Known) -> io::Result<Etcd> {
        let client = Arc::new(Client::new(config)?);
        let keys = Keys::new(&config.prefix);
        let last_fresh = Instant::now();
        let not_read_yet =
            super::Stale { since: last_fresh, reason: StaleReason::Unavailable, why: "etcd has not answered yet".to_owned() };
        let view = watch::Sender::new(StoreView { cluster: Arc::default(), stale: Some(not_read_yet) });
        let campaigns = known.campaigns();
        let follower =
            follow::Follower { client: client.clone(), keys: keys.clone(), view: view.clone(), known, last_fresh, unavailable: false };
        let follower = tokio::spawn(follower.run());
        Ok(Etcd { client, keys, view, term: watch::Sender::new(None), published_at: AtomicU64::new(0), campaigns, follower })
    }

    pub(super) fn watch(&self) -> watch::Receiver<StoreView> {
        self.view.subscribe()
    }

    /// Returns where views are published.
    pub(super) fn view(&self) -> &watch::Sender<StoreView> {
        &self.view
    }

    pub(super) fn reload_credentials(&self) -> io::Result<()> {
        self.client.reload_credentials()
    }

    pub(super) fn campaign(&self, name: &str) -> Leadership {
        self.campaigns.store(true, Ordering::Relaxed);
        let (lease_keeper, term) = (self.lease_keeper(name), self.term.clone());
        let (leading, leads) = watch::channel(false);
        let mut terms = self.term.subscribe();
        let background_task = BackgroundTask::start(move |stop| async move {
            let tell = async {
                loop {
                    let now = terms.borrow_and_update().is_some();
                    leading.send_if_modified(|leading| std::mem::replace(leading, now) != now);
                    if terms.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                () = tell => {}
                () = lease_keeper.campaign(term, stop) => {}
            }
            leading.send_replace(false);
        });
        Leadership::new(leads, background_task)
    }

    pub(super) async fn intent_generation(&self) -> Result<u64, ReadError> {
        let found: Range =
            self.client.call("kv/range", &get(&self.keys.of(INTENT_GENERATION))).await.map_err(|why| ReadError(why.to_string()))?;
        Ok(found.kvs.first().map_or(0, |kv| kv.mod_revision))
    }

    pub(super) async fn leader(&self) -> Result<Option<String>, ReadError> {
        let found: Range = self.client.call("kv/range", &get(&self.keys.of(LEADER))).await.map_err(|why| ReadError(why.to_string()))?;
        let name = |value: &[u8]| Some(serde_json::from_slice::<Value>(value).ok()?.get("name")?.as_str()?.to_owned());
        Ok(found.kvs.first().and_then(|kv| name(&kv.value)))
    }

    pub(super) fn publish_presence(&self, topic: PresenceTopic, name: &str, record: watch::Receiver<Value>) -> Presence {
        let lease_keeper = self.lease_keeper(name);
        Presence::new(BackgroundTask::start(move |stop| lease_keeper.publish_presence(topic, record, stop)))
    }

    pub(super) async fn read_presence(&self, topic: PresenceTopic) -> Result<Vec<(String, Value)>, ReadError> {
        let directory = self.keys.presence_prefix(topic);
        let body = range(&directory, &api::prefix_end(&directory));
        let found: Range = self.client.call("kv/range", &body).await.map_err(|why| ReadError(why.to_string()))?;
        let record = |kv: &api::KeyValue| {
            let name = kv.key.strip_prefix(&directory)?.to_owned();
            Some((name, serde_json::from_slice(&kv.value).unwrap_or_default()))
        };
        Ok(found.kvs.iter().filter_map(record).collect())
    }

    fn lease_keeper(&self, name: &str) -> lease::LeaseKeeper {
        lease::LeaseKeeper { client: self.client.clone(), keys: self.keys.clone(), name: name.to_owned() }
    }
}
