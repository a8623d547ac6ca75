//! What lives in etcd only as long as somebody keeps it alive: the leadership over health, and the directors' words about themselves.

use super::api::{Lease, Message, Range, Txn, created_at, delete, get, put, read, txn};
use super::client::{Client, Error};
use super::keys::{Keys, LEADER};
use crate::background::Stop;
use crate::word::Topic;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a leader that is silent stays leader, in seconds: etcd's shortest is about this.
const LEADER_TTL: u64 = 3;
/// How often a leader says that it is there, and others look whether there is one.
const LEADER_BEAT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(250);
/// The same of directors, which nobody waits for.
const DIRECTOR_TTL: u64 = 10;
const DIRECTOR_BEAT: Duration = Duration::from_secs(3);
/// A director's word is written at most so often.
const REST: Duration = Duration::from_millis(200);
/// How long giving back a lease may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Somebody who keeps something alive.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) client: Arc<Client>,
    pub(super) keys: Keys,
    pub(super) name: String,
}

impl Keeper {
    /// Stands for leader until told to stop. `term` is, while this leads, the revision at which its leadership began.
    pub(super) async fn lead(self, term: watch::Sender<Option<u64>>, mut stop: Stop) {
        let mut lease = None;
        tokio::select! {
            _ = &mut stop => {}
            () = self.stand(&term, &mut lease) => {}
        }
        term.send_replace(None);
        self.give_back(lease).await;
    }

    async fn stand(&self, term: &watch::Sender<Option<u64>>, lease: &mut Option<u64>) {
        loop {
            if let Err(error) = self.stand_once(term, lease).await {
                tracing::debug!("standing for leader over health: {error}");
            }
            if term.send_replace(None).is_some() {
                tracing::warn!("no longer leading over health");
            }
            sleep(LOOK).await;
        }
    }

    /// Waits for its turn and leads as long as etcd agrees.
    async fn stand_once(&self, term: &watch::Sender<Option<u64>>, lease: &mut Option<u64>) -> Result<(), Error> {
        let key = self.keys.of(LEADER);
        loop {
            let there: Range = self.client.call("kv/range", &get(&key)).await?;
            if there.kvs.is_empty() {
                break;
            }
            sleep(LOOK).await;
        }
        let asked = Instant::now();
        let id = self.grant(LEADER_TTL).await?;
        *lease = Some(id);
        let body = txn(&[created_at(&key, 0)], &[put(&key, json!({"name": self.name}).to_string().as_bytes(), id)], &[read(&key)]);
        let txn: Txn = self.client.call("kv/txn", &body).await?;
        if !txn.succeeded {
            // Somebody was quicker, or this is our own that was repeated after a broken connection: gone with the lease either way.
            self.give_back(lease.take()).await;
            return Ok(());
        }
        tracing::info!("leading over health");
        term.send_replace(Some(txn.header.revision));
        let ended = self.keep_leading(term, id, asked).await;
        *lease = None;
        ended
    }

    /// Returns when the lease is lost, or must be taken for lost because etcd was not heard of for as long as it lives.
    async fn keep_leading(&self, term: &watch::Sender<Option<u64>>, id: u64, since: Instant) -> Result<(), Error> {
        let mut deadline = since + Duration::from_secs(LEADER_TTL);
        let mut taken = term.subscribe();
        loop {
            let next = Instant::now() + LEADER_BEAT;
            tokio::select! {
                () = sleep_until(next.min(deadline)) => {}
                // A publication found out before us.
                _ = taken.wait_for(Option::is_none) => return Ok(()),
            }
            let asked = Instant::now();
            let answer = timeout(deadline.saturating_duration_since(asked), self.keep_alive(id)).await;
            match answer {
                Ok(Ok(true)) => deadline = asked + Duration::from_secs(LEADER_TTL),
                Ok(Ok(false)) => return Ok(()),
                // Another endpoint, while there is time.
                Ok(Err(error)) if Instant::now() < deadline => tracing::debug!("keeping the leadership over health: {error}"),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::Away(format!("nothing was heard of etcd for {LEADER_TTL} s"))),
            }
        }
    }

    /// Keeps the newest `word` about `topic` in etcd until told to stop.
    pub(super) async fn say(self, topic: Topic, mut word: watch::Receiver<Value>, mut stop: Stop) {
        let mut lease = None;
        let mut pause = REST;
        let present = async {
            loop {
                if let Err(error) = self.say_once(topic, &mut word, &mut lease).await {
                    tracing::debug!("a director's word about itself: {error}");
                    pause = (pause * 2).min(DIRECTOR_BEAT);
                } else {
                    pause = REST;
                }
                sleep(pause).await;
            }
        };
        tokio::select! {
            _ = &mut stop => {}
            () = present => {}
        }
        self.give_back(lease).await;
    }

    /// Returns when the lease is lost.
    async fn say_once(&self, topic: Topic, word: &mut watch::Receiver<Value>, lease: &mut Option<u64>) -> Result<(), Error> {
        let id = match *lease {
            Some(id) if self.keep_alive(id).await? => id,
            _ => self.grant(DIRECTOR_TTL).await?,
        };
        *lease = Some(id);
        let key = format!("{}{}", self.keys.words(topic), self.name);
        let mut beat = tokio::time::interval(DIRECTOR_BEAT);
        beat.reset();
        loop {
            let text = Some(word.borrow_and_update().clone()).filter(|word| !word.is_null()).map(|word| word.to_string());
            let write = text.map_or_else(|| delete(&key), |text| put(&key, text.as_bytes(), id));
            let _: Txn = self.client.call("kv/txn", &txn(&[], &[write], &[])).await?;
            sleep(REST).await;
            loop {
                tokio::select! {
                    // Who is silent for good is still there.
                    () = changed(word) => break,
                    _ = beat.tick() => if !self.keep_alive(id).await? {
                        *lease = None;
                        return Ok(());
                    },
                }
            }
        }
    }

    async fn grant(&self, ttl: u64) -> Result<u64, Error> {
        let lease: Lease = self.client.call("lease/grant", &json!({"TTL": ttl.to_string()})).await?;
        Ok(lease.id)
    }

    /// Whether the lease still lives.
    async fn keep_alive(&self, id: u64) -> Result<bool, Error> {
        // A stream in gRPC; here one message is asked and one answered.
        match self.client.call::<Message<Lease>>("lease/keepalive", &json!({"ID": id.to_string()})).await? {
            Message { error: Some(refusal), .. } => Err(Error::Refused(refusal)),
            Message { result, .. } => Ok(result.is_some_and(|lease| lease.ttl > 0)),
        }
    }

    async fn give_back(&self, lease: Option<u64>) {
        if let Some(id) = lease {
            let body = json!({"ID": id.to_string()});
            // Else it ends by itself.
            let _in_time = timeout(FAREWELL, self.client.call::<Value>("lease/revoke", &body)).await;
        }
    }
}

async fn changed(word: &mut watch::Receiver<Value>) {
    if word.changed().await.is_err() {
        std::future::pending().await
    }
}
