//! Changes of the cluster state in etcd. Each change is one transaction, so it happens as a whole or not at all. It writes the `generation`
//! of its part.
//!
//! When a connection breaks after a transaction was sent, the result is unknown. So each transaction writes a unique id into that key, and
//! is sent again, to another endpoint, until etcd answers. A writer that finds its own id has succeeded.

use super::super::{ClusterState, CommitError, HistoryEntry, Lineage, Origin, PoolHealth};
use super::Etcd;
use super::api::{Range, RpcStatus, Txn, create_revision_is, delete, mod_revision_is, put, range, read, txn, unmodified_since};
use super::client::Error;
use super::keys::{HEALTH, HEALTH_GENERATION, INTENT_GENERATION, LEADER, POOL};
use super::keyspace::{GenerationRecord, Keyspace, intent_entries};
use guideway_config::Intent;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};

/// Time limit of a change.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of pools whose health one transaction publishes: etcd takes 128 keys by default.
const MAX_POOLS_PER_TXN: usize = 100;
/// Number of attempts to publish when another publication came first: a late one that was given up, or the first one of this process.
const MAX_CONFLICTS: usize = 4;

impl Etcd {
    pub(in super::super) async fn commit(&self, base: u64, intent: &Intent, entry: &HistoryEntry) -> Result<u64, CommitError> {
        let (keyspace, revision) = self.read(self.keys.intent()).await?;
        let now = keyspace.revision(INTENT_GENERATION);
        if now != base {
            return Err(CommitError::Changed { base, now });
        }
        self.replace(&keyspace, revision, intent, keyspace.lineage().or_new(), entry).await
    }

    /// Writes the intent and the health of `copy`, which readers take whatever they know.
    pub(in super::super) async fn restore(&self, copy: &ClusterState, entry: &HistoryEntry) -> Result<u64, CommitError> {
        let (keyspace, revision) = self.read(self.keys.state_range()).await?;
        let (there, known) = (keyspace.lineage(), copy.lineage.clone());
        let lineage = if known.id.is_empty() { there.clone() } else { known };
        let lineage = lineage.accepted_now(&[there.accepted, copy.lineage.accepted]);
        // First the health, which readers in trouble do not take yet, so that they take both at once.
        let empty = Arc::default();
        let gone = keyspace.pools_with_health().filter(|name| !copy.health.contains_key(*name)).map(|name| (name, &empty));
        let health: Vec<(&str, &Arc<PoolHealth>)> = copy.health.iter().map(|(name, health)| (name.as_str(), health)).chain(gone).collect();
        for chunk in health.chunks(MAX_POOLS_PER_TXN) {
            let generation_record = generation_record();
            let mut operations: Vec<Value> = chunk.iter().map(|(pool, health)| self.write_health(pool, health)).collect();
            let generation = self.keys.of(HEALTH_GENERATION);
            operations.push(put(&generation, &serde_json::to_vec(&generation_record).unwrap_or_default(), 0));
            self.commit_txn(&[], &operations, &[&generation], &generation_record, chunk.len()).await?;
        }
        self.replace(&keyspace, revision, &copy.intent, lineage, entry).await
    }

    /// Declares what etcd holds as right, which readers then take whatever they know.
    pub(in super::super) async fn accept(&self, origin: &Origin) -> Result<u64, CommitError> {
        let (keyspace, revision) = self.read(self.keys.state_range()).await?;
        let found = keyspace.cluster_state(&ClusterState::default()).map_err(CommitError::Unavailable)?;
        let known = self.view.borrow().cluster.lineage.accepted;
        let entry = HistoryEntry::new(origin, found.intent_generation, Some(&found.intent), &found.intent);
        let lineage = found.lineage.clone().accepted_now(&[found.lineage.accepted, known]);
        self.replace(&keyspace, revision, &found.intent, lineage, &entry).await
    }

    /// Reads the keys of a range, and the revision of etcd then.
    async fn read(&self, (first, end): (String, String)) -> Result<(Keyspace, u64), CommitError> {
        let found: Range =
            self.client.call("kv/range", &range(&first, &end)).await.map_err(|why| CommitError::Unavailable(why.to_string()))?;
        let mut keyspace = Keyspace::default();
        for kv in found.kvs {
            if let Some(short) = self.keys.short(&kv.key).map(str::to_owned) {
                keyspace.put(&short, kv);
            }
        }
        Ok((keyspace, found.header.revision))
    }

