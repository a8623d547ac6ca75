//! What is in the cache, what is being asked for, and what the origin does not have; all three bounded.

use super::disk;
use super::object::{Object, Stage};
use crate::tftp::handler::Refusal;
use futures_util::future::{BoxFuture, Shared};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files that the origin does not have are remembered up to this number.
const MOST_MISSING: usize = 16_384;
/// A file on the disk takes whole blocks, and an entry some memory.
const SMALLEST: u64 = 4096;

/// Many may wait for one answer.
pub(super) type Asked = Shared<BoxFuture<'static, Result<Arc<Object>, Refusal>>>;

pub(super) struct Index {
    limit: u64,
    bytes: u64,
    kept: HashMap<String, Entry>,
    /// The least recently used first.
    order: BTreeMap<u64, String>,
    tick: u64,
    missing: HashMap<String, Instant>,
    missing_order: VecDeque<String>,
    pub(super) asking: HashMap<String, Asked>,
}

struct Entry {
    object: Arc<Object>,
    cost: u64,
    /// When the origin last said that it is this version; not yet, for what an earlier server left.
    checked: Option<Instant>,
    tick: u64,
    /// The version before, whole, until this one is.
    previous: Option<(Arc<Object>, u64)>,
}

/// What is known of a file.
pub(super) enum Known {
    /// To be served without asking.
    Fresh(Arc<Object>),
    /// The origin said that there is none, a short while ago.
    Missing,
    /// To be asked for; this is what is here of it.
    Ask(Option<Arc<Object>>),
}

impl Index {
    /// An empty one for so many bytes of files.
    pub(super) fn new(limit: u64) -> Index {
        Index {
            limit,
            bytes: 0,
            kept: HashMap::new(),
            order: BTreeMap::new(),
            tick: 0,
            missing: HashMap::new(),
            missing_order: VecDeque::new(),
            asking: HashMap::new(),
        }
    }

    /// Looks a file up; `fresh` is for how long the origin's word holds.
    pub(super) fn look_up(&mut self, url: &str, fresh: Duration, now: Instant) -> Known {
        if self.missing.get(url).is_some_and(|until| *until > now) {
            return Known::Missing;
        }
        let tick = self.next_tick();
        let Some(entry) = self.kept.get_mut(url) else { return Known::Ask(None) };
        self.order.remove(&entry.tick);
        entry.tick = tick;
        self.order.insert(tick, url.to_owned());
        let object = entry.object.clone();
        let current = match object.stage() {
            Stage::Coming => true,
            Stage::Whole => entry.checked.is_some_and(|at| now.saturating_duration_since(at) < fresh),
            Stage::Failed => false,
        };
        if current { Known::Fresh(object) } else { Known::Ask(Some(object)) }
    }

    /// Keeps an object in place of what was there under this URL. Says no when there is no room for `size` bytes.
    pub(super) fn keep(&mut self, url: &str, object: Arc<Object>, size: u64, checked: Option<Instant>) -> bool {
        let cost = size.div_ceil(SMALLEST).max(1).saturating_mul(SMALLEST);
        let old = self.take(url);
        let previous = old.and_then(|old| {
            let whole = [Some((old.object, old.cost)), old.previous].into_iter().flatten();
            let (mut whole, gone): (Vec<_>, Vec<_>) = whole.partition(|(object, _)| object.stage() == Stage::Whole);
            gone.into_iter().for_each(|(object, _)| disk::remove(&object.path()));
            let first = (!whole.is_empty()).then(|| whole.remove(0));
            whole.into_iter().for_each(|(object, _)| disk::remove(&object.path()));
            first
        });
        let held = previous.as_ref().map_or(0, |(_, cost)| *cost);
        // The version before is given up rather than that there is no room for the new one.
        let previous = if self.make_room(cost + held) {
            previous
        } else {
            previous.iter().for_each(|(object, _)| disk::remove(&object.path()));
            if !self.make_room(cost) {
                disk::remove(&object.path());
                return false;
            }
            None
        };
        let tick = self.next_tick();
        self.bytes += cost + previous.as_ref().map_or(0, |(_, cost)| *cost);
        self.order.insert(tick, url.to_owned());
        self.kept.insert(url.to_owned(), Entry { object, cost, checked, tick, previous });
        true
    }

    /// The origin said just now that `object` is the current version, or what is here is to be taken for it.
    pub(super) fn checked(&mut self, url: &str, object: &Arc<Object>, now: Instant) {
        if let Some(entry) = self.of(url, object) {
            entry.checked = Some(now);
        }
    }

    /// Every byte of `object` is there: the version before is not needed any more.
    pub(super) fn whole(&mut self, url: &str, object: &Arc<Object>) {
        if let Some((previous, cost)) = self.of(url, object).and_then(|entry| entry.previous.take()) {
            self.bytes -= cost;
            disk::remove(&previous.path());
        }
    }

    /// The rest of `object` did not come. The version before takes its place; without one, it stays when it can be continued.
    pub(super) fn failed(&mut self, url: &str, object: &Arc<Object>, continuable: bool) {
        let Some(entry) = self.of(url, object) else { return };
        if let Some((previous, cost)) = entry.previous.take() {
            let gone = std::mem::replace(&mut entry.cost, cost);
            entry.object = previous;
            entry.checked = None;
            self.bytes -= gone;
            disk::remove(&object.path());
        } else if !continuable {
            self.forget(url);
        }
    }

    /// Removes what is here of a file.
    pub(super) fn forget(&mut self, url: &str) {
        if let Some(entry) = self.take(url) {
            disk::remove(&entry.object.path());
            entry.previous.iter().for_each(|(object, _)| disk::remove(&object.path()));
        }
    }

    /// The origin has no such file; this holds until then.
    pub(super) fn missing(&mut self, url: &str, until: Instant) {
        self.forget(url);
        if self.missing.insert(url.to_owned(), until).is_none() {
            self.missing_order.push_back(url.to_owned());
        }
        while self.missing_order.len() > MOST_MISSING {
            if let Some(oldest) = self.missing_order.pop_front() {
                self.missing.remove(&oldest);
            }
        }
    }

    /// Whether `object` is what is here of a file.
    pub(super) fn holds(&mut self, url: &str, object: &Arc<Object>) -> bool {
        self.of(url, object).is_some()
    }

    /// Bytes that files take, or will when they are whole.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn of(&mut self, url: &str, object: &Arc<Object>) -> Option<&mut Entry> {
        self.kept.get_mut(url).filter(|entry| Arc::ptr_eq(&entry.object, object))
    }

    fn take(&mut self, url: &str) -> Option<Entry> {
        let entry = self.kept.remove(url)?;
        self.order.remove(&entry.tick);
        self.bytes -= entry.cost + entry.previous.as_ref().map_or(0, |(_, cost)| *cost);
        Some(entry)
    }

    fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// Removes what was not used for longest until there is room. What is still coming stays. Transfers that read a removed file read on: it
    /// takes its place on the disk until the last of them ends.
    fn make_room(&mut self, cost: u64) -> bool {
        if cost > self.limit {
            return false;
        }
        let mut after = 0;
        while self.bytes + cost > self.limit {
            let Some((&tick, url)) = self.order.range(after..).next() else { return false };
            let url = url.clone();
            after = tick + 1;
            if self.kept.get(&url).is_some_and(|entry| entry.object.stage() != Stage::Coming) {
                self.forget(&url);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
