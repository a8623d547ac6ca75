//! Applies changes of the store: new, remaining and removed pools and backends, and health that another controller published.

use super::{CheckedBackend, Controller, Moment, Pool};
use crate::probe::Target;
use crate::state_machine::{BackendMachine, Phase};
use guideway_config::{Backend, Check, Intent};
use guideway_packet::time::Time;
use guideway_store::{Health, Observation, Observed, PoolHealth, StoreView};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

impl Controller {
    /// Applies a cluster state. Remaining backends keep their state. A changed check counts anew but keeps the state; another address is
    /// another machine. A standby adopts the published health, and every controller does so for backends that are new to it.
    pub fn update_state(&mut self, now: Moment, view: &StoreView) {
        let cluster = &view.cluster;
        self.generation = cluster.generation;
        self.stale.clone_from(&view.stale);
        let before = std::mem::replace(&mut self.published, cluster.health.clone());
        if self.intent.as_ref().is_some_and(|intent| Arc::ptr_eq(intent, &cluster.intent) || **intent == *cluster.intent) {
            self.adopt_all_published(now, &before);
            return self.repair(now, &before);
        }
        self.intent = Some(cluster.intent.clone());
        let gone: Vec<Arc<str>> = {
            let checked = |name: &str| cluster.intent.pool(name).is_some_and(|pool| pool.check.is_some());
            self.pools.keys().filter(|name| !checked(name)).cloned().collect()
        };
        for name in gone {
            if let Some(pool) = self.pools.remove(&name) {
                pool.backends.values().for_each(|id| drop(self.backends.remove(id)));
            }
        }
        for pool in &cluster.intent.pools {
            if let Some(check) = &pool.check {
                self.update_pool(now, &cluster.intent, pool, check);
            }
        }
        self.clear_unchecked(now);
        self.repair(now, &before);
    }

