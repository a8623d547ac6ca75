//! Index of the cache: cached files, running fetches, and files that the origin does not have. All three are bounded.

use super::disk::CachedFile;
use super::object::{Object, Stage};
use crate::handler::Refusal;
use futures_util::future::{BoxFuture, Shared};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Largest number of missing files that are remembered.
const MAX_MISSING: usize = 16_384;
/// Smallest cost of a file: it takes whole disk blocks and an entry in memory.
const MIN_COST: u64 = 4096;

/// One fetch that many requests may wait for.
pub(super) type SharedFetch = Shared<BoxFuture<'static, Result<Arc<Object>, Refusal>>>;

pub(super) struct Index {
    limit: u64,
    bytes: u64,
    cached: HashMap<String, Entry>,
    /// URLs by last use, the least recent first.
    order: BTreeMap<u64, String>,
    tick: u64,
    missing: HashMap<String, Instant>,
    missing_order: VecDeque<String>,
    pub(super) in_flight: HashMap<String, SharedFetch>,
    /// Files to remove after the lock is released, because removing may be slow.
    pub(super) gone: Vec<PathBuf>,
}

/// A version of a file.
pub(super) enum Version {
    /// It is being fetched, is partial, or waits for the disk.
    Open(Arc<Object>),
    /// It is on disk, and open only while it is read.
    Settled(CachedFile, Weak<Object>),
}

impl Version {
    fn is(&self, object: &Arc<Object>) -> bool {
        match self {
            Version::Open(held) => Arc::ptr_eq(held, object),
            Version::Settled(_, open) => std::ptr::eq(open.as_ptr(), Arc::as_ptr(object)),
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Version::Open(object) => object.path(),
            Version::Settled(cached, _) => cached.path.clone(),
        }
    }

    fn stage(&self) -> Stage {
        match self {
            Version::Open(object) => object.stage(),
            Version::Settled(..) => Stage::Complete,
        }
    }

    fn object(&mut self) -> io::Result<Arc<Object>> {
        match self {
            Version::Open(object) => Ok(object.clone()),
            Version::Settled(cached, open) => match open.upgrade() {
                Some(object) => Ok(object),
                None => {
                    let object = Arc::new(cached.open()?);
                    *open = Arc::downgrade(&object);
                    Ok(object)
                }
            },
        }
    }
}

struct Entry {
    current: Version,
    cost: u64,
    /// When the origin last confirmed this version; `None` for a file of an earlier server process.
    checked: Option<Instant>,
    tick: u64,
    /// The previous, complete version, until this one is complete.
    previous: Option<(Version, u64)>,
}

/// State of a file in the cache.
pub(super) enum Lookup {
    /// Can be served without asking the origin.
    Fresh(Arc<Object>),
    /// The origin recently said that the file does not exist.
    Missing,
    /// Must be requested from the origin; holds the cached version, if any.
    Revalidate(Option<Arc<Object>>),
}

impl Index {
    /// Creates an empty index for at most `limit` bytes of files.
    pub(super) fn new(limit: u64) -> Index {
        Index {
            limit,
            bytes: 0,
            cached: HashMap::new(),
            order: BTreeMap::new(),
            tick: 0,
            missing: HashMap::new(),
            missing_order: VecDeque::new(),
            in_flight: HashMap::new(),
            gone: Vec::new(),
        }
    }

    /// Looks up a file; `max_age` is how long an answer of the origin stays valid.
    pub(super) fn look_up(&mut self, url: &str, max_age: Duration, now: Instant) -> Lookup {
        if self.missing.get(url).is_some_and(|until| *until > now) {
            return Lookup::Missing;
        }
        let tick = self.next_tick();
        let Some(entry) = self.cached.get_mut(url) else { return Lookup::Revalidate(None) };
        self.order.remove(&entry.tick);
        entry.tick = tick;
        self.order.insert(tick, url.to_owned());
        let object = match entry.current.object() {
            Ok(object) => object,
            Err(error) => {
                tracing::warn!(url, %error, "cannot read cache file, fetching it again");
                self.forget(url);
                return Lookup::Revalidate(None);
            }
        };
        let current = match object.stage() {
            Stage::Partial => true,
            Stage::Complete => entry.checked.is_some_and(|at| now.saturating_duration_since(at) < max_age),
            Stage::Failed => false,
        };
        if current { Lookup::Fresh(object) } else { Lookup::Revalidate(Some(object)) }
    }

    /// As [`Index::look_up`], if that opens no file; `None` if it would, or if the file is being fetched.
    pub(super) fn look_up_open(&mut self, url: &str, max_age: Duration, now: Instant) -> Option<Lookup> {
        let open = match &self.cached.get(url).map(|entry| &entry.current) {
            Some(Version::Settled(_, open)) => open.strong_count() > 0,
            Some(Version::Open(_)) | None => true,
        };
        (open && !self.in_flight.contains_key(url)).then(|| self.look_up(url, max_age, now))
    }

