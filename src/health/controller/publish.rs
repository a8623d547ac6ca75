//! What is to be published, and when: a change at once, those that follow it gathered, what directors would not notice with some patience, and
//! all of it again while the store is away.

use super::{Controller, Moment};
use guideway_packet::time::Time;
use guideway_store::{Health, Observed, PoolHealth};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Changes of a pool that follow one another sooner are published together.
const GATHER: Duration = Duration::from_millis(50);
/// For what changes nothing for directors: that a backend which counted as up is up.
const PATIENCE: Duration = Duration::from_secs(2);
/// From one attempt to the next while the store is away, and at most.
const RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// A pool that has something to publish, had something a moment ago, or is being published.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// When to publish; `None`: nothing is new.
    due: Option<Time>,
    /// Not sooner.
    earliest: Time,
    /// Being written.
    running: bool,
    failures: u32,
}

impl Pending {
    /// Whether there is something that the store does not have.
    pub(super) fn is_waiting(&self) -> bool {
        self.running || self.due.is_some()
    }
}

impl Controller {
    /// What is to be written to the store now: to be followed by [`Controller::published`] for each. Empty health: the pool is no longer checked.
    pub fn publish(&mut self, now: Moment) -> Vec<(Arc<str>, PoolHealth)> {
        if !self.leading {
            return Vec::new();
        }
        let due = |pending: &Pending| !pending.running && pending.due.is_some_and(|due| due.max(pending.earliest) <= now.at);
        let names: Vec<Arc<str>> = self.pending.iter().filter(|(_, pending)| due(pending)).map(|(name, _)| name.clone()).collect();
        let mut all = Vec::new();
        for name in names {
            let health = self.health_of(&name);
            if self.is_published(&name, &health) {
                self.pending.remove(&name);
                continue;
            }
            if let Some(pending) = self.pending.get_mut(&name) {
                (pending.running, pending.due, pending.earliest) = (true, None, now.at.plus(GATHER));
            }
            all.push((name, health));
        }
        all
    }

    /// How writing to the store ended.
    pub fn published(&mut self, now: Moment, name: &Arc<str>, health: PoolHealth, outcome: Result<(), String>) {
        let Some(pending) = self.pending.get_mut(name) else { return };
        pending.running = false;
        match outcome {
            Ok(()) => {
                self.counts.published += 1;
                pending.failures = 0;
                // The store's watcher will say the same in a moment; until then this is what is known to be there.
                self.published.insert(name.to_string(), Arc::new(health));
                if pending.due.is_none() && pending.earliest <= now.at {
                    self.pending.remove(name);
                }
            }
            Err(why) => {
                self.counts.refused += 1;
                if pending.failures == 0 {
                    tracing::error!(pool = %name, "the store does not take what was seen, which is tried again until it does: {why}");
                }
                let wait = RETRY.saturating_mul(1 << pending.failures.min(10)).min(LONGEST_RETRY);
                pending.failures = pending.failures.saturating_add(1);
                pending.earliest = now.at.plus(wait);
                pending.due = Some(pending.earliest);
            }
        }
    }

    /// When [`Controller::publish`] gives something next.
    pub(super) fn publishing_due(&self) -> Option<Time> {
        if !self.leading {
            return None;
        }
        let due = |pending: &Pending| pending.due.filter(|_| !pending.running).map(|due| due.max(pending.earliest));
        self.pending.values().filter_map(due).min()
    }

    /// Something of a pool is new; `urgent` when directors would see it.
    pub(super) fn touch(&mut self, now: Moment, name: &Arc<str>, urgent: bool) {
        if !self.leading {
            return;
        }
        let at = if urgent { now.at } else { now.at.plus(PATIENCE) };
        let pending = self.pending.entry(name.clone()).or_default();
        pending.due = Some(pending.due.map_or(at, |due| due.min(at)));
    }

    /// Pools that are published and no longer checked must not stay down.
    pub(super) fn forget_unchecked(&mut self, now: Moment) {
        let stale = |(name, health): &(&String, &Arc<PoolHealth>)| !health.backends.is_empty() && !self.pools.contains_key(name.as_str());
        let stale: Vec<Arc<str>> = self.published.iter().filter(stale).map(|(name, _)| Arc::from(name.as_str())).collect();
        stale.iter().for_each(|name| self.touch(now, name, true));
    }

    /// The store says of a pool since `before` what this controller, which leads, does not show: a write that came late, or one by hand. It is written
    /// again, unless the store's watcher was only behind and has come up by then.
    pub(super) fn mend(&mut self, now: Moment, before: &Health) {
        if !self.leading {
            return;
        }
        let changed = |name: &&String| match (before.get(*name), self.published.get(*name)) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            (old, new) => old.is_some() || new.is_some(),
        };
        let gone = before.keys().filter(|name| !self.published.contains_key(*name));
        let names: Vec<Arc<str>> = self.published.keys().chain(gone).filter(changed).map(|name| Arc::from(name.as_str())).collect();
        for name in names {
            if !self.is_published(&name, &self.health_of(&name)) {
                self.touch(now, &name, false);
            }
        }
    }

    /// Whether the store says this of a pool.
    fn is_published(&self, name: &str, health: &PoolHealth) -> bool {
        self.published.get(name).map_or(health.backends.is_empty(), |published| **published == *health)
    }

    /// What is known of a pool; nothing of backends that nobody has looked at.
    fn health_of(&self, name: &Arc<str>) -> PoolHealth {
        let ids = self.pools.get(name).into_iter().flat_map(|pool| &pool.backends);
        let shown = ids.filter_map(|(backend, id)| Some((backend.to_string(), self.backends.get(id)?.shown.clone())));
        let known: BTreeMap<String, Observed> = shown.filter(|(_, observed)| !observed.why.is_empty()).collect();
        PoolHealth { backends: known }
    }

    /// Everything that this controller would publish.
    pub fn health(&self) -> Health {
        self.pools.keys().map(|name| (name.to_string(), Arc::new(self.health_of(name)))).collect()
    }
}
