//! Records in etcd with a lease: the leadership over health, and the presence records of directors.

use super::api::{Lease, Message, Range, Txn, create_revision_is, delete, get, put, read, txn};
use super::client::{Client, Error};
use super::keys::{Keys, LEADER};
use crate::background_task::Stop;
use crate::presence::PresenceTopic;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Time in seconds after which an unresponsive leader loses its leadership; etcd's minimum is about this.
const LEADER_TTL: u64 = 3;
/// Interval at which a leader renews its lease, and others check whether there is one.
const LEADER_HEARTBEAT: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The same for directors; no process waits for their leases.
const PRESENCE_TTL: u64 = 10;
const PRESENCE_HEARTBEAT: Duration = Duration::from_secs(3);
/// Minimum time between two writes of a presence record.
const MIN_WRITE_INTERVAL: Duration = Duration::from_millis(200);
/// Time limit for revoking a lease.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(1);

/// A process that keeps a record alive.
#[derive(Clone)]
pub(super) struct LeaseKeeper {
    pub(super) client: Arc<Client>,
    pub(super) keys: Keys,
    pub(super) name: String,
}

impl LeaseKeeper {
    /// Stands for leader until stopped. While this process leads, `term` is the revision at which its leadership began.
    pub(super) async fn campaign(self, term: watch::Sender<Option<u64>>, mut stop: Stop) {
        let mut lease = None;
        tokio::select! {
            _ = &mut stop => {}
            () = self.keep_campaigning(&term, &mut lease) => {}
        }
        term.send_replace(None);
        self.revoke(lease).await;
    }

    async fn keep_campaigning(&self, term: &watch::Sender<Option<u64>>, lease: &mut Option<u64>) {
        loop {
            if let Err(error) = self.campaign_once(term, lease).await {
                tracing::debug!(%error, "candidacy for health leader failed");
            }
            if term.send_replace(None).is_some() {
                tracing::warn!("health leadership lost");
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits to become leader, then leads as long as etcd agrees.
    async fn campaign_once(&self, term: &watch::Sender<Option<u64>>, lease: &mut Option<u64>) -> Result<(), Error> {
        let key = self.keys.of(LEADER);
        loop {
            let current: Range = self.client.call("kv/range", &get(&key)).await?;
            if current.kvs.is_empty() {
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
        let requested_at = Instant::now();
        let id = self.grant(LEADER_TTL).await?;
        *lease = Some(id);
        let body = txn(&[create_revision_is(&key, 0)], &[put(&key, json!({"name": self.name}).to_string().as_bytes(), id)], &[read(&key)]);
        let txn: Txn = self.client.call("kv/txn", &body).await?;
        if !txn.succeeded {
            // Another process was faster, or this is our own lease from before a broken connection. Either ends with its lease.
            self.revoke(lease.take()).await;
            return Ok(());
        }
        tracing::info!("health leadership acquired");
        term.send_replace(Some(txn.header.revision));
        let ended = self.keep_leading(term, id, requested_at).await;
        *lease = None;
        ended
    }

    /// Returns when the lease is lost, or must be assumed lost because etcd did not answer for its whole lifetime.
    async fn keep_leading(&self, term: &watch::Sender<Option<u64>>, id: u64, since: Instant) -> Result<(), Error> {
        let mut deadline = since + Duration::from_secs(LEADER_TTL);
        let mut taken = term.subscribe();
        loop {
            let next = Instant::now() + LEADER_HEARTBEAT;
            tokio::select! {
                () = sleep_until(next.min(deadline)) => {}
                // A publication noticed first.
                _ = taken.wait_for(Option::is_none) => return Ok(()),
            }
            let requested_at = Instant::now();
            let answer = timeout(deadline.saturating_duration_since(requested_at), self.keep_alive(id)).await;
            match answer {
                Ok(Ok(true)) => deadline = requested_at + Duration::from_secs(LEADER_TTL),
                Ok(Ok(false)) => return Ok(()),
                // Another endpoint, while there is time.
                Ok(Err(error)) if Instant::now() < deadline => tracing::debug!(%error, "health leadership not renewed"),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::Unavailable(format!("no answer of etcd for {LEADER_TTL} s"))),
            }
        }
    }

    /// Keeps the newest `record` about `topic` in etcd until stopped.
    pub(super) async fn publish_presence(self, topic: PresenceTopic, mut record: watch::Receiver<Value>, mut stop: Stop) {
        let mut lease = None;
        let mut pause = MIN_WRITE_INTERVAL;
        let present = async {
            loop {
                if let Err(error) = self.publish_presence_once(topic, &mut record, &mut lease).await {
                    tracing::debug!(%error, "presence record not written");
                    pause = (pause * 2).min(PRESENCE_HEARTBEAT);
                } else {
                    pause = MIN_WRITE_INTERVAL;
                }
                sleep(pause).await;
            }
        };
        tokio::select! {
            _ = &mut stop => {}
            () = present => {}
        }
        self.revoke(lease).await;
    }

    /// Returns when the lease is lost.
    async fn publish_presence_once(
        &self,
        topic: PresenceTopic,
        record: &mut watch::Receiver<Value>,
        lease: &mut Option<u64>,
    ) -> Result<(), Error> {
        let id = match *lease {
            Some(id) if self.keep_alive(id).await? => id,
            _ => self.grant(PRESENCE_TTL).await?,
        };
        *lease = Some(id);
        let key = format!("{}{}", self.keys.presence_prefix(topic), self.name);
        let mut heartbeat = tokio::time::interval(PRESENCE_HEARTBEAT);
        heartbeat.reset();
        loop {
            let text = Some(record.borrow_and_update().clone()).filter(|record| !record.is_null()).map(|record| record.to_string());
            let write = text.map_or_else(|| delete(&key), |text| put(&key, text.as_bytes(), id));
            let _: Txn = self.client.call("kv/txn", &txn(&[], &[write], &[])).await?;
            sleep(MIN_WRITE_INTERVAL).await;
            loop {
                tokio::select! {
                    // The channel is closed, but the process still runs.
                    () = changed(record) => break,
                    _ = heartbeat.tick() => {
                        if !self.keep_alive(id).await? {
                            *lease = None;
                            return Ok(());
                        }
                        // The key may have been deleted by hand, or with all others.
                        let there: Range = self.client.call("kv/range", &get(&key)).await?;
                        if there.kvs.is_empty() && !record.borrow().is_null() {
                            break;
                        }
                    },
                }
            }
        }
    }

    async fn grant(&self, ttl: u64) -> Result<u64, Error> {
        let lease: Lease = self.client.call("lease/grant", &json!({"TTL": ttl.to_string()})).await?;
        Ok(lease.id)
    }

    /// Returns whether the lease is still alive.
    async fn keep_alive(&self, id: u64) -> Result<bool, Error> {
        // A gRPC stream; the gateway takes one message and returns one.
        match self.client.call::<Message<Lease>>("lease/keepalive", &json!({"ID": id.to_string()})).await? {
            Message { error: Some(rpc_status), .. } => Err(Error::Refused(rpc_status)),
            Message { result, .. } => Ok(result.is_some_and(|lease| lease.ttl > 0)),
        }
    }

    async fn revoke(&self, lease: Option<u64>) {
        if let Some(id) = lease {
            let body = json!({"ID": id.to_string()});
            // Otherwise it expires by itself.
            let _in_time = timeout(REVOKE_TIMEOUT, self.client.call::<Value>("lease/revoke", &body)).await;
        }
    }
}

async fn changed(record: &mut watch::Receiver<Value>) {
    if record.changed().await.is_err() {
        std::future::pending().await
    }
}
