//! The backends and their ids and server ports, for as long as their transfers may live.

use super::entry::BackendState;
use super::error::{ApplyError, RangeHeld};
use crate::next_hops::NextHops;
use guideway_config::Config;
use guideway_dataplane::tables::{BackendId, NO_BACKEND};
use guideway_packet::time::Time;
use guideway_store::{Health, Observation};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Time before a released id is used again: the longest idle timeout, so that no flow table still holds it.
pub(super) const ID_QUARANTINE: Duration = Duration::from_secs(12 * 3600);

/// The pool name of directors of the remote site. No pool can have this name.
const REMOTE_SITE: &str = "remote site";

/// The pool name of the other directors of the fleet. No pool can have this name, either.
const FLEET: &str = "this fleet";

/// The key of a backend: entries of two files with the same key are the same backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) pool: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) address: IpAddr,
}

impl Identity {
    /// Returns whether it is a director, of the remote site or of the fleet, which is no backend but has an id like one.
    pub(super) fn is_director(&self) -> bool {
        matches!(&*self.pool, REMOTE_SITE | FLEET)
    }
}

/// A range of server ports. `released_at` is when the file no longer gave it to this backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RangeClaim {
    pub(super) range: (u16, u16),
    released_at: Option<Time>,
}

/// The state of a backend.
#[derive(Clone, Debug)]
pub(super) struct RegistryEntry {
    pub(super) id: BackendId,
    pub(super) weight: u16,
    /// Whether the file drains it.
    pub(super) drain: bool,
    /// Its observed health.
    pub(super) health: Observation,
    /// Time since which it is no longer in the file.
    pub(super) retired: Option<Time>,
    /// Packets cannot reach it, while they can reach another backend of its pool that gets new flows.
    pub(super) unreachable: bool,
    claims: Vec<RangeClaim>,
}

/// All backends of the file, and retired ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    pub(super) entries: BTreeMap<Identity, RegistryEntry>,
    /// Released ids and the time of their release, oldest first.
    quarantined_ids: VecDeque<(Time, BackendId)>,
    /// The lowest id that was never used.
    next: BackendId,
    /// `[director] retire` of the last file.
    retire: Duration,
}

/// The entries of one pool.
#[derive(Debug, Default)]
pub(super) struct Members<'r>(Vec<(&'r Identity, &'r RegistryEntry)>);

impl<'r> Members<'r> {
    /// Returns the pool's name as its backends have it, or `None` if it has no backends.
    pub(super) fn pool(&self) -> Option<Arc<str>> {
        self.0.first().map(|(identity, _)| identity.pool.clone())
    }

    /// Returns the id of every backend, by name and address.
    pub(super) fn ids(&self) -> HashMap<(&'r str, IpAddr), BackendId> {
        self.0.iter().map(|(identity, entry)| ((&*identity.name, identity.address), entry.id)).collect()
    }

    /// Returns the ranges with their owners: first those of the file, then released ones that are still held.
    pub(super) fn ranges(&self) -> Vec<((u16, u16), BackendId)> {
        let mut claims: Vec<_> = self.claims().collect();
        claims.sort_by_key(|(_, _, claim)| claim.released_at.is_some());
        claims.into_iter().map(|(_, entry, claim)| (claim.range, entry.id)).collect()
    }

    /// Returns the ids of backends that are down.
    pub(super) fn down(&self) -> HashSet<BackendId> {
        self.0.iter().filter(|(_, entry)| entry.health == Observation::Down).map(|(_, entry)| entry.id).collect()
    }

    /// Returns names and addresses of backends that packets cannot reach.
    pub(super) fn unreachable(&self) -> HashSet<(&'r str, IpAddr)> {
        self.0.iter().filter(|(_, entry)| entry.unreachable).map(|(identity, _)| (&*identity.name, identity.address)).collect()
    }

    /// Returns names and ids of backends that are no longer in the file.
    pub(super) fn former(&self) -> Vec<(Arc<str>, BackendId)> {
        self.0.iter().filter(|(_, entry)| entry.retired.is_some()).map(|(identity, entry)| (identity.name.clone(), entry.id)).collect()
    }

    fn claims(&self) -> impl Iterator<Item = (&'r Identity, &'r RegistryEntry, &'r RangeClaim)> {
        self.0.iter().flat_map(|(identity, entry)| entry.claims.iter().map(|claim| (*identity, *entry, claim)))
    }
}

impl RegistryEntry {
    /// Returns its state, which says whether it gets new flows.
    pub(super) fn state(&self) -> BackendState {
        match (self.retired, self.drain || self.weight == 0, self.health) {
            (Some(_), ..) => BackendState::Retired,
            (None, _, Observation::Down) => BackendState::Down,
            (None, true, _) => BackendState::Drained,
            (None, false, _) if self.unreachable => BackendState::Unreachable,
            (None, false, Observation::Slow { .. }) => BackendState::Slow,
            (None, false, Observation::Up) => BackendState::Active,
        }
    }
}

