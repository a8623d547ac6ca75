//! Who has which number and which server ports, now and for as long as their transfers may live.

use super::{RangeHeld, Refused, State};
use guideway_config::Config;
use guideway_dataplane::tables::{BackendId, NO_BACKEND};
use guideway_packet::time::Time;
use guideway_store::{Health, Observation};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A number that was given back rests for so long: the longest idle timeout, so that no flow table still holds it.
pub(super) const REST: Duration = Duration::from_secs(12 * 3600);

/// What directors of the other site have in place of a pool's name; no pool can be called so.
const OTHER_SITE: &str = "other site";

/// What makes a backend the same one in the next file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) pool: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) address: IpAddr,
}

impl Identity {
    /// A director of the other site is no backend, but has a number as backends have.
    pub(super) fn is_site(&self) -> bool {
        &*self.pool == OTHER_SITE
    }
}

/// A range of server ports; `given_up` when the file gives it to this backend no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) range: (u16, u16),
    given_up: Option<Time>,
}

/// What is remembered of a backend.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: BackendId,
    pub(super) weight: u16,
    /// The file has it drained.
    pub(super) drain: bool,
    /// How it was seen to do.
    pub(super) health: Observation,
    /// Since when the file has it no more.
    pub(super) retired: Option<Time>,
    claims: Vec<Claim>,
}

/// All backends of the file and those that are retired.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    pub(super) entries: BTreeMap<Identity, Entry>,
    /// Numbers that were given back, and since when; oldest first.
    resting: VecDeque<(Time, BackendId)>,
    /// The lowest number that was never given.
    next: BackendId,
    /// `[director] retire` of the last file.
    retire: Duration,
}

/// The entries of one pool.
#[derive(Debug, Default)]
pub(super) struct Members<'r>(Vec<(&'r Identity, &'r Entry)>);

impl<'r> Members<'r> {
    /// The pool's name as its backends have it; `None` when it has none.
    pub(super) fn pool(&self) -> Option<Arc<str>> {
        self.0.first().map(|(identity, _)| identity.pool.clone())
    }

    /// The number of every backend, by name and address.
    pub(super) fn numbers(&self) -> HashMap<(&'r str, IpAddr), BackendId> {
        self.0.iter().map(|(identity, entry)| ((&*identity.name, identity.address), entry.id)).collect()
    }

    /// The ranges with their owners: first those of the file, then those that were given up and still hold.
    pub(super) fn ranges(&self) -> Vec<((u16, u16), BackendId)> {
        let mut claims: Vec<_> = self.claims().collect();
        claims.sort_by_key(|(_, _, claim)| claim.given_up.is_some());
        claims.into_iter().map(|(_, entry, claim)| (claim.range, entry.id)).collect()
    }

    /// Numbers of those that were seen to be down.
    pub(super) fn down(&self) -> HashSet<BackendId> {
        self.0.iter().filter(|(_, entry)| entry.health == Observation::Down).map(|(_, entry)| entry.id).collect()
    }

    /// Names and numbers of those that the file has no more.
    pub(super) fn former(&self) -> Vec<(Arc<str>, BackendId)> {
        self.0.iter().filter(|(_, entry)| entry.retired.is_some()).map(|(identity, entry)| (identity.name.clone(), entry.id)).collect()
    }

    fn claims(&self) -> impl Iterator<Item = (&'r Identity, &'r Entry, &'r Claim)> {
        self.0.iter().flat_map(|(identity, entry)| entry.claims.iter().map(|claim| (*identity, *entry, claim)))
    }
}

impl Entry {
    /// Whether it gets new flows.
    pub(super) fn state(&self) -> State {
        match (self.retired, self.drain || self.weight == 0, self.health) {
            (Some(_), ..) => State::Retired,
            (None, _, Observation::Down) => State::Down,
            (None, true, _) => State::Drained,
            (None, false, Observation::Slow { .. }) => State::Slow,
            (None, false, Observation::Up) => State::Active,
        }
    }
}

