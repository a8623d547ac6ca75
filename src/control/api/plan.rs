//! What a change does, said before and after it is done: rows of the Maglev tables that change owner, shares, and what that means for what runs.

use super::answer::problem_json;
use super::read::shares;
use crate::View;
use guideway_config::{Intent, Pool, Problem};
use guideway_dataplane::maglev::Table;
use guideway_dataplane::tables::{Service, Snapshot};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// A change, from all sides.
pub struct Plan<'p> {
    /// What is wanted now.
    pub before: &'p Intent,
    /// What shall be wanted.
    pub after: &'p Intent,
    /// What the workers read now.
    pub view: &'p View,
    /// What they will read.
    pub tables: &'p Snapshot,
    /// What the new intent does not promise.
    pub warnings: &'p [Problem],
}

/// How many rows change their owner.
#[derive(Clone, Copy)]
struct Moved {
    in_all: u32,
    from_stayers: u32,
}

type Services<'p> = BTreeMap<(IpAddr, &'p str), &'p Service>;

impl Plan<'_> {
    /// The parts of the answer that say what changes: `vips`, `backends`, `running`, `warnings`.
    pub fn to_json(&self) -> serde_json::Map<String, Value> {
        let warnings: Vec<Value> = self.warnings.iter().map(problem_json).collect();
        let parts = [("vips", self.vips()), ("backends", self.backends()), ("running", self.running()), ("warnings", json!(warnings))];
        parts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn vips(&self) -> Value {
        let before: Services<'_> = keyed(self.view.vips.iter().copied(), &self.view.snapshot.services);
        let after: Services<'_> = keyed(self.after.vips.iter().map(|vip| vip.address), &self.tables.services);
        let both: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        // Many VIPs may share few tables.
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
                // Another pool: every row has another owner, though those of before stay.
                (Some(_), Some(_)) => Some(Moved { in_all: rows, from_stayers: rows }),
                _ => None,
            };
            let change = match (was, is) {
                (None, _) => "added",
                (_, None) => "removed",
                (Some(was), Some(is)) if was.pool.name != is.pool.name || was.idle != is.idle => "changed",
                (Some(was), Some(is)) if was.paused != is.paused => {
                    if is.paused {
                        "paused"
                    } else {
                        "resumed"
                    }
                }
                _ if moved.is_some_and(|moved| moved.in_all == 0) => continue,
                _ => "rows",
            };
            vips.push(json!({
                "vip": key.0,
                "service": key.1,
                "pool": &*service.pool.name,
                "change": change,
                "rows": rows,
                "moved": moved.map(|moved| moved.in_all),
                "moved_share": moved.map(|moved| f64::from(moved.in_all) / f64::from(rows.max(1))),
                "moved_from_stayers": moved.map(|moved| moved.from_stayers),
            }));
        }
        json!(vips)
    }

    fn backends(&self) -> Value {
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
            let of = |pool: Option<&'_ Pool>| -> BTreeMap<String, Value> {
                pool.into_iter().flat_map(|pool| &pool.backends).map(|b| (b.name.clone(), b.to_json())).collect()
            };
            let (was, is) = (of(was), of(is));
            for backend in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
                let share = |shares: &Option<HashMap<&str, f64>>| {
                    shares.as_ref().map(|shares| shares.get(backend.as_str()).copied().unwrap_or(0.0))
                };
                let (before, after) = (share(&old), share(&new));
                let change = match (was.get(backend), is.get(backend)) {
                    (None, _) => "added",
                    (_, None) => "removed",
                    (Some(was), Some(is)) if was["address"] != is["address"] => "address",
                    (Some(was), Some(is)) if was["drain"] != is["drain"] => {
                        if is["drain"] == true {
                            "drained"
                        } else {
                            "undrained"
                        }
                    }
                    (Some(was), Some(is)) if was != is => "changed",
                    _ if before == after => continue,
                    _ => "share",
                };
                backends.push(json!({"pool": name, "backend": backend, "change": change, "share_before": before, "share_after": after}));
            }
        }
        json!(backends)
    }

    /// What becomes of what runs, for each pool that changes.
    fn running(&self) -> Value {
        let mut running = Vec::new();
        let rekeyed = self.before.active_key != self.after.active_key;
        for pool in &self.before.pools {
            let after = self.after.pool(&pool.name);
            if after == Some(pool) && !rekeyed {
                continue;
            }
            let ranged = |pool: &Pool| pool.backends.iter().any(|backend| backend.tid_range.is_some());
            // One that loses its last backend keeps that one's range, too.
            let stays_ranged = |pool: &Pool| pool.backends.is_empty() || ranged(pool);
            let (affected, promise) = match (ranged(pool), after.is_none_or(stays_ranged)) {
                (true, true) => (
                    json!(0),
                    "no running transfer moves: each keeps the backend that its TID names; one that is removed keeps its range for `[director] retire`",
                ),
                (true, false) => (Value::Null, "the pool gives up its TID ranges: transfers that run may reach another backend and fail"),
                (false, _) if rekeyed => (
                    Value::Null,
                    "with another key every flow is chosen anew: those whose rows move reach another backend, and transfers among them may fail. \
                     How many there are on each backend is not known",
                ),
                (false, _) => (
                    Value::Null,
                    "flows that a director knows keep their backend while it is in the tables; those it does not know follow the rows that move. \
                     How many there are on each backend is not known",
                ),
            };
            running.push(json!({"pool": pool.name, "transfers_affected": affected, "promise": promise}));
        }
        json!(running)
    }
}

fn keyed<'s>(addresses: impl Iterator<Item = IpAddr>, services: &'s [Service]) -> Services<'s> {
    addresses.zip(services).map(|(address, service)| ((address, service.label.as_str()), service)).collect()
}

/// `None` if the tables differ in size: then nothing of one says anything of the other.
fn compare(before: &Table, after: &Table) -> Option<Moved> {
    let from_stayers = before.moved(after)?;
    if before.fingerprint() == after.fingerprint() {
        return Some(Moved { in_all: 0, from_stayers: 0 });
    }
    let names: HashMap<&str, u16> = (0..).zip(after.members()).map(|(number, member)| (&*member.name, number)).collect();
    let same: Vec<Option<u16>> = before.members().iter().map(|member| names.get(&*member.name).copied()).collect();
    let owner = |row: u32| before.member(row).map(|member| same.get(usize::from(member)).copied().flatten());
    let differs = |row: &u32| match (owner(*row), after.member(*row)) {
        (Some(was), is) => was.is_none() || was != is,
        (None, is) => is.is_some(),
    };
    let in_all = (0..before.size()).filter(differs).count();
    Some(Moved { in_all: u32::try_from(in_all).unwrap_or(u32::MAX), from_stayers })
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
        assert_eq!((none.in_all, none.from_stayers), (0, 0));
        let drained = compare(&two, &build(&[("a", 100), ("b", 0)])).unwrap();
        assert_eq!((drained.in_all, drained.from_stayers), (two.entries()[1], 0));
        let more = compare(&two, &build(&[("a", 100), ("aa", 100), ("b", 100)])).unwrap();
        assert!((336..400).contains(&more.in_all), "a third moves to the new one, and little else: {}", more.in_all);
        let all = compare(&two, &build(&[("a", 0), ("b", 0)])).unwrap();
        assert_eq!((all.in_all, all.from_stayers), (1009, 0));
        assert_eq!(compare(&build(&[]), &two).unwrap().in_all, 1009);
        assert!(compare(&two, &Table::build(&key, 1013, &[("a", 1)]).unwrap()).is_none());
    }
}