    /// Adopts changes since `before` that another controller published. A leader has written them itself.
    fn adopt_all_published(&mut self, now: Moment, before: &Health) {
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

    /// Sets whether this controller leads from now on. A new leader starts from the published health, so that the change of leader alone
    /// changes nothing.
    pub fn set_leading(&mut self, now: Moment, leading: bool) {
        if self.leading == leading {
            return;
        }
        tracing::info!(leading, "{}", if leading { "health leadership acquired" } else { "health leadership elsewhere" });
        self.leading = leading;
        if !leading {
            self.pending.clear();
        }
        let pools: Vec<Arc<str>> = self.pools.keys().cloned().collect();
        pools.iter().for_each(|pool| self.refresh(now, pool));
        self.clear_unchecked(now);
    }

    fn update_pool(&mut self, now: Moment, intent: &Intent, pool: &guideway_config::Pool, check: &Check) {
        let vip = intent.vip_of_check(pool);
        let (name, mut old) = match self.pools.remove_entry(pool.name.as_str()) {
            Some(entry) => entry,
            None => (Arc::from(pool.name.as_str()), Pool { check: Arc::new(check.clone()), vip, backends: BTreeMap::new(), held_up: 0 }),
        };
        let same = *old.check == *check && old.vip == vip;
        if !same {
            (old.check, old.vip) = (Arc::new(check.clone()), vip);
        }
        let (check, mut before, mut changed) = (old.check.clone(), std::mem::take(&mut old.backends), !same);
        for backend in &pool.backends {
            let takes_new_flows = backend.weight > 0 && !backend.drain;
            // Another address is another machine: the old backend stays in `before` and is dropped.
            let stays = before.get(backend.name.as_str()).is_some_and(|id| self.has_address(*id, backend.address));
            let same = same && stays && self.has_tid_range(&before, backend);
            let existing = if stays { before.remove_entry(backend.name.as_str()) } else { None };
            let (backend_name, id) = match existing {
                Some((backend_name, id)) if same => (backend_name, id),
                Some((backend_name, id)) => {
                    changed = true;
                    (backend_name, self.replace_check(now, id, backend, &check, vip))
                }
                None => {
                    changed = true;
                    (Arc::from(backend.name.as_str()), self.add_backend(now, &name, backend, &check, vip))
                }
            };
            if let Some(checked_backend) = self.backends.get_mut(&id) {
                changed |= std::mem::replace(&mut checked_backend.takes_new_flows, takes_new_flows) != takes_new_flows;
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
        self.backends.get(&id).is_some_and(|checked_backend| checked_backend.target.address == address)
    }

    fn has_tid_range(&self, ids: &BTreeMap<Arc<str>, u64>, backend: &Backend) -> bool {
        let known = ids.get(backend.name.as_str()).and_then(|id| self.backends.get(id));
        known.is_some_and(|checked_backend| checked_backend.target.tid_range == backend.tid_range)
    }

    /// Creates a backend that is new to this controller, with its published state.
    fn add_backend(&mut self, now: Moment, pool: &Arc<str>, backend: &Backend, check: &Arc<Check>, vip: Option<IpAddr>) -> u64 {
        let name: Arc<str> = Arc::from(backend.name.as_str());
        let (address, tid_range) = (backend.address, backend.tid_range);
        let target = Target { pool: pool.clone(), backend: name, address, tid_range, vip, check: check.clone() };
        let mut checked_backend = CheckedBackend {
            target,
            takes_new_flows: false,
            machine: BackendMachine::default(),
            due: Time(0),
            running: false,
            expedited: None,
            last: None,
            failure: String::new(),
            not_run: 0,
            shown: Observed { state: Observation::Up, since: now.unix, why: String::new(), unknown: false },
            held_up: false,
            checks: 0,
            failed: 0,
        };
        if let Some(published) = self.published.get(&**pool).and_then(|pool| pool.backends.get(backend.name.as_str())) {
            checked_backend.adopt_published(now, published);
        }
        self.insert(now, checked_backend)
    }

    /// Restarts a backend whose check has changed.
    fn replace_check(&mut self, now: Moment, id: u64, backend: &Backend, check: &Arc<Check>, vip: Option<IpAddr>) -> u64 {
        let Some(mut checked_backend) = self.backends.remove(&id) else { return id };
        checked_backend.target.tid_range = backend.tid_range;
        checked_backend.target.check = check.clone();
        checked_backend.target.vip = vip;
        checked_backend.machine.restart();
        checked_backend.running = false;
        self.insert(now, checked_backend)
    }

    /// Schedules a backend under a new id, at a random time within the next interval.
    fn insert(&mut self, now: Moment, mut checked_backend: CheckedBackend) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let interval = u64::try_from(checked_backend.target.check.interval.as_nanos()).unwrap_or(u64::MAX);
        checked_backend.due = now.at.plus(Duration::from_nanos(self.random.u64(0..interval.max(1))));
        self.due.push(Reverse((checked_backend.due, id)));
        if let Some(step) = checked_backend.machine.deadline(now.at, &checked_backend.target.check) {
            self.steps.push(Reverse((step, id)));
        }
        self.backends.insert(id, checked_backend);
        id
    }

    /// Adopts the state that the leader published; returns whether it is new.
    fn adopt(&mut self, now: Moment, pool: &str, backends: &BTreeMap<Arc<str>, u64>) -> bool {
        let Some(health) = self.published.get(pool).cloned() else { return false };
        let mut changed = false;
        for (name, id) in backends {
            let (Some(published), Some(checked_backend)) = (health.backends.get(&**name), self.backends.get_mut(id)) else { continue };
            if checked_backend.shown != *published {
                checked_backend.adopt_published(now, published);
                changed = true;
                if let Some(step) = checked_backend.machine.deadline(now.at, &checked_backend.target.check) {
                    self.steps.push(Reverse((step, *id)));
                }
            }
        }
        changed
    }
}

impl CheckedBackend {
    fn adopt_published(&mut self, now: Moment, published: &Observed) {
        // The first check of a backend that nobody could check decides alone.
        if !(published.unknown && self.machine.phase() == Phase::Unknown && published.state == Observation::Up) {
            self.machine.adopt(now.at, &self.target.check, published.state);
        }
        if published.state == Observation::Down && self.failure.is_empty() {
            self.failure.clone_from(&published.why);
        }
        self.shown.clone_from(published);
    }
}