impl Registry {
    /// Brings the registry in line with a file. On an error it is left in the middle: work on a copy.
    pub(super) fn update(&mut self, config: &Config, health: &Health, now: Time) -> Result<(), Refused> {
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
                    claim.given_up = if kept { None } else { claim.given_up.or(Some(now)) };
                }
                if let Some(range) = backend.tid_range
                    && entry.claims.iter().all(|c| c.range != range)
                {
                    entry.claims.push(Claim { range, given_up: None });
                }
                seen.insert(identity);
            }
        }
        for address in &config.director.other_site {
            let identity = Identity { pool: OTHER_SITE.into(), name: address.to_string().into(), address: *address };
            let entry = self.entry(&identity, now)?;
            (entry.weight, entry.retired) = (1, None);
            seen.insert(identity);
        }
        for (identity, entry) in &mut self.entries {
            if !seen.contains(identity) {
                entry.retired = entry.retired.or(Some(now));
                // Its health stays what it was, unless somebody still looks after it, and not after another that has its name now.
                let lowest = Identity { address: IpAddr::from([0, 0, 0, 0]), ..identity.clone() };
                let named = seen.range(lowest..).next().is_some_and(|other| (&other.pool, &other.name) == (&identity.pool, &identity.name));
                let observed = health.get(&*identity.pool).and_then(|health| health.backends.get(&*identity.name));
                entry.health = observed.filter(|_| !named).map_or(entry.health, |observed| observed.state);
                entry.claims.iter_mut().for_each(|claim| claim.given_up = claim.given_up.or(Some(now)));
            }
        }
        self.expire(now);
        self.conflicts(now)
    }

    /// When something that was given up ends next.
    pub(super) fn expiry(&self) -> Option<Time> {
        let given_up = |entry: &Entry| entry.claims.iter().filter_map(|c| c.given_up).chain(entry.retired).min();
        Some(self.entries.values().filter_map(given_up).min()?.plus(self.retire))
    }

    /// Directors of the other site that the file has, in the order of their addresses' names.
    pub(super) fn sites(&self) -> Vec<BackendId> {
        let there = self.entries.iter().filter(|(identity, entry)| identity.is_site() && entry.retired.is_none());
        there.map(|(_, entry)| entry.id).collect()
    }

    /// One more than the highest number in use.
    pub(super) fn len(&self) -> usize {
        self.entries.values().map(|entry| usize::from(entry.id) + 1).max().unwrap_or(0)
    }

    /// Everything by pool.
    pub(super) fn by_pool(&self) -> HashMap<&str, Members<'_>> {
        let mut pools: HashMap<&str, Members<'_>> = HashMap::new();
        for (identity, entry) in &self.entries {
            pools.entry(&identity.pool).or_default().0.push((identity, entry));
        }
        pools
    }

    /// The entry of `identity`, with its old number if it has one.
    fn entry(&mut self, identity: &Identity, now: Time) -> Result<&mut Entry, Refused> {
        if !self.entries.contains_key(identity) {
            let id = self.number(now)?;
            self.entries.insert(
                identity.clone(),
                Entry { id, weight: 0, drain: false, health: Observation::Up, retired: None, claims: Vec::new() },
            );
        }
        self.entries.get_mut(identity).ok_or(Refused::Numbers)
    }

    fn number(&mut self, now: Time) -> Result<BackendId, Refused> {
        match self.resting.front() {
            Some((since, id)) if now - *since >= REST => {
                let id = *id;
                self.resting.pop_front();
                Ok(id)
            }
            _ if self.next < NO_BACKEND => {
                self.next += 1;
                Ok(self.next - 1)
            }
            _ => Err(Refused::Numbers),
        }
    }

    fn expire(&mut self, now: Time) {
        let retire = self.retire;
        let over = |since: Option<Time>| since.is_some_and(|since| now >= since.plus(retire));
        let resting = &mut self.resting;
        self.entries.retain(|_, entry| {
            entry.claims.retain(|claim| !over(claim.given_up));
            let gone = over(entry.retired);
            if gone {
                resting.push_back((now, entry.id));
            }
            !gone
        });
    }

    /// A range that was given up belongs to its backend until its transfers must have ended.
    fn conflicts(&self, now: Time) -> Result<(), Refused> {
        for (pool, members) in self.by_pool() {
            let given_up: Vec<_> = members.claims().filter(|(_, _, claim)| claim.given_up.is_some()).collect();
            if given_up.is_empty() {
                continue;
            }
            let mut owner: Vec<Option<usize>> = vec![None; 1 << 16];
            for (at, (_, _, claim)) in given_up.iter().enumerate() {
                owner[usize::from(claim.range.0)..=usize::from(claim.range.1)].fill(Some(at));
            }
            for (identity, _, claim) in members.claims().filter(|(_, _, claim)| claim.given_up.is_none()) {
                let held = owner[usize::from(claim.range.0)..=usize::from(claim.range.1)].iter().flatten();
                if let Some((former, _, old)) = held.map(|at| given_up[*at]).find(|(former, _, _)| *former != identity) {
                    return Err(Refused::RangeHeld(Box::new(RangeHeld {
                        backend: identity.name.to_string(),
                        pool: pool.to_owned(),
                        range: claim.range,
                        former: former.name.to_string(),
                        former_address: former.address,
                        former_range: old.range,
                        left: old.given_up.unwrap_or(now).plus(self.retire) - now,
                        retire: self.retire,
                    })));
                }
            }
        }
        Ok(())
    }
}
