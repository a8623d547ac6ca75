//! What is in the cache, what is being asked for, and what the origin does not have; all three bounded.

use super::disk::Kept;
use super::object::{Object, Stage};
use crate::handler::Refusal;
use futures_util::future::{BoxFuture, Shared};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
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
    /// Files to be removed when the lock is no longer held: that may take a while.
    pub(super) gone: Vec<PathBuf>,
}

/// A version of a file.
pub(super) enum Version {
    /// It comes, or came in part, or is about to be put to the disk.
    Held(Arc<Object>),
    /// It is on the disk, and open only as long as somebody reads it.
    Settled(Kept, Weak<Object>),
}

impl Version {
    fn is(&self, object: &Arc<Object>) -> bool {
        match self {
            Version::Held(held) => Arc::ptr_eq(held, object),
            Version::Settled(_, open) => std::ptr::eq(open.as_ptr(), Arc::as_ptr(object)),
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Version::Held(object) => object.path(),
            Version::Settled(kept, _) => kept.path.clone(),
        }
    }

    fn stage(&self) -> Stage {
        match self {
            Version::Held(object) => object.stage(),
            Version::Settled(..) => Stage::Whole,
        }
    }

    fn object(&mut self) -> io::Result<Arc<Object>> {
        match self {
            Version::Held(object) => Ok(object.clone()),
            Version::Settled(kept, open) => match open.upgrade() {
                Some(object) => Ok(object),
                None => {
                    let object = Arc::new(kept.open()?);
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
    /// When the origin last said that it is this version; not yet, for what an earlier server left.
    checked: Option<Instant>,
    tick: u64,
    /// The version before, whole, until this one is.
    previous: Option<(Version, u64)>,
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
            gone: Vec::new(),
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
        let object = match entry.current.object() {
            Ok(object) => object,
            Err(error) => {
                tracing::warn!(url, %error, "a file in the cache cannot be read and is fetched anew");
                self.forget(url);
                return Known::Ask(None);
            }
        };
        let current = match object.stage() {
            Stage::Coming => true,
            Stage::Whole => entry.checked.is_some_and(|at| now.saturating_duration_since(at) < fresh),
            Stage::Failed => false,
        };
        if current { Known::Fresh(object) } else { Known::Ask(Some(object)) }
    }

    /// Keeps a version in place of what was there under this URL. Says no when there is no room for `size` bytes.
    pub(super) fn keep(&mut self, url: &str, current: Version, size: u64, checked: Option<Instant>) -> bool {
        let cost = size.div_ceil(SMALLEST).max(1).saturating_mul(SMALLEST);
        let mut previous = None;
        if let Some(old) = self.take(url) {
            for (version, cost) in std::iter::once((old.current, old.cost)).chain(old.previous) {
                if previous.is_none() && version.stage() == Stage::Whole {
                    previous = Some((version, cost));
                } else {
                    self.gone.push(version.path());
                }
            }
        }
        let held = previous.as_ref().map_or(0, |(_, cost)| *cost);
        // The version before is given up rather than that there is no room for the new one.
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
        self.kept.insert(url.to_owned(), Entry { current, cost, checked, tick, previous });
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
            self.gone.push(previous.path());
        }
    }

    /// `object` is on the disk and need not stay open. When it was pushed out in the meantime, its file goes, too.
    pub(super) fn settled(&mut self, url: &str, object: &Arc<Object>, kept: Kept) {
        match self.of(url, object) {
            Some(entry) => entry.current = Version::Settled(kept, Arc::downgrade(object)),
            None => self.gone.push(kept.path),
        }
    }

    /// `object` cannot be put to the disk. Says whether it was to be: when it was pushed out in the meantime, its file is gone, and that is
    /// no error.
    pub(super) fn unsettled(&mut self, url: &str, object: &Arc<Object>) -> bool {
        let held = self.of(url, object).is_some();
        if held {
            self.forget(url);
        }
        held
    }

    /// The rest of `object` did not come. The version before takes its place; without one, it stays when it can be continued.
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

    /// Removes what is here of a file.
    pub(super) fn forget(&mut self, url: &str) {
        if let Some(entry) = self.take(url) {
            self.gone.push(entry.current.path());
            self.gone.extend(entry.previous.map(|(version, _)| version.path()));
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

    /// Bytes that files take, or will when they are whole.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Files that are here, in part or whole.
    pub(super) fn files(&self) -> u64 {
        self.kept.len() as u64
    }

    fn of(&mut self, url: &str, object: &Arc<Object>) -> Option<&mut Entry> {
        self.kept.get_mut(url).filter(|entry| entry.current.is(object))
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
            if self.kept.get(&url).is_some_and(|entry| entry.current.stage() != Stage::Coming) {
                self.forget(&url);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
