//! Changes of the set in etcd: each is one transaction, so it happens as a whole or not at all, and writes the `generation` of its part.
//!
//! A connection that breaks after a transaction was sent leaves open whether it was done. Each carries a mark of its own in that key: it is sent again,
//! to another endpoint, until etcd has said what became of it, and whoever finds his own mark has succeeded.

use super::super::{CommitError, PoolHealth};
use super::Etcd;
use super::api::{Range, Refusal, Txn, created_at, delete, modified_at, put, range, read, txn, untouched_since};
use super::client::Error;
use super::contents::{Contents, Mark, values};
use super::keys::{HEALTH, HEALTH_GENERATION, INTENT_GENERATION, LEADER, POOL};
use guideway_config::Intent;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};

/// How long a change is tried.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pools whose health is published in one transaction: etcd takes 128 keys unless it was told otherwise.
const AT_ONCE: usize = 100;
/// How often a publication is tried when another one came before it: one that was given up and came late, or the first of this process.
const PAST_US: usize = 4;

impl Etcd {
    pub(in super::super) async fn commit(&self, base: u64, intent: &Intent) -> Result<u64, CommitError> {
        let (first, end) = self.keys.intent();
        let found: Range = self.client.call("kv/range", &range(&first, &end)).await.map_err(|why| CommitError::Away(why.to_string()))?;
        let mut contents = Contents::default();
        for kv in found.kvs {
            if let Some(short) = self.keys.short(&kv.key).map(str::to_owned) {
                contents.put(&short, kv);
            }
        }
        let now = contents.revision(INTENT_GENERATION);
        if now != base {
            return Err(CommitError::Changed { base, now });
        }
        let wanted = values(intent);
        let active_key = intent.active_key.map(|id| id.to_string());
        let mark = Mark { pools: intent.pools.len(), active_key, ..mark() };
        let changed = wanted.iter().filter(|(short, value)| contents.value(short).as_ref() != Some(value));
        let mut operations: Vec<Value> = changed.map(|(short, value)| put(&self.keys.of(short), value.to_string().as_bytes(), 0)).collect();
        let gone = contents.pools().map(|name| format!("{POOL}{name}")).filter(|short| !wanted.contains_key(short));
        operations.extend(gone.map(|short| delete(&self.keys.of(&short))));
        let generation = self.keys.of(INTENT_GENERATION);
        let count = operations.len();
        operations.push(put(&generation, &serde_json::to_vec(&mark).unwrap_or_default(), 0));
        // The second: nobody wrote past us between reading and writing, or we might take it for ours.
        let compare = [modified_at(&generation, base), untouched_since(&first, &end, found.header.revision)];
        let (done, txn) = self.change(&compare, &operations, &[&generation], &mark, count).await?;
        if done {
            return Ok(revision_of(&txn, &generation).unwrap_or(txn.header.revision));
        }
        Err(CommitError::Changed { base, now: revision_of(&txn, &generation).unwrap_or(0) })
    }

    pub(in super::super) async fn publish(&self, pools: &[(String, PoolHealth)]) -> Result<u64, CommitError> {
        // A key may stand once in a transaction.
        let pools: BTreeMap<&str, &PoolHealth> = pools.iter().map(|(pool, health)| (pool.as_str(), health)).collect();
        let mut generation = self.seen.borrow().set.generation;
        for some in pools.into_iter().collect::<Vec<_>>().chunks(AT_ONCE) {
            generation = self.publish_some(some).await?;
        }
        Ok(generation)
    }

    async fn publish_some(&self, pools: &[(&str, &PoolHealth)]) -> Result<u64, CommitError> {
        let Some(term) = *self.term.borrow() else { return Err(CommitError::NotLeading) };
        let write = |(pool, health): &(&str, &PoolHealth)| {
            let key = self.keys.of(&format!("{HEALTH}{pool}"));
            let value = serde_json::to_vec(health).unwrap_or_default();
            if health.backends.is_empty() { delete(&key) } else { put(&key, &value, 0) }
        };
        let mut operations: Vec<Value> = pools.iter().map(write).collect();
        let mark = mark();
        let (generation, leader) = (self.keys.of(HEALTH_GENERATION), self.keys.of(LEADER));
        operations.push(put(&generation, &serde_json::to_vec(&mark).unwrap_or_default(), 0));
        for _ in 0..PAST_US {
            // The second: what was given up and is carried out late must not undo what was published since.
            let base = self.published_at.load(Ordering::Relaxed);
            let compare = [created_at(&leader, term), modified_at(&generation, base)];
            let (done, txn) = self.change(&compare, &operations, &[&generation, &leader], &mark, pools.len()).await?;
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
        Err(CommitError::Away(format!("health was published past this process {PAST_US} times in a row")))
    }

    /// One transaction, until it is known what became of it. Whether it was done, and the last answer: of one that was not, with the keys `reads`, among them that
    /// which holds the mark.
    async fn change(
        &self,
        compare: &[Value],
        operations: &[Value],
        reads: &[&str],
        mark: &Mark,
        count: usize,
    ) -> Result<(bool, Txn), CommitError> {
        let found: Vec<Value> = reads.iter().map(|key| read(key)).collect();
        let body = txn(compare, operations, &found);
        let until = Instant::now() + PATIENCE;
        let mut away = 0;
        loop {
            // Not by the client's own way through the endpoints: whether one of them left it open is to be known here.
            let at = self.client.current();
            let in_doubt = away > 0;
            match self.client.call_at::<Txn>(at, "kv/txn", &body).await {
                Ok(txn) => {
                    let ours = |value: &[u8]| serde_json::from_slice::<Mark>(value).is_ok_and(|found| found.id == mark.id);
                    let done = txn.succeeded || (in_doubt && txn.found().any(|kv| ours(&kv.value)));
                    if in_doubt && !done {
                        return Err(CommitError::Unknown(
                            "the connection to etcd broke, and somebody has changed the same since".to_owned(),
                        ));
                    }
                    return Ok((done, txn));
                }
                Err(Error::Refused(refusal)) => return Err(refused(&refusal, count, body.to_string().len())),
                Err(Error::Away(why)) if Instant::now() >= until => return Err(CommitError::Unknown(format!("etcd is away: {why}"))),
                Err(Error::Away(_)) => {
                    self.client.leave(at);
                    away += 1;
                    if away % self.client.endpoints() == 0 {
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }
}

/// At which revision a key was last written, of those that a transaction read.
fn revision_of(txn: &Txn, key: &str) -> Option<u64> {
    txn.found().find(|kv| kv.key == key).map(|kv| kv.mod_revision)
}

fn refused(refusal: &Refusal, count: usize, bytes: usize) -> CommitError {
    let said = &refusal.message;
    if said.contains("too many operations") {
        return CommitError::TooLarge(format!(
            "this changes {count} pools at once, and etcd takes {said:?}: its limit is 128 keys in a transaction unless it is started with a larger \
             --max-txn-ops; change fewer pools at once, or raise that limit"
        ));
    }
    // The second is said by gRPC, before etcd itself looks.
    if said.contains("request is too large") || said.contains("larger than max") {
        let megabytes = bytes as f64 * 0.75 / 1e6;
        return CommitError::TooLarge(format!(
            "this change has about {megabytes:.1} MB, and etcd takes 1.5 MiB in a transaction unless it is started with a larger \
             --max-request-bytes; change fewer pools at once, or raise that limit"
        ));
    }
    CommitError::Away(format!("etcd refuses: {said}"))
}

fn mark() -> Mark {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Mark { id: format!("{:032x}", fastrand::u128(..)), at, pools: 0, active_key: None }
}
