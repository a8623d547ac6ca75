//! The effects of a change: rows of the Maglev tables that change their owner, shares of backends, and the effect on running transfers.

use super::error::problem;
use super::read::shares;
use crate::View;
use guideway_api::plan::{BackendEffect, Effects, PlannedBackend, PlannedVip, RunningTransfers, VipEffect};
use guideway_config::{Backend, Intent, Pool, Problem};
use guideway_dataplane::maglev::Table;
use guideway_dataplane::tables::{Service, Snapshot};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// A change of the intent, with the tables before and after it.
pub struct Change<'p> {
    /// The intent before.
    pub before: &'p Intent,
    /// The intent after.
    pub after: &'p Intent,
    /// The tables before.
    pub view: &'p View,
    /// The tables after.
    pub tables: &'p Snapshot,
    /// Warnings about the new intent.
    pub warnings: &'p [Problem],
}

/// Number of rows that change their owner.
#[derive(Clone, Copy)]
struct Moved {
    total: u32,
    from_remaining: u32,
}

type Services<'p> = BTreeMap<(IpAddr, &'p str), &'p Service>;

impl Change<'_> {
    /// Returns the effects of the change.
    pub fn effects(&self) -> Effects {
        let warnings = self.warnings.iter().map(problem).collect();
        let settings = super::settings::changes(self.before, self.after);
        let needs_confirmation = self.before.unserved_after(self.after);
        Effects { vips: self.vips(), backends: self.backends(), settings, running: self.running(), needs_confirmation, warnings }
    }

    fn vips(&self) -> Vec<PlannedVip> {
        let before: Services<'_> = keyed(self.view.vips.iter().copied(), &self.view.snapshot.services);
        let after: Services<'_> = keyed(self.after.vips.iter().map(|vip| vip.address), &self.tables.services);
        let both: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        // Many VIPs may share a table.
        let mut known: HashMap<(*const Table, *const Table), Option<Moved>> = HashMap::new();
        let mut vips = Vec::new();
        for key in both {
            let (was, is) = (before.get(key), after.get(key));
            let Some(service) = is.or(was) else { continue };
            let rows = service.pool.maglev.size();
            let moved = match (was, is) {
                (Some(was), Some(is)) if was.pool.name == is.pool.name => {
                    let pair = (&*was.pool.maglev, &*is.pool.maglev);
                    *known.entry((pair.0, pair.1)).or_insert_with(|| compare(pair.0, pair.1))
                }
                // Another pool: every row has another owner, although the owners before stay.
                (Some(_), Some(_)) => Some(Moved { total: rows, from_remaining: rows }),
                _ => None,
            };
            let change = match (was, is) {
                (None, _) => VipEffect::Added,
                (_, None) => VipEffect::Removed,
                (Some(was), Some(is)) if was.pool.name != is.pool.name || was.idle != is.idle => VipEffect::Changed,
                (Some(was), Some(is)) if was.paused != is.paused => {
                    if is.paused {
                        VipEffect::Paused
                    } else {
                        VipEffect::Resumed
                    }
                }
                _ if moved.is_some_and(|moved| moved.total == 0) => continue,
                _ => VipEffect::Rows,
            };
            vips.push(PlannedVip {
                vip: key.0,
                service: key.1.to_owned(),
                pool: service.pool.name.to_string(),
                change,
                rows,
                moved: moved.map(|moved| moved.total),
                moved_share: moved.map(|moved| f64::from(moved.total) / f64::from(rows.max(1))),
                moved_from_remaining: moved.map(|moved| moved.from_remaining),
            });
        }
        vips
    }

    fn backends(&self) -> Vec<PlannedBackend> {
        let names = |intent: &'_ Intent| intent.pools.iter().map(|pool| pool.name.clone()).collect::<BTreeSet<_>>();
        let mut backends = Vec::new();
        for name in &names(self.before) | &names(self.after) {
            let (was, is) = (self.before.pool(&name), self.after.pool(&name));
            let table = |services: &'_ [Service]| services.iter().find(|s| *s.pool.name == *name).map(|s| s.pool.maglev.clone());
            let (old, new) = (table(&self.view.snapshot.services), table(&self.tables.services));
            if was == is && old.as_ref().map(|t| t.fingerprint()) == new.as_ref().map(|t| t.fingerprint()) {
                continue;
            }
            let (old, new) = (old.as_deref().map(shares), new.as_deref().map(shares));
            let (was, is) = (by_name(was), by_name(is));
            for backend in was.keys().chain(is.keys()).copied().collect::<BTreeSet<_>>() {
                let share = |shares: &Option<HashMap<&str, f64>>| shares.as_ref().map(|shares| shares.get(backend).copied().unwrap_or(0.0));
                let (before, after) = (share(&old), share(&new));
                let change = match (was.get(backend), is.get(backend)) {
                    (None, _) => BackendEffect::Added,
                    (_, None) => BackendEffect::Removed,
                    (Some(was), Some(is)) if was.address != is.address => BackendEffect::Address,
                    (Some(was), Some(is)) if was.drain != is.drain => {
                        if is.drain {
                            BackendEffect::Drained
                        } else {
                            BackendEffect::Undrained
                        }
                    }
                    (Some(was), Some(is)) if was != is => BackendEffect::Changed,
                    _ if before == after => continue,
                    _ => BackendEffect::Share,
                };
                let (pool, backend) = (name.clone(), backend.to_owned());
                backends.push(PlannedBackend { pool, backend, change, share_before: before, share_after: after });
            }
        }
        backends
    }

    /// Returns the effect on running transfers, for each pool that changes.
    fn running(&self) -> Vec<RunningTransfers> {
        let mut running = Vec::new();
        let rekeyed = self.before.active_key != self.after.active_key;
        for pool in &self.before.pools {
            let after = self.after.pool(&pool.name);
            if after == Some(pool) && !rekeyed {
                continue;
            }
            let ranged = |pool: &Pool| pool.backends.iter().any(|backend| backend.tid_range.is_some());
            // A pool that loses its last backend keeps the range of that backend.
            let keeps_ranges = |pool: &Pool| pool.backends.is_empty() || ranged(pool);
            let (transfers_affected, effect) = match (ranged(pool), after.is_none_or(keeps_ranges)) {
                (true, true) => (
                    Some(0),
                    "no running transfer moves: each keeps the backend that its TID names; one that is removed keeps its range for `[director] retire`",
                ),
                (true, false) => (None, "the pool gives up its TID ranges: transfers that run may reach another backend and fail"),
                (false, _) if rekeyed => (
                    None,
                    "with another key every flow is chosen anew: those whose rows move reach another backend, and transfers among them may fail. \
                     How many there are on each backend is not known",
                ),
                (false, _) => (
                    None,
                    "flows that a director knows keep their backend while it is in the tables; those it does not know follow the rows that move. \
                     How many there are on each backend is not known",
                ),
            };
            running.push(RunningTransfers { pool: pool.name.clone(), transfers_affected, effect: effect.to_owned() });
        }
        running
    }
}