    /// Replaces the intent of `keyspace`, which was read at `revision`.
    async fn replace(
        &self,
        keyspace: &Keyspace,
        revision: u64,
        intent: &Intent,
        lineage: Lineage,
        entry: &HistoryEntry,
    ) -> Result<u64, CommitError> {
        let base = keyspace.revision(INTENT_GENERATION);
        let (first, end) = self.keys.intent();
        let wanted = intent_entries(intent);
        let active_key = intent.active_key.map(|id| id.to_string());
        let generation_record = GenerationRecord { pools: intent.pools.len(), active_key, lineage, ..generation_record() };
        let changed = wanted.iter().filter(|(short, value)| keyspace.value(short).as_ref() != Some(value));
        let mut operations: Vec<Value> = changed.map(|(short, value)| put(&self.keys.of(short), value.to_string().as_bytes(), 0)).collect();
        let removed = keyspace.pools().map(|name| format!("{POOL}{name}")).filter(|short| !wanted.contains_key(short));
        operations.extend(removed.map(|short| delete(&self.keys.of(&short))));
        let generation = self.keys.of(INTENT_GENERATION);
        let count = operations.len();
        operations.push(put(&generation, &serde_json::to_vec(&generation_record).unwrap_or_default(), 0));
        let entry = HistoryEntry { base, ..entry.clone() };
        let without_intent = HistoryEntry { intent: Value::Null, ..entry.clone() };
        // The second comparison: no key was written by hand between read and write, or we would take it for ours.
        let compare = [mod_revision_is(&generation, base), unmodified_since(&first, &end, revision)];
        let mut outcome = Err(CommitError::TooLarge(String::new()));
        // The intent of a large change may be too large beside it.
        for entry in [entry, without_intent] {
            let operations = [operations.clone(), self.journal(revision, &entry).await?].concat();
            outcome = self.commit_txn(&compare, &operations, &[&generation], &generation_record, count).await;
            if !matches!(outcome, Err(CommitError::TooLarge(_))) {
                break;
            }
        }
        let (done, txn) = outcome?;
        if done {
            return Ok(revision_of(&txn, &generation).unwrap_or(txn.header.revision));
        }
        Err(CommitError::Changed { base, now: revision_of(&txn, &generation).unwrap_or(0) })
    }

    pub(in super::super) async fn publish(&self, pools: &[(String, PoolHealth)]) -> Result<u64, CommitError> {
        // A transaction may contain a key only once.
        let pools: BTreeMap<&str, &PoolHealth> = pools.iter().map(|(pool, health)| (pool.as_str(), health)).collect();
        let mut generation = self.view.borrow().cluster.generation;
        for chunk in pools.into_iter().collect::<Vec<_>>().chunks(MAX_POOLS_PER_TXN) {
            generation = self.publish_chunk(chunk).await?;
        }
        Ok(generation)
    }

    async fn publish_chunk(&self, pools: &[(&str, &PoolHealth)]) -> Result<u64, CommitError> {
        let Some(term) = *self.term.borrow() else { return Err(CommitError::NotLeading) };
        let mut operations: Vec<Value> = pools.iter().map(|(pool, health)| self.write_health(pool, health)).collect();
        let generation_record = generation_record();
        let (generation, leader) = (self.keys.of(HEALTH_GENERATION), self.keys.of(LEADER));
        operations.push(put(&generation, &serde_json::to_vec(&generation_record).unwrap_or_default(), 0));
        for _ in 0..MAX_CONFLICTS {
            // The second comparison: a late execution of a publication that was given up must not undo a newer one.
            let base = self.published_at.load(Ordering::Relaxed);
            let compare = [create_revision_is(&leader, term), mod_revision_is(&generation, base)];
            let (done, txn) = self.commit_txn(&compare, &operations, &[&generation, &leader], &generation_record, pools.len()).await?;
            let written = revision_of(&txn, &generation);
            if done {
                let generation = written.unwrap_or(txn.header.revision);
                self.published_at.store(generation, Ordering::Relaxed);
                return Ok(generation);
            }
            if txn.found().find(|kv| kv.key == leader).map(|kv| kv.create_revision) != Some(term) {
                self.term.send_if_modified(|now| now.take_if(|now| *now == term).is_some());
                return Err(CommitError::NotLeading);
            }
            self.published_at.store(written.unwrap_or(0), Ordering::Relaxed);
        }
        Err(CommitError::Unavailable(format!("another process published health {MAX_CONFLICTS} times in a row before this one")))
    }

