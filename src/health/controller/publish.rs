//! Decides what to publish and when: a change at once, changes soon after it together, changes without effect on directors after a delay,
//! and everything again after an outage of the store.

use super::pending::Pending;
use super::{Controller, Moment};
use guideway_packet::time::Time;
use guideway_store::{Health, Observed, PoolHealth};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Time within which further changes of a pool are published together.
const BATCH_DELAY: Duration = Duration::from_millis(50);
/// Delay for changes without effect on directors: a backend without health is up.
const LOW_PRIORITY_DELAY: Duration = Duration::from_secs(2);
/// First delay between attempts while the store is unavailable, and the maximum.
const MIN_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(5);

impl Controller {
    /// Returns the health to write now; [`Controller::published`] must follow for each pool. Empty health: the pool is no longer checked.
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
                (pending.running, pending.due, pending.earliest) = (true, None, now.at.plus(BATCH_DELAY));
            }
            all.push((name, health));
        }
        all
    }

    /// Takes the result of a write to the store.
    pub fn published(&mut self, now: Moment, name: &Arc<str>, health: PoolHealth, outcome: Result<(), String>) {
        let Some(pending) = self.pending.get_mut(name) else { return };
        pending.running = false;
        match outcome {
            Ok(()) => {
                self.counts.published += 1;
                pending.failures = 0;
                // The store's watcher will report the same soon; until then this is the known content.
                self.published.insert(name.to_string(), Arc::new(health));
                if pending.due.is_none() && pending.earliest <= now.at {
                    self.pending.remove(name);
                }
            }
            Err(why) => {
                self.counts.refused += 1;
                if pending.failures == 0 {
                    tracing::error!(pool = %name, reason = %why, "health not published, retrying");
                }
                let wait = MIN_RETRY.saturating_mul(1 << pending.failures.min(10)).min(MAX_RETRY);
                pending.failures = pending.failures.saturating_add(1);
                pending.earliest = now.at.plus(wait);
                pending.due = Some(pending.earliest);
            }
        }
    }

    /// Returns when [`Controller::publish`] next returns something.
    pub(super) fn next_publish(&self) -> Option<Time> {
        if !self.leading {
            return None;
        }
        let due = |pending: &Pending| pending.due.filter(|_| !pending.running).map(|due| due.max(pending.earliest));
        self.pending.values().filter_map(due).min()
    }

    /// Marks a pool as changed; `urgent` when directors would see the change.
    pub(super) fn schedule_publish(&mut self, now: Moment, name: &Arc<str>, urgent: bool) {
        if !self.leading {
            return;
        }
        let at = if urgent { now.at } else { now.at.plus(LOW_PRIORITY_DELAY) };
        let pending = self.pending.entry(name.clone()).or_default();
        pending.due = Some(pending.due.map_or(at, |due| due.min(at)));
    }

    /// Removes the health of pools that are no longer checked, so that no backend stays down.
    pub(super) fn clear_unchecked(&mut self, now: Moment) {
        let stale = |(name, health): &(&String, &Arc<PoolHealth>)| !health.backends.is_empty() && !self.pools.contains_key(name.as_str());
        let stale: Vec<Arc<str>> = self.published.iter().filter(stale).map(|(name, _)| Arc::from(name.as_str())).collect();
        stale.iter().for_each(|name| self.schedule_publish(now, name, true));
    }

    /// Repairs the health of a pool in the store that differs from what this leading controller shows, because of a late write or one by
    /// hand. Writes it again, unless the watcher of the store was only behind.
    pub(super) fn repair(&mut self, now: Moment, before: &Health) {
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
                self.schedule_publish(now, &name, false);
            }
        }
    }

    /// Returns whether the store has this health of a pool.
    fn is_published(&self, name: &str, health: &PoolHealth) -> bool {
        self.published.get(name).map_or(health.backends.is_empty(), |published| **published == *health)
    }

    /// Returns the known health of a pool, without backends that were not checked yet.
    fn health_of(&self, name: &Arc<str>) -> PoolHealth {
        let ids = self.pools.get(name).into_iter().flat_map(|pool| &pool.backends);
        let shown = ids.filter_map(|(backend, id)| Some((backend.to_string(), self.backends.get(id)?.shown.clone())));
        let observed_backends: BTreeMap<String, Observed> = shown.filter(|(_, observed)| !observed.why.is_empty()).collect();
        PoolHealth { backends: observed_backends }
    }

    /// Returns all health that this controller would publish.
    pub fn health(&self) -> Health {
        self.pools.keys().map(|name| (name.to_string(), Arc::new(self.health_of(name)))).collect()
    }
}
