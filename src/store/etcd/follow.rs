//! Follows the cluster state in etcd: reads all of it, watches for changes, and detects a dead watch.
//!
//! A watch is silent while nothing changes, and just as silent when the network fails. So once a second the follower reads the two
//! generations from the same endpoint, with a read that needs a majority of the cluster. No answer means that etcd is unavailable. A
//! generation that the watch has not delivered means that the watch is dead.

use super::super::known::Known;
use super::super::{ClusterState, Stale, StaleReason, StoreView};
use super::api::{Range, Txn, WatchResponse, range, read, txn, watch};
use super::client::{Client, Error, REQUEST_TIMEOUT, Stream};
use super::keys::{HEALTH_GENERATION, INTENT_GENERATION, Keys};
use super::keyspace::Keyspace;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch::Sender;
use tokio::time::MissedTickBehavior;

/// Interval of the probe of the endpoint.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Delay between attempts to reach etcd again.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// The follower of a store.
pub(super) struct Follower {
    pub(super) client: Arc<Client>,
    pub(super) keys: Keys,
    pub(super) view: Sender<StoreView>,
    /// What this process knows, which the contents of etcd may replace.
    pub(super) known: Known,
    /// Last time at which the cluster state was known to be the newest.
    pub(super) last_fresh: Instant,
    /// Whether the view says that etcd is unavailable.
    pub(super) unavailable: bool,
}

/// Why a watch ended.
enum WatchEnd {
    /// Everything must be read again at once; this is not an error.
    Reread,
    /// An error.
    Failed(Error),
}

impl From<Error> for WatchEnd {
    fn from(error: Error) -> WatchEnd {
        WatchEnd::Failed(error)
    }
}

impl Follower {
    /// Follows until it is dropped.
    pub(super) async fn run(mut self) {
        let mut pause = MIN_BACKOFF;
        loop {
            let at = self.client.current();
            let (mut reached, began) = (false, Instant::now());
            match self.follow(at, &mut reached).await {
                WatchEnd::Reread => continue,
                // The endpoint, or another one, may answer again at once: not an outage yet.
                WatchEnd::Failed(error)
                    if reached && began.elapsed() > PROBE_INTERVAL && self.last_fresh.elapsed() < 2 * PROBE_INTERVAL =>
                {
                    tracing::debug!(%error, "watch of the store failed");
                    pause = MIN_BACKOFF;
                    self.client.rotate_endpoint(at);
                    continue;
                }
                WatchEnd::Failed(error) => {
                    self.client.rotate_endpoint(at);
                    self.mark_unavailable(error.to_string());
                }
            }
            // Random delay, so that directors that lost etcd together do not reconnect at the same instant.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(MAX_BACKOFF);
        }
    }

