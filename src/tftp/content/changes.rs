//! Tells a file whose bytes were changed from one whose metadata were: `touch`, `chmod`, a new link, or a rename of another file over its name.
//!
//! All of them change its times. inotify(7) reports them apart, but for a modification time that is set alone (`touch -m`), which it reports as a
//! write. It misses writes to mappings; then it has no event for the new times either, and the file counts as changed. Only a write to a mapping of a
//! file whose metadata are changed in the same transfer goes unnoticed: its times do not tell it from a `touch`. Replace files by a rename.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// What happened to a file since it was opened.
#[derive(Debug, Default)]
struct Seen {
    modified: AtomicBool,
    metadata: AtomicBool,
}

/// Watches an open file until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    descriptor: WatchDescriptor,
    seen: Arc<Seen>,
    watcher: &'static Watcher,
}

#[derive(Debug)]
struct Watcher {
    inotify: Inotify,
    watched: Mutex<HashMap<WatchDescriptor, Vec<Weak<Seen>>>>,
}

fn watcher() -> Option<&'static Watcher> {
    static WATCHER: OnceLock<Option<Watcher>> = OnceLock::new();
    let new = || {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        Some(Watcher { inotify, watched: Mutex::default() })
    };
    WATCHER.get_or_init(new).as_ref()
}

type Watched<'a> = MutexGuard<'a, HashMap<WatchDescriptor, Vec<Weak<Seen>>>>;

impl Watcher {
    fn lock(&self) -> Watched<'_> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the events that have arrived.
    fn update(&self, watched: &mut Watched<'_>) {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            for event in events {
                let mark = |seen: &Weak<Seen>| {
                    if let Some(seen) = seen.upgrade() {
                        seen.modified.fetch_or(event.mask.intersects(AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_Q_OVERFLOW), Relaxed);
                        seen.metadata.fetch_or(event.mask.contains(AddWatchFlags::IN_ATTRIB), Relaxed);
                    }
                };
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    watched.values().flatten().for_each(mark);
                } else {
                    watched.get(&event.wd).into_iter().flatten().for_each(mark);
                }
            }
        }
    }
}

impl Watch {
    /// Watches a file. `None` if the user has no watch left. Metadata are to be read afterwards.
    pub fn new(file: &File) -> Option<Watch> {
        let watcher = watcher()?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut watched = watcher.lock();
        // Earlier events do not concern this watch.
        watcher.update(&mut watched);
        let descriptor = watcher.inotify.add_watch(Path::new(&path), AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB).ok()?;
        let seen = Arc::new(Seen::default());
        watched.entry(descriptor).or_default().push(Arc::downgrade(&seen));
        Some(Watch { descriptor, seen, watcher })
    }

    /// Returns whether the file has new metadata, and the bytes that it had.
    pub fn only_metadata_changed(&self) -> bool {
        !self.was_modified() && self.seen.metadata.load(Relaxed)
    }

    /// Returns whether somebody wrote to the file, also in the same step of the file system's clock.
    pub fn was_modified(&self) -> bool {
        self.watcher.update(&mut self.watcher.lock());
        self.seen.modified.load(Relaxed)
    }

    /// Forgets what has happened so far.
    pub fn reset(&self) {
        self.watcher.update(&mut self.watcher.lock());
        self.seen.modified.store(false, Relaxed);
        self.seen.metadata.store(false, Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.watcher.lock();
        let Some(all) = watched.get_mut(&self.descriptor) else { return };
        all.retain(|seen| !std::ptr::eq(seen.as_ptr(), Arc::as_ptr(&self.seen)));
        if all.is_empty() {
            watched.remove(&self.descriptor);
            // The kernel has removed the watch of a deleted file.
            let _gone = self.watcher.inotify.rm_watch(self.descriptor);
        }
    }
}
