//! Differences between two views, for the stream of events.

use super::View;
use super::neighbour::link_layer;
use super::writer::{BackendEntry, BackendState};
use guideway_api::event::{BackendTransition, ChangedBackend, ChangedVip, Changes, NeighbourChange, StateChange, VipTransition};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Number of changes that one event lists; the rest is only counted.
const MAX_LISTED: usize = 64;

/// Collects changes, of which only the first are listed.
#[derive(Debug)]
struct Collected<T> {
    listed: Vec<T>,
    more: usize,
}

impl<T> Collected<T> {
    fn new() -> Self {
        Collected { listed: Vec::new(), more: 0 }
    }

    fn add(&mut self, change: impl FnOnce() -> T) {
        if self.listed.len() < MAX_LISTED {
            self.listed.push(change());
        } else {
            self.more += 1;
        }
    }

    /// `None` when there are none.
    fn finish(self) -> Option<Changes<T>> {
        (!self.listed.is_empty()).then_some(Changes { changes: self.listed, more: self.more })
    }
}

/// Returns the changes of VIPs and backends, if there are any.
pub fn state_changes(before: &View, after: &View) -> Option<Changes<StateChange>> {
    let mut changes = Collected::new();
    vips(before, after, &mut changes);
    merge_sorted(&before.backends, &after.backends, |was, is| backend(was, is, &mut changes));
    changes.finish()
}

/// Both lists are sorted by pool, name and address, as the writer gives them.
fn merge_sorted<'k>(
    before: &'k [BackendEntry],
    after: &'k [BackendEntry],
    mut each: impl FnMut(Option<&'k BackendEntry>, Option<&'k BackendEntry>),
) {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    fn key(backend: &BackendEntry) -> (&str, &str, IpAddr) {
        (&backend.pool, &backend.name, backend.address)
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

fn backend(was: Option<&BackendEntry>, is: Option<&BackendEntry>, changes: &mut Collected<StateChange>) {
    let Some(backend) = is.or(was) else { return };
    let mut tell = |change: BackendTransition| {
        changes.add(|| {
            StateChange::Backend(ChangedBackend {
                change,
                pool: backend.pool.to_string(),
                backend: backend.name.to_string(),
                address: backend.address,
                weight: backend.weight,
                state: is.map(|backend| backend.state.into()),
            })
        });
    };
    match (was, is) {
        (None, Some(_)) => tell(BackendTransition::BackendAdded),
        (Some(_), None) => tell(BackendTransition::BackendExpired),
        (Some(was), Some(is)) if was.state != is.state => tell(match (was.state, is.state) {
            (_, BackendState::Retired) => BackendTransition::BackendRemoved,
            (BackendState::Retired, _) => BackendTransition::BackendAdded,
            (_, BackendState::Drained) => BackendTransition::BackendDrained,
            (_, BackendState::Down) => BackendTransition::BackendDown,
            (_, BackendState::Unreachable) => BackendTransition::BackendUnreachable,
            (_, BackendState::Slow) => BackendTransition::BackendSlow,
            (BackendState::Drained, BackendState::Active) => BackendTransition::BackendUndrained,
            (_, BackendState::Active) => BackendTransition::BackendUp,
        }),
        (Some(was), Some(is)) if was.weight != is.weight => tell(BackendTransition::BackendWeight),
        _ => {}
    }
}

/// Pool of each VIP, and whether it is paused.
type Served<'v> = BTreeMap<(IpAddr, &'v str), (&'v str, bool)>;

fn vips(before: &View, after: &View, changes: &mut Collected<StateChange>) {
    // Most views differ in a neighbour alone.
    if Arc::ptr_eq(&before.snapshot, &after.snapshot) {
        return;
    }
    fn served(view: &View) -> Served<'_> {
        let services = view.vips.iter().zip(&view.snapshot.services);
        services.map(|(vip, service)| ((*vip, service.label.as_str()), (&*service.pool.name, service.paused))).collect()
    }
    let (before, after) = (served(before), served(after));
    let mut tell = |change: VipTransition, (vip, service): &(IpAddr, &str), (pool, paused): &(&str, bool)| {
        let changed = || ChangedVip { change, vip: *vip, service: (*service).to_owned(), pool: (*pool).to_owned(), paused: *paused };
        changes.add(|| StateChange::Vip(changed()));
    };
    for (key, was) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
        tell(VipTransition::VipRemoved, key, was);
    }
    for (key, is) in &after {
        match before.get(key) {
            None => tell(VipTransition::VipAdded, key, is),
            Some(was) if was.1 != is.1 => tell(if is.1 { VipTransition::VipPaused } else { VipTransition::VipResumed }, key, is),
            Some(was) if was != is => tell(VipTransition::VipChanged, key, is),
            Some(_) => {}
        }
    }
}

/// Returns the next hops that were resolved, changed or lost, if there are any. One that was never resolved is not lost.
pub fn neighbour_changes(before: &View, after: &View) -> Option<Changes<NeighbourChange>> {
    let mut changes = Collected::new();
    for (address, is) in &after.hops.hops {
        let was = before.hops.hops.get(address);
        match (was.and_then(|was| was.as_ref().ok()), is) {
            (Some(was), Ok(is)) if (was.mac, was.output) == (is.mac, is.output) => {}
            (_, Ok(is)) => changes.add(|| NeighbourChange::Resolved { address: *address, neighbour: link_layer(is) }),
            (Some(_), Err(why)) => changes.add(|| NeighbourChange::Lost { address: *address, why: why.to_string() }),
            (None, Err(_)) => {}
        }
    }
    changes.finish()
}