    fn write_health(&self, pool: &str, health: &PoolHealth) -> Value {
        let key = self.keys.of(&format!("{HEALTH}{pool}"));
        let value = serde_json::to_vec(health).unwrap_or_default();
        if health.backends.is_empty() { delete(&key) } else { put(&key, &value, 0) }
    }

    /// Sends one transaction until its result is known. Returns whether it was done, and the last response. The response of a failed one
    /// contains the keys `reads`, among them the one with the id.
    async fn commit_txn(
        &self,
        compare: &[Value],
        operations: &[Value],
        reads: &[&str],
        generation_record: &GenerationRecord,
        count: usize,
    ) -> Result<(bool, Txn), CommitError> {
        let found: Vec<Value> = reads.iter().map(|key| read(key)).collect();
        let body = txn(compare, operations, &found);
        let until = Instant::now() + COMMIT_TIMEOUT;
        let mut unavailable = 0;
        loop {
            // Does not use the client's own failover, because this loop must know whether an endpoint left the result open.
            let at = self.client.current();
            let ambiguous = unavailable > 0;
            match self.client.call_at::<Txn>(at, "kv/txn", &body).await {
                Ok(txn) => {
                    let ours = |value: &[u8]| {
                        serde_json::from_slice::<GenerationRecord>(value).is_ok_and(|found| found.id == generation_record.id)
                    };
                    let done = txn.succeeded || (ambiguous && txn.found().any(|kv| ours(&kv.value)));
                    if ambiguous && !done {
                        return Err(CommitError::Unknown(
                            "the connection to etcd broke, and another writer has changed the same keys since".to_owned(),
                        ));
                    }
                    return Ok((done, txn));
                }
                Err(Error::Refused(rpc_status)) => return Err(to_commit_error(&rpc_status, count, body.to_string().len())),
                Err(Error::Unavailable(why)) if Instant::now() >= until => {
                    return Err(CommitError::Unknown(format!("etcd is unavailable: {why}")));
                }
                Err(Error::Unavailable(_)) => {
                    self.client.rotate_endpoint(at);
                    unavailable += 1;
                    if unavailable % self.client.endpoints() == 0 {
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }
}

/// Returns the revision at which a key was last written, from the keys that a transaction read.
fn revision_of(txn: &Txn, key: &str) -> Option<u64> {
    txn.found().find(|kv| kv.key == key).map(|kv| kv.mod_revision)
}

fn to_commit_error(rpc_status: &RpcStatus, count: usize, bytes: usize) -> CommitError {
    let message = &rpc_status.message;
    if message.contains("too many operations") {
        return CommitError::TooLarge(format!(
            "this changes {count} pools at once, and etcd takes {message:?}: its limit is 128 keys in a transaction unless it is started with a larger \
             --max-txn-ops; change fewer pools at once, or raise that limit"
        ));
    }
    // gRPC reports the second message, before etcd itself checks.
    if message.contains("request is too large") || message.contains("larger than max") {
        let megabytes = bytes as f64 * 0.75 / 1e6;
        return CommitError::TooLarge(format!(
            "this change has about {megabytes:.1} MB, and etcd takes 1.5 MiB in a transaction unless it is started with a larger \
             --max-request-bytes; change fewer pools at once, or raise that limit"
        ));
    }
    CommitError::Unavailable(format!("etcd refuses: {message}"))
}

fn generation_record() -> GenerationRecord {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    GenerationRecord { id: format!("{:032x}", fastrand::u128(..)), at, ..GenerationRecord::default() }
}