impl Registry {
    /// Updates the registry from a file and the other directors of the fleet. After an error the registry is inconsistent: call this on a copy.
    pub(super) fn update(&mut self, config: &Config, fleet: &[IpAddr], health: &Health, now: Time) -> Result<(), ApplyError> {
        self.retire = config.director.retire;
        self.expire(now);
        let mut seen = BTreeSet::new();
        // One name for all that belongs to a pool, so that the packet path may compare names by their place in memory.
        let known: HashMap<Arc<str>, Arc<str>> =
            self.entries.keys().map(|identity| (identity.pool.clone(), identity.pool.clone())).collect();
        for pool in &config.pools {
            let pool_name = known.get(pool.name.as_str()).cloned().unwrap_or_else(|| pool.name.as_str().into());
            for backend in &pool.backends {
                let identity = Identity { pool: pool_name.clone(), name: backend.name.as_str().into(), address: backend.address };
                let entry = self.entry(&identity, now)?;
                entry.weight = backend.weight;
                entry.drain = backend.drain;
                entry.health = health.get(&pool.name).map_or(Observation::Up, |health| health.of(&backend.name));
                entry.retired = None;
                for claim in &mut entry.claims {
                    let kept = backend.tid_range == Some(claim.range);
                    claim.released_at = if kept { None } else { claim.released_at.or(Some(now)) };
                }
                if let Some(range) = backend.tid_range
                    && entry.claims.iter().all(|c| c.range != range)
                {
                    entry.claims.push(RangeClaim { range, released_at: None });
                }
                seen.insert(identity);
            }
        }
        let remote_site = config.director.remote_site.iter().map(|address| (REMOTE_SITE, address));
        for (pool, address) in remote_site.chain(fleet.iter().map(|address| (FLEET, address))) {
            let identity = Identity { pool: pool.into(), name: address.to_string().into(), address: *address };
            let entry = self.entry(&identity, now)?;
            (entry.weight, entry.retired) = (1, None);
            seen.insert(identity);
        }
        for (identity, entry) in &mut self.entries {
            if !seen.contains(identity) {
                entry.retired = entry.retired.or(Some(now));
                // It keeps its last health, unless it is still observed. The observation may be that of another backend with the same name.
                let lowest = Identity { address: IpAddr::from([0, 0, 0, 0]), ..identity.clone() };
                let named = seen.range(lowest..).next().is_some_and(|other| (&other.pool, &other.name) == (&identity.pool, &identity.name));
                let observed = health.get(&*identity.pool).and_then(|health| health.backends.get(&*identity.name));
                entry.health = observed.filter(|_| !named).map_or(entry.health, |observed| observed.state);
                entry.claims.iter_mut().for_each(|claim| claim.released_at = claim.released_at.or(Some(now)));
            }
        }
        self.expire(now);
        self.conflicts(now)
    }

    /// Marks the backends that packets cannot reach. Where they reach no other one of the pool, nothing is better than what is there.
    pub(super) fn mark_unreachable(&mut self, hops: &NextHops) {
        let pools = self.reachable_pools(hops);
        for (identity, entry) in &mut self.entries {
            entry.unreachable = hops.is_unreachable(identity.address) && pools.contains(&identity.pool);
        }
    }

    /// Returns whether [`Registry::mark_unreachable`] would change nothing.
    pub(super) fn is_marked(&self, hops: &NextHops) -> bool {
        let pools = self.reachable_pools(hops);
        let marked = |(identity, entry): (&Identity, &RegistryEntry)| {
            entry.unreachable == (hops.is_unreachable(identity.address) && pools.contains(&identity.pool))
        };
        self.entries.iter().all(marked)
    }

    /// Pools with a backend that gets new flows and can be reached.
    fn reachable_pools(&self, hops: &NextHops) -> HashSet<Arc<str>> {
        let takes_new =
            |entry: &RegistryEntry| entry.retired.is_none() && !entry.drain && entry.weight > 0 && entry.health != Observation::Down;
        let backends = self.entries.iter().filter(|(identity, _)| !identity.is_director());
        let open = backends.filter(|(identity, entry)| takes_new(entry) && hops.get(identity.address).is_some());
        open.map(|(identity, _)| identity.pool.clone()).collect()
    }

    /// Returns when the next retired backend or released range expires.
    pub(super) fn expiry(&self) -> Option<Time> {
        let released_at = |entry: &RegistryEntry| entry.claims.iter().filter_map(|c| c.released_at).chain(entry.retired).min();
        Some(self.entries.values().filter_map(released_at).min()?.plus(self.retire))
    }