fn by_name(pool: Option<&Pool>) -> BTreeMap<&str, &Backend> {
    pool.into_iter().flat_map(|pool| &pool.backends).map(|backend| (backend.name.as_str(), backend)).collect()
}

fn keyed<'s>(addresses: impl Iterator<Item = IpAddr>, services: &'s [Service]) -> Services<'s> {
    addresses.zip(services).map(|(address, service)| ((address, service.label.as_str()), service)).collect()
}

/// Returns `None` for tables of different sizes, whose rows cannot be compared.
fn compare(before: &Table, after: &Table) -> Option<Moved> {
    let from_remaining = before.moved(after)?;
    if before.fingerprint() == after.fingerprint() {
        return Some(Moved { total: 0, from_remaining: 0 });
    }
    let names: HashMap<&str, u16> = (0..).zip(after.members()).map(|(number, member)| (&*member.name, number)).collect();
    let same: Vec<Option<u16>> = before.members().iter().map(|member| names.get(&*member.name).copied()).collect();
    let owner = |row: u32| before.member(row).map(|member| same.get(usize::from(member)).copied().flatten());
    let differs = |row: &u32| match (owner(*row), after.member(*row)) {
        (Some(was), is) => was.is_none() || was != is,
        (None, is) => is.is_some(),
    };
    let total = (0..before.size()).filter(differs).count();
    Some(Moved { total: u32::try_from(total).unwrap_or(u32::MAX), from_remaining })
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_hash::FleetKey;

    #[test]
    fn rows_that_move_are_those_that_have_another_owner() {
        let key = FleetKey::new([7; 16]);
        let build = |backends: &[(&str, u16)]| Table::build(&key, 1009, backends).unwrap();
        let two = build(&[("a", 100), ("b", 100)]);
        let none = compare(&two, &two).unwrap();
        assert_eq!((none.total, none.from_remaining), (0, 0));
        let drained = compare(&two, &build(&[("a", 100), ("b", 0)])).unwrap();
        assert_eq!((drained.total, drained.from_remaining), (two.entries()[1], 0));
        let more = compare(&two, &build(&[("a", 100), ("aa", 100), ("b", 100)])).unwrap();
        assert!((336..400).contains(&more.total), "a third moves to the new one, and little else: {}", more.total);
        let all = compare(&two, &build(&[("a", 0), ("b", 0)])).unwrap();
        assert_eq!((all.total, all.from_remaining), (1009, 0));
        assert_eq!(compare(&build(&[]), &two).unwrap().total, 1009);
        assert!(compare(&two, &Table::build(&key, 1013, &[("a", 1)]).unwrap()).is_none());
    }
}
