//! Takes over what the store says: pools and backends that come, stay and go, and what another controller has published.

use super::{Controller, Moment, Pool, Watched};
use crate::machine::Machine;
use crate::probe::Target;
use guideway_config::{Backend, Check, Intent};
use guideway_packet::time::Time;
use guideway_store::{Health, Observation, Observed, PoolHealth, Seen};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

impl Controller {
    /// Takes over a set. Who stays keeps its state; a changed check counts anew but keeps who is up; another address is another machine.
    /// What is published is taken over by whoever does not lead, and by everybody for backends that are new here.
    pub fn set(&mut self, now: Moment, seen: &Seen) {
        let set = &seen.set;
        self.generation = set.generation;
        self.trouble.clone_from(&seen.trouble);
        let before = std::mem::replace(&mut self.published, set.health.clone());
        if self.intent.as_ref().is_some_and(|intent| Arc::ptr_eq(intent, &set.intent) || **intent == *set.intent) {
            self.follow(now, &before);
            return self.mend(now, &before);
        }
        self.intent = Some(set.intent.clone());
        let gone: Vec<Arc<str>> = {
            let checked = |name: &str| set.intent.pool(name).is_some_and(|pool| pool.check.is_some());
            self.pools.keys().filter(|name| !checked(name)).cloned().collect()
        };
        for name in gone {
            if let Some(pool) = self.pools.remove(&name) {
                pool.backends.values().for_each(|id| drop(self.backends.remove(id)));
            }
        }
        for pool in &set.intent.pools {
            if let Some(check) = &pool.check {
                self.pool(now, &set.intent, pool, check);
            }
        }
        self.forget_unchecked(now);
        self.mend(now, &before);
    }

    /// Takes over what has changed since `before` in what another controller publishes. Whoever leads has written it itself.
    fn follow(&mut self, now: Moment, before: &Health) {
        if self.leading {
            return;
        }
        let news = |(name, health): &(&String, &Arc<PoolHealth>)| !before.get(*name).is_some_and(|old| Arc::ptr_eq(old, health));
        let changed: Vec<String> = self.published.iter().filter(news).map(|(name, _)| name.clone()).collect();
        for name in changed {
            let Some((name, pool)) = self.pools.remove_entry(name.as_str()) else { continue };
            let adopted = self.adopt(now, &name, &pool.backends);
            self.pools.insert(name.clone(), pool);
            if adopted {
                self.refresh(now, &name);
            }
        }
    }

    /// Whether this controller leads from now on. Whoever begins to lead starts from what is published, so that nothing changes by that alone.
    pub fn lead(&mut self, now: Moment, leading: bool) {
        if self.leading == leading {
            return;
        }
        tracing::info!(leading, "{}", if leading { "this controller publishes from now on" } else { "another controller publishes" });
        self.leading = leading;
        if !leading {
            self.pending.clear();
        }
        let pools: Vec<Arc<str>> = self.pools.keys().cloned().collect();
        pools.iter().for_each(|pool| self.refresh(now, pool));
        self.forget_unchecked(now);
    }

    fn pool(&mut self, now: Moment, intent: &Intent, pool: &guideway_config::Pool, check: &Check) {
        let vip = intent.vip_of_check(pool);
        let (name, mut old) = match self.pools.remove_entry(pool.name.as_str()) {
            Some(entry) => entry,
            None => (Arc::from(pool.name.as_str()), Pool { check: Arc::new(check.clone()), vip, backends: BTreeMap::new(), kept: 0 }),
        };
        let same = *old.check == *check && old.vip == vip;
        if !same {
            (old.check, old.vip) = (Arc::new(check.clone()), vip);
        }
        let (check, mut before, mut changed) = (old.check.clone(), std::mem::take(&mut old.backends), !same);
        for backend in &pool.backends {
            let counts = backend.weight > 0 && !backend.drain;
            // Another address is another machine: the old one stays behind in `before`.
            let stays = before.get(backend.name.as_str()).is_some_and(|id| self.has_address(*id, backend.address));
            let known = if stays { before.remove_entry(backend.name.as_str()) } else { None };
            let (backend_name, id) = match known {
                Some((backend_name, id)) if same => (backend_name, id),
                Some((backend_name, id)) => {
                    changed = true;
                    (backend_name, self.checked_anew(now, id, &check, vip))
                }
                None => {
                    changed = true;
                    (Arc::from(backend.name.as_str()), self.join(now, &name, backend, &check, vip))
                }
            };
            if let Some(watched) = self.backends.get_mut(&id) {
                changed |= std::mem::replace(&mut watched.counts, counts) != counts;
            }
            old.backends.insert(backend_name, id);
        }
        changed |= !before.is_empty();
        for id in before.values() {
            self.backends.remove(id);
        }
        if !self.leading {
            changed |= self.adopt(now, &name, &old.backends);
        }
        self.pools.insert(name.clone(), old);
        if changed {
            self.refresh(now, &name);
        }
    }

