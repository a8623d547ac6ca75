//! The set in etcd, for as many hosts as like: all directors that follow one etcd have the same set with the same generation.
//!
//! etcd is spoken to by its JSON gateway (`/v3/…`, HTTP/1.1), which every etcd since 3.4 serves at its client port: the gRPC client for Rust would ask
//! everybody who builds this for a compiler of protocol buffers.

mod api;
mod client;
mod contents;
mod copy;
mod follow;
mod keys;
mod lease;
mod write;

use super::background::Background;
use super::word::Topic;
use super::{Leadership, Presence, ReadError, Seen};
use api::{Range, get, range};
use client::Client;
use guideway_config as config;
use keys::{INTENT_GENERATION, Keys, LEADER};
use serde_json::Value;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// See [`super::Store::Etcd`].
#[derive(Debug)]
pub struct Etcd {
    client: Arc<Client>,
    keys: Keys,
    seen: watch::Sender<Seen>,
    /// While this process leads over health: the revision at which that began.
    term: watch::Sender<Option<u64>>,
    /// The revision of `health/generation`, as far as this process knows from publishing.
    published_at: AtomicU64,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Etcd {
    /// Begins to follow; until the first set was read there is trouble.
    pub(super) fn start(config: &config::Etcd) -> io::Result<Etcd> {
        let client = Arc::new(Client::new(config)?);
        let keys = Keys::new(&config.prefix);
        let fresh = Instant::now();
        let nothing = super::Trouble { since: fresh, why: "etcd has not answered yet".to_owned() };
        let seen = watch::Sender::new(Seen { set: Arc::default(), trouble: Some(nothing) });
        let follower = follow::Follower { client: client.clone(), keys: keys.clone(), seen: seen.clone(), fresh, away: false };
        let mut tasks = vec![tokio::spawn(follower.run())];
        tasks.extend(config.cache.clone().map(|cache| tokio::spawn(copy::keep(cache, seen.subscribe()))));
        Ok(Etcd { client, keys, seen, term: watch::Sender::new(None), published_at: AtomicU64::new(0), tasks })
    }

    pub(super) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Takes the copy for the set as long as nothing better is known.
    pub(super) fn begin_with_copy(&self, cache: &Path) {
        if self.seen.borrow().trouble.is_none() {
            return;
        }
        let copy = match copy::read(cache) {
            Ok(copy) => Arc::new(copy),
            Err(why) => return tracing::warn!("etcd has not answered, and there is no copy of its last set: {why}"),
        };
        tracing::warn!(generation = copy.generation, "etcd has not answered; beginning with the copy of its last set");
        self.seen.send_if_modified(|seen| {
            let unknown = seen.trouble.is_some() && seen.set.generation == 0;
            if unknown {
                seen.set = copy;
            }
            unknown
        });
    }

    pub(super) fn lead(&self, name: &str) -> Leadership {
        let (keeper, term) = (self.keeper(name), self.term.clone());
        let (says, leads) = watch::channel(false);
        let mut terms = self.term.subscribe();
        let background = Background::start(move |stop| async move {
            let tell = async {
                loop {
                    let now = terms.borrow_and_update().is_some();
                    says.send_if_modified(|leads| std::mem::replace(leads, now) != now);
                    if terms.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                () = tell => {}
                () = keeper.lead(term, stop) => {}
            }
            says.send_replace(false);
        });
        Leadership::new(leads, background)
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

    pub(super) fn say(&self, topic: Topic, name: &str, word: watch::Receiver<Value>) -> Presence {
        let keeper = self.keeper(name);
        Presence::new(Background::start(move |stop| keeper.say(topic, word, stop)))
    }

    pub(super) async fn said(&self, topic: Topic) -> Result<Vec<(String, Value)>, ReadError> {
        let directory = self.keys.words(topic);
        let body = range(&directory, &api::behind(&directory));
        let found: Range = self.client.call("kv/range", &body).await.map_err(|why| ReadError(why.to_string()))?;
        let word = |kv: &api::KeyValue| {
            let name = kv.key.strip_prefix(&directory)?.to_owned();
            Some((name, serde_json::from_slice(&kv.value).unwrap_or_default()))
        };
        Ok(found.kvs.iter().filter_map(word).collect())
    }

    fn keeper(&self, name: &str) -> lease::Keeper {
        lease::Keeper { client: self.client.clone(), keys: self.keys.clone(), name: name.to_owned() }
    }
}