    async fn follow(&mut self, at: usize, reached: &mut bool) -> WatchEnd {
        match self.try_follow(at, reached).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_follow(&mut self, at: usize, reached: &mut bool) -> Result<std::convert::Infallible, WatchEnd> {
        let client = self.client.clone();
        let (first, end) = self.keys.state_range();
        let requested_at = Instant::now();
        let all: Range = client.call_at(at, "kv/range", &range(&first, &end)).await?;
        let mut keyspace = Keyspace::default();
        for kv in all.kvs {
            if let Some(short) = self.keys.short(&kv.key).map(str::to_owned) {
                keyspace.put(&short, kv);
            }
        }
        let mut stream = client.stream(at, "watch", &watch(&first, &end, all.header.revision + 1)).await?;
        *reached = true;
        // Ignores the known revision: after a restore of etcd, the same revision may hold another cluster state.
        let mut last = ClusterState::default();
        self.update(&keyspace, &mut last, requested_at);
        let mut probes = tokio::time::interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (intent, health) = (self.keys.of(INTENT_GENERATION), self.keys.of(HEALTH_GENERATION));
        let probe = txn(&[], &[read(&intent), read(&health)], &[]);
        // The generation that the last probe saw; the watch must deliver it.
        let mut expected = 0;
        loop {
            tokio::select! {
                response = stream.next::<WatchResponse>() => {
                    let arrived = Instant::now();
                    self.apply(&mut keyspace, response?)?;
                    self.update(&keyspace, &mut last, arrived);
                }
                _ = probes.tick() => {
                    let requested_at = Instant::now();
                    let known: Txn = await_while_watching(self, &mut stream, &mut keyspace, &mut last, client.call_at(at, "kv/txn", &probe)).await??;
                    let seen_generation = generation(&keyspace);
                    if expected > seen_generation {
                        return Err(WatchEnd::Failed(Error::Unavailable(format!("{}: its watch is dead", client.name(at)))));
                    }
                    expected = known.found().map(|kv| kv.mod_revision).max().unwrap_or(0);
                    if expected <= seen_generation {
                        self.last_fresh(requested_at);
                    }
                }
            }
        }
    }

    /// Applies the changes of one or more whole revisions: etcd never splits one.
    fn apply(&self, keyspace: &mut Keyspace, response: WatchResponse) -> Result<(), WatchEnd> {
        if response.compact_revision > 0 {
            tracing::info!(compacted = response.compact_revision, "revisions compacted by etcd; reading all keys again");
            return Err(WatchEnd::Reread);
        }
        if response.canceled {
            // The reason may be an invalid login, which a watch does not report as such.
            self.client.invalidate_token();
            return Err(WatchEnd::Failed(Error::Unavailable(format!("etcd ended the watch: {}", response.cancel_reason))));
        }
        for event in response.events {
            let Some(short) = self.keys.short(&event.kv.key).map(str::to_owned) else { continue };
            if event.is_delete() { keyspace.delete(&short) } else { keyspace.put(&short, event.kv) }
        }
        Ok(())
    }

    /// Builds a cluster state from the keys and publishes it, or publishes why that must not be.
    fn update(&mut self, keyspace: &Keyspace, last: &mut ClusterState, at: Instant) {
        let taken = match keyspace.cluster_state(last) {
            Ok(cluster) => {
                *last = cluster.clone();
                let cluster = Arc::new(cluster);
                self.known.take(cluster.clone()).map(|()| cluster).map_err(|why| (StaleReason::RolledBack, why))
            }
            Err(why) => Err((StaleReason::Invalid, why)),
        };
        match taken {
            Ok(cluster) => {
                self.last_fresh = at;
                if std::mem::take(&mut self.unavailable) {
                    tracing::info!(generation = cluster.generation, "etcd available again");
                }
                self.view.send_if_modified(|view| {
                    let changed = view.cluster != cluster;
                    let recovered = view.stale.take().is_some();
                    if changed {
                        view.cluster = cluster;
                    }
                    changed || recovered
                });
            }
            Err((reason, why)) => {
                // It answers.
                self.unavailable = false;
                self.stale(reason, why);
            }
        }
    }

    /// Marks the cluster state as the newest at this time, unless etcd holds invalid keys.
    fn last_fresh(&mut self, at: Instant) {
        if self.view.borrow().stale.is_none() {
            self.last_fresh = at;
        }
    }

    /// Logs the first error of an outage; the errors of further attempts are not news.
    fn mark_unavailable(&mut self, why: String) {
        if !std::mem::replace(&mut self.unavailable, true) {
            return self.stale(StaleReason::Unavailable, why);
        }
        self.view.send_if_modified(|view| {
            view.stale.get_or_insert_with(|| Stale { since: self.last_fresh, reason: StaleReason::Unavailable, why: String::new() }).why =
                why;
            false
        });
    }

    fn stale(&self, reason: StaleReason, why: String) {
        self.view.send_if_modified(|view| {
            // What this host knows is as good as before, also right after its start.
            let starts = reason != StaleReason::Unavailable && view.cluster.generation == 0 && self.known.state().generation > 0;
            if starts {
                view.cluster = self.known.state().clone();
            }
            view.set_stale(Stale { since: self.last_fresh, reason, why }) || starts
        });
    }
}

/// Returns the higher of the two generations.
fn generation(keyspace: &Keyspace) -> u64 {
    keyspace.revision(INTENT_GENERATION).max(keyspace.revision(HEALTH_GENERATION))
}

/// Waits for a response and handles watch messages meanwhile, so that a slow response delays no change.
async fn await_while_watching<T>(
    follower: &mut Follower,
    stream: &mut Stream,
    keyspace: &mut Keyspace,
    last: &mut ClusterState,
    answer: impl Future<Output = T>,
) -> Result<T, WatchEnd> {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT * 2, answer);
    tokio::pin!(answer);
    loop {
        tokio::select! {
            answer = &mut answer => return answer.map_err(|_| WatchEnd::Failed(Error::Unavailable("no answer".to_owned()))),
            response = stream.next::<WatchResponse>() => {
                let arrived = Instant::now();
                follower.apply(keyspace, response?)?;
                follower.update(keyspace, last, arrived);
            }
        }
    }
}

#[cfg(test)]
mod tests;