    /// Returns the directors of the remote site in the file, ordered by the text of their addresses.
    pub(super) fn remote_site_directors(&self) -> Vec<BackendId> {
        let there = self.entries.iter().filter(|(identity, entry)| &*identity.pool == REMOTE_SITE && entry.retired.is_none());
        there.map(|(_, entry)| entry.id).collect()
    }

    /// Returns the id of the first backend with such an address.
    pub(super) fn backend_at(&self, is_it: impl Fn(IpAddr) -> bool) -> Option<BackendId> {
        let mut backends = self.entries.iter().filter(|(identity, _)| !identity.is_director() && is_it(identity.address));
        backends.next().map(|(_, entry)| entry.id)
    }

    /// Returns the id of another director of the fleet.
    pub(super) fn fleet_director(&self, address: IpAddr) -> Option<BackendId> {
        let mut fleet = self.entries.iter().filter(|(identity, entry)| &*identity.pool == FLEET && entry.retired.is_none());
        fleet.find(|(identity, _)| identity.address == address).map(|(_, entry)| entry.id)
    }

    /// Returns one more than the highest id in use.
    pub(super) fn len(&self) -> usize {
        self.entries.values().map(|entry| usize::from(entry.id) + 1).max().unwrap_or(0)
    }

    /// Returns all entries by pool.
    pub(super) fn by_pool(&self) -> HashMap<&str, Members<'_>> {
        let mut pools: HashMap<&str, Members<'_>> = HashMap::new();
        for (identity, entry) in &self.entries {
            pools.entry(&identity.pool).or_default().0.push((identity, entry));
        }
        pools
    }

    /// Returns the entry of `identity`, with its old id if it has one.
    fn entry(&mut self, identity: &Identity, now: Time) -> Result<&mut RegistryEntry, ApplyError> {
        if !self.entries.contains_key(identity) {
            let id = self.allocate_id(now)?;
            self.entries.insert(
                identity.clone(),
                RegistryEntry {
                    id,
                    weight: 0,
                    drain: false,
                    health: Observation::Up,
                    retired: None,
                    unreachable: false,
                    claims: Vec::new(),
                },
            );
        }
        self.entries.get_mut(identity).ok_or(ApplyError::IdsExhausted)
    }

    fn allocate_id(&mut self, now: Time) -> Result<BackendId, ApplyError> {
        match self.quarantined_ids.front() {
            Some((since, id)) if now - *since >= ID_QUARANTINE => {
                let id = *id;
                self.quarantined_ids.pop_front();
                Ok(id)
            }
            _ if self.next < NO_BACKEND => {
                self.next += 1;
                Ok(self.next - 1)
            }
            _ => Err(ApplyError::IdsExhausted),
        }
    }

    fn expire(&mut self, now: Time) {
        let retire = self.retire;
        let over = |since: Option<Time>| since.is_some_and(|since| now >= since.plus(retire));
        let quarantined_ids = &mut self.quarantined_ids;
        self.entries.retain(|_, entry| {
            entry.claims.retain(|claim| !over(claim.released_at));
            let gone = over(entry.retired);
            if gone {
                quarantined_ids.push_back((now, entry.id));
            }
            !gone
        });
    }

    /// Rejects a range that overlaps one that another backend has released and still holds, until its transfers must have ended.
    fn conflicts(&self, now: Time) -> Result<(), ApplyError> {
        for (pool, members) in self.by_pool() {
            let released_at: Vec<_> = members.claims().filter(|(_, _, claim)| claim.released_at.is_some()).collect();
            if released_at.is_empty() {
                continue;
            }
            let mut owner: Vec<Option<usize>> = vec![None; 1 << 16];
            for (at, (_, _, claim)) in released_at.iter().enumerate() {
                owner[usize::from(claim.range.0)..=usize::from(claim.range.1)].fill(Some(at));
            }
            for (identity, _, claim) in members.claims().filter(|(_, _, claim)| claim.released_at.is_none()) {
                let held = owner[usize::from(claim.range.0)..=usize::from(claim.range.1)].iter().flatten();
                if let Some((former, _, old)) = held.map(|at| released_at[*at]).find(|(former, _, _)| *former != identity) {
                    return Err(ApplyError::RangeHeld(Box::new(RangeHeld {
                        backend: identity.name.to_string(),
                        pool: pool.to_owned(),
                        range: claim.range,
                        former: former.name.to_string(),
                        former_address: former.address,
                        former_range: old.range,
                        left: old.released_at.unwrap_or(now).plus(self.retire) - now,
                        retire: self.retire,
                    })));
                }
            }
        }
        Ok(())
    }
}
