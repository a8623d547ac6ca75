//! Follows the set in etcd: reads it whole, watches from there on, and finds out when the watch has died without a word.
//!
//! A watch is a stream that is silent while nothing changes, and just as silent when somebody has pulled a cable. So once a second the same endpoint is
//! asked for the two generations, by a read that needs a majority of the cluster: no answer means that etcd is away, and a generation that the watch
//! has not brought means that the watch is dead.

use super::super::{Seen, Set, Trouble};
use super::api::{Range, Txn, Watched, range, read, txn, watch};
use super::client::{Client, Error, PATIENCE, Stream};
use super::contents::Contents;
use super::keys::{HEALTH_GENERATION, INTENT_GENERATION, Keys};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch::Sender;
use tokio::time::MissedTickBehavior;

/// How often the endpoint is asked whether it is there.
const PROBE: Duration = Duration::from_secs(1);
/// Between attempts to find etcd again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Who follows.
pub(super) struct Follower {
    pub(super) client: Arc<Client>,
    pub(super) keys: Keys,
    pub(super) seen: Sender<Seen>,
    /// When the set was last known to be the newest.
    pub(super) fresh: Instant,
    /// Whether it was told that etcd is away.
    pub(super) away: bool,
}

/// Why a watch ended.
enum End {
    /// Read anew, at once: nothing is wrong.
    Anew,
    /// Something is.
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Failed(error)
    }
}

impl Follower {
    /// Follows until it is dropped.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let at = self.client.current();
            let (mut reached, began) = (false, Instant::now());
            match self.follow(at, &mut reached).await {
                End::Anew => continue,
                // What was there a moment ago may be there again, or its neighbour may: no trouble yet.
                End::Failed(error) if reached && began.elapsed() > PROBE && self.fresh.elapsed() < 2 * PROBE => {
                    tracing::debug!("the watch of the store broke: {error}");
                    pause = FIRST_PAUSE;
                    self.client.leave(at);
                    continue;
                }
                End::Failed(error) => {
                    self.client.leave(at);
                    self.is_away(error.to_string());
                }
            }
            // Directors that lost etcd together do not come back in the same instant.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn follow(&mut self, at: usize, reached: &mut bool) -> End {
        match self.try_follow(at, reached).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_follow(&mut self, at: usize, reached: &mut bool) -> Result<std::convert::Infallible, End> {
        let client = self.client.clone();
        let (first, end) = self.keys.set();
        let asked = Instant::now();
        let all: Range = client.call_at(at, "kv/range", &range(&first, &end)).await?;
        let mut contents = Contents::default();
        for kv in all.kvs {
            if let Some(short) = self.keys.short(&kv.key).map(str::to_owned) {
                contents.put(&short, kv);
            }
        }
        let mut stream = client.stream(at, "watch", &watch(&first, &end, all.header.revision + 1)).await?;
        *reached = true;
        // Read without regard to what was known: after a restore of etcd the same revision may be another set.
        let mut last = Set::default();
        self.take(&contents, &mut last, asked);
        let mut probes = tokio::time::interval(PROBE);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (intent, health) = (self.keys.of(INTENT_GENERATION), self.keys.of(HEALTH_GENERATION));
        let probe = txn(&[], &[read(&intent), read(&health)], &[]);
        // What the last probe saw and the watch has yet to bring.
        let mut expected = 0;
        loop {
            tokio::select! {
                watched = stream.next::<Watched>() => {
                    let arrived = Instant::now();
                    self.apply(&mut contents, watched?)?;
                    self.take(&contents, &mut last, arrived);
                }
                _ = probes.tick() => {
                    let asked = Instant::now();
                    let known: Txn = while_listening(self, &mut stream, &mut contents, &mut last, client.call_at(at, "kv/txn", &probe)).await??;
                    let brought = generation(&contents);
                    if expected > brought {
                        return Err(End::Failed(Error::Away(format!("{}: its watch is dead", client.name(at)))));
                    }
                    expected = known.found().map(|kv| kv.mod_revision).max().unwrap_or(0);
                    if expected <= brought {
                        self.fresh(asked);
                    }
                }
            }
        }
    }

    /// Applies the changes of one or more whole revisions: etcd never splits one.
    fn apply(&self, contents: &mut Contents, watched: Watched) -> Result<(), End> {
        if watched.compact_revision > 0 {
            tracing::info!(
                compacted = watched.compact_revision,
                "etcd no longer has all changes since the last that was seen; reading all"
            );
            return Err(End::Anew);
        }
        if watched.canceled {
            // The reason may be a login that is no longer good, which a watch is not told in so many words.
            self.client.forget_login();
            return Err(End::Failed(Error::Away(format!("etcd ended the watch: {}", watched.cancel_reason))));
        }
        for event in watched.events {
            let Some(short) = self.keys.short(&event.kv.key).map(str::to_owned) else { continue };
            if event.is_delete() { contents.delete(&short) } else { contents.put(&short, event.kv) }
        }
        Ok(())
    }

    /// Makes a set of the contents and says so; or says why that cannot be done.
    fn take(&mut self, contents: &Contents, last: &mut Set, at: Instant) {
        match contents.set(last) {
            Ok(set) => {
                *last = set.clone();
                self.fresh = at;
                if std::mem::take(&mut self.away) {
                    tracing::info!(generation = set.generation, "etcd is back");
                }
                self.seen.send_if_modified(|seen| {
                    let changed = *seen.set != set;
                    let mended = seen.trouble.take().is_some();
                    if changed {
                        seen.set = Arc::new(set);
                    }
                    changed || mended
                });
            }
            Err(why) => self.trouble(why),
        }
    }

    /// The set was known to be the newest at this time, unless etcd holds what cannot be used.
    fn fresh(&mut self, at: Instant) {
        if self.seen.borrow().trouble.is_none() {
            self.fresh = at;
        }
    }

    /// The first word of it is news; that each attempt, at each endpoint, fails in its own way is not.
    fn is_away(&mut self, why: String) {
        if !std::mem::replace(&mut self.away, true) {
            return self.trouble(why);
        }
        self.seen.send_if_modified(|seen| {
            seen.trouble.get_or_insert_with(|| Trouble { since: self.fresh, why: String::new() }).why = why;
            false
        });
    }

    fn trouble(&self, why: String) {
        self.seen.send_if_modified(|seen| {
            if seen.trouble.as_ref().is_some_and(|trouble| trouble.why == why) {
                return false;
            }
            tracing::warn!(generation = seen.set.generation, "the last good set stands: {why}");
            seen.trouble = Some(Trouble { since: self.fresh, why });
            true
        });
    }
}

/// The higher of the two generations.
fn generation(contents: &Contents) -> u64 {
    contents.revision(INTENT_GENERATION).max(contents.revision(HEALTH_GENERATION))
}

/// Waits for an answer and meanwhile does what the watch says: a slow answer delays no change.
async fn while_listening<T>(
    follower: &mut Follower,
    stream: &mut Stream,
    contents: &mut Contents,
    last: &mut Set,
    answer: impl Future<Output = T>,
) -> Result<T, End> {
    let answer = tokio::time::timeout(PATIENCE * 2, answer);
    tokio::pin!(answer);
    loop {
        tokio::select! {
            answer = &mut answer => return answer.map_err(|_| End::Failed(Error::Away("no answer".to_owned()))),
            watched = stream.next::<Watched>() => {
                let arrived = Instant::now();
                follower.apply(contents, watched?)?;
                follower.take(contents, last, arrived);
            }
        }
    }
}

#[cfg(test)]
mod tests;
