//! What is different between two views, as people would tell it: for the stream of events.

use super::View;
use super::neighbour::mac;
use super::writer::{Known, State};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Changes that one event lists; of the rest it says how many there are.
const LISTED: usize = 64;

/// A list of changes that may be long.
#[derive(Debug, Default)]
pub struct Changes {
    listed: Vec<Value>,
    more: usize,
}

impl Changes {
    fn add(&mut self, change: impl FnOnce() -> Value) {
        if self.listed.len() < LISTED {
            self.listed.push(change());
        } else {
            self.more += 1;
        }
    }

    /// `{"changes": [...], "more": n}`; `None` when there are none.
    pub fn to_json(&self) -> Option<Value> {
        (!self.listed.is_empty()).then(|| json!({"changes": self.listed, "more": self.more}))
    }
}

/// What changed of VIPs and backends.
pub fn of_set(before: &View, after: &View) -> Changes {
    let mut changes = Changes::default();
    vips(before, after, &mut changes);
    pairs(&before.backends, &after.backends, |was, is| backend(was, is, &mut changes));
    changes
}

/// Both lists are sorted by pool, name and address, as the writer gives them.
fn pairs<'k>(before: &'k [Known], after: &'k [Known], mut each: impl FnMut(Option<&'k Known>, Option<&'k Known>)) {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    fn key(known: &Known) -> (&str, &str, IpAddr) {
        (&known.pool, &known.name, known.address)
    }
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => key(was).cmp(&key(is)),
        };
        let was = if order.is_le() { before.next() } else { None };
        let is = if order.is_ge() { after.next() } else { None };
        each(was, is);
    }
}

fn backend(was: Option<&Known>, is: Option<&Known>, changes: &mut Changes) {
    let Some(known) = is.or(was) else { return };
    let mut tell = |change: &str| {
        changes.add(|| {
            json!({
                "change": change, "pool": &*known.pool, "backend": &*known.name, "address": known.address,
                "weight": known.weight, "state": is.map(|known| known.state.name()),
            })
        });
    };
    match (was, is) {
        (None, Some(_)) => tell("backend_added"),
        (Some(_), None) => tell("backend_forgotten"),
        (Some(was), Some(is)) if was.state != is.state => tell(match (was.state, is.state) {
            (_, State::Retired) => "backend_removed",
            (State::Retired, _) => "backend_added",
            (_, State::Drained) => "backend_drained",
            (_, State::Down) => "backend_down",
            (_, State::Slow) => "backend_slow",
            (State::Drained, State::Active) => "backend_undrained",
            (_, State::Active) => "backend_up",
        }),
        (Some(was), Some(is)) if was.weight != is.weight => tell("backend_weight"),
        _ => {}
    }
}

/// What is told of a VIP: its pool, and whether it is paused.
type Served<'v> = BTreeMap<(IpAddr, &'v str), (&'v str, bool)>;

fn vips(before: &View, after: &View, changes: &mut Changes) {
    // Most views differ in a neighbour alone.
    if Arc::ptr_eq(&before.snapshot, &after.snapshot) {
        return;
    }
    fn served(view: &View) -> Served<'_> {
        let services = view.vips.iter().zip(&view.snapshot.services);
        services.map(|(vip, service)| ((*vip, service.label.as_str()), (&*service.pool.name, service.paused))).collect()
    }
    let (before, after) = (served(before), served(after));
    let mut tell = |change: &str, (vip, service): &(IpAddr, &str), (pool, paused): &(&str, bool)| {
        changes.add(|| json!({"change": change, "vip": vip, "service": service, "pool": pool, "paused": paused}));
    };
    for (key, was) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
        tell("vip_removed", key, was);
    }
    for (key, is) in &after {
        match before.get(key) {
            None => tell("vip_added", key, is),
            Some(was) if was.1 != is.1 => tell(if is.1 { "vip_paused" } else { "vip_resumed" }, key, is),
            Some(was) if was != is => tell("vip_changed", key, is),
            Some(_) => {}
        }
    }
}

/// Which next hops were resolved, changed or lost. One that was never resolved yet is not lost.
pub fn of_neighbours(before: &View, after: &View) -> Changes {
    let mut changes = Changes::default();
    for (address, is) in &after.hops.hops {
        let was = before.hops.hops.get(address);
        match (was.and_then(|was| was.as_ref().ok()), is) {
            (Some(was), Ok(is)) if was.mac == is.mac => {}
            (_, Ok(is)) => changes.add(|| json!({"change": "resolved", "address": address, "neighbour": mac(is.mac)})),
            (Some(_), Err(why)) => changes.add(|| json!({"change": "lost", "address": address, "why": why.to_string()})),
            (None, Err(_)) => {}
        }
    }
    changes
}