    /// Stores a version under this URL, in place of an earlier one. Returns `false` if there is no room for `size` bytes.
    pub(super) fn keep(&mut self, url: &str, current: Version, size: u64, checked: Option<Instant>) -> bool {
        let cost = size.div_ceil(MIN_COST).max(1).saturating_mul(MIN_COST);
        let mut previous = None;
        if let Some(old) = self.take(url) {
            for (version, cost) in std::iter::once((old.current, old.cost)).chain(old.previous) {
                if previous.is_none() && version.stage() == Stage::Complete {
                    previous = Some((version, cost));
                } else {
                    self.gone.push(version.path());
                }
            }
        }
        let held = previous.as_ref().map_or(0, |(_, cost)| *cost);
        // The previous version is dropped if the new one does not fit otherwise.
        if !self.make_room(cost.saturating_add(held)) {
            self.gone.extend(previous.take().map(|(version, _)| version.path()));
            if !self.make_room(cost) {
                self.gone.push(current.path());
                return false;
            }
        }
        let tick = self.next_tick();
        self.bytes += cost + previous.as_ref().map_or(0, |(_, cost)| *cost);
        self.order.insert(tick, url.to_owned());
        self.cached.insert(url.to_owned(), Entry { current, cost, checked, tick, previous });
        true
    }

    /// Records that `object` is the current version, or is accepted as such.
    pub(super) fn checked(&mut self, url: &str, object: &Arc<Object>, now: Instant) {
        if let Some(entry) = self.of(url, object) {
            entry.checked = Some(now);
        }
    }

    /// Records that `object` is complete, and drops the previous version.
    pub(super) fn whole(&mut self, url: &str, object: &Arc<Object>) {
        if let Some((previous, cost)) = self.of(url, object).and_then(|entry| entry.previous.take()) {
            self.bytes -= cost;
            self.gone.push(previous.path());
        }
    }

    /// Records that `object` is on disk and need not stay open. If it was evicted in the meantime, its file is removed.
    pub(super) fn settled(&mut self, url: &str, object: &Arc<Object>, cached: CachedFile) {
        match self.of(url, object) {
            Some(entry) => entry.current = Version::Settled(cached, Arc::downgrade(object)),
            None => self.gone.push(cached.path),
        }
    }

    /// Handles a failure to put `object` on disk. Returns whether this is an error: if it was evicted in the meantime, its file is gone, and
    /// the failure is expected.
    pub(super) fn unsettled(&mut self, url: &str, object: &Arc<Object>) -> bool {
        let held = self.of(url, object).is_some();
        if held {
            self.forget(url);
        }
        held
    }

    /// Handles a failed fetch of `object`. The previous version replaces it; without one, it stays if it can be continued.
    pub(super) fn failed(&mut self, url: &str, object: &Arc<Object>, continuable: bool) {
        let Some(entry) = self.of(url, object) else { return };
        if let Some((previous, cost)) = entry.previous.take() {
            let freed = std::mem::replace(&mut entry.cost, cost);
            entry.current = previous;
            entry.checked = None;
            self.bytes -= freed;
            self.gone.push(object.path());
        } else if !continuable {
            self.forget(url);
        }
    }

    /// Removes a file from the cache.
    pub(super) fn forget(&mut self, url: &str) {
        if let Some(entry) = self.take(url) {
            self.gone.push(entry.current.path());
            self.gone.extend(entry.previous.map(|(version, _)| version.path()));
        }
    }

    /// Records that the origin does not have the file; valid until `until`.
    pub(super) fn missing(&mut self, url: &str, until: Instant) {
        self.forget(url);
        if self.missing.insert(url.to_owned(), until).is_none() {
            self.missing_order.push_back(url.to_owned());
        }
        while self.missing_order.len() > MAX_MISSING {
            if let Some(oldest) = self.missing_order.pop_front() {
                self.missing.remove(&oldest);
            }
        }
    }

    /// Returns the bytes that files take, or will take when they are complete.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the number of files, partial ones included.
    pub(super) fn files(&self) -> u64 {
        self.cached.len() as u64
    }

    fn of(&mut self, url: &str, object: &Arc<Object>) -> Option<&mut Entry> {
        self.cached.get_mut(url).filter(|entry| entry.current.is(object))
    }

    fn take(&mut self, url: &str) -> Option<Entry> {
        let entry = self.cached.remove(url)?;
        self.order.remove(&entry.tick);
        self.bytes -= entry.cost + entry.previous.as_ref().map_or(0, |(_, cost)| *cost);
        Some(entry)
    }

    fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// Evicts the least recently used files until there is room. Files that are being fetched stay. Transfers continue to read an evicted
    /// file: it uses disk space until the last of them ends.
    fn make_room(&mut self, cost: u64) -> bool {
        if cost > self.limit {
            return false;
        }
        let mut after = 0;
        while self.bytes + cost > self.limit {
            let Some((&tick, url)) = self.order.range(after..).next() else { return false };
            let url = url.clone();
            after = tick + 1;
            if self.cached.get(&url).is_some_and(|entry| entry.current.stage() != Stage::Partial) {
                self.forget(&url);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