    fn has_address(&self, id: u64, address: IpAddr) -> bool {
        self.backends.get(&id).is_some_and(|watched| watched.target.address == address)
    }

    /// A backend that is new here. What was published of it stands.
    fn join(&mut self, now: Moment, pool: &Arc<str>, backend: &Backend, check: &Arc<Check>, vip: Option<IpAddr>) -> u64 {
        let name: Arc<str> = Arc::from(backend.name.as_str());
        let target = Target { pool: pool.clone(), backend: name, address: backend.address, vip, check: check.clone() };
        let mut watched = Watched {
            target,
            counts: false,
            machine: Machine::default(),
            due: Time(0),
            running: false,
            hurried: None,
            last: None,
            failure: String::new(),
            shown: Observed { state: Observation::Up, since: now.unix, why: String::new() },
            kept: false,
            checks: 0,
            failed: 0,
        };
        if let Some(published) = self.published.get(&**pool).and_then(|pool| pool.backends.get(backend.name.as_str())) {
            watched.take_over(now, published);
        }
        self.insert(now, watched)
    }

    /// A backend whose check is another one now.
    fn checked_anew(&mut self, now: Moment, id: u64, check: &Arc<Check>, vip: Option<IpAddr>) -> u64 {
        let Some(mut watched) = self.backends.remove(&id) else { return id };
        watched.target.check = check.clone();
        watched.target.vip = vip;
        watched.machine.restart();
        watched.running = false;
        self.insert(now, watched)
    }

    /// Under a number of its own, due at any moment of the next interval.
    fn insert(&mut self, now: Moment, mut watched: Watched) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let interval = u64::try_from(watched.target.check.interval.as_nanos()).unwrap_or(u64::MAX);
        watched.due = now.at.plus(Duration::from_nanos(self.random.u64(0..interval.max(1))));
        self.due.push(Reverse((watched.due, id)));
        if let Some(step) = watched.machine.deadline(now.at, &watched.target.check) {
            self.steps.push(Reverse((step, id)));
        }
        self.backends.insert(id, watched);
        id
    }

    /// Takes over what the leader says; whether anything is new.
    fn adopt(&mut self, now: Moment, pool: &str, backends: &BTreeMap<Arc<str>, u64>) -> bool {
        let Some(health) = self.published.get(pool).cloned() else { return false };
        let mut changed = false;
        for (name, id) in backends {
            let (Some(published), Some(watched)) = (health.backends.get(&**name), self.backends.get_mut(id)) else { continue };
            if watched.shown != *published {
                watched.take_over(now, published);
                changed = true;
                if let Some(step) = watched.machine.deadline(now.at, &watched.target.check) {
                    self.steps.push(Reverse((step, *id)));
                }
            }
        }
        changed
    }
}

impl Watched {
    fn take_over(&mut self, now: Moment, published: &Observed) {
        self.machine.adopt(now.at, &self.target.check, published.state);
        if published.state == Observation::Down && self.failure.is_empty() {
            self.failure.clone_from(&published.why);
        }
        self.shown.clone_from(published);
    }
}
