//! One version of a file of the origin: partial or complete on the local disk, read by any number of transfers while it is fetched.

use super::meta::Meta;
use super::range_set::RangeSet;
use crate::content::file::{FileReader, is_local};
use crate::content::{Borrowed, Source, Version};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

/// A reader at most this far ahead of the stream waits for it; for a reader that is further away, the stream moves.
const NEAR: u64 = 4 << 20;

pub(super) struct Object {
    pub(super) meta: Meta,
    file: FileReader,
    path: Mutex<PathBuf>,
    /// Size and tag, from the headers or from the complete file. Transfers get the object only after they are known.
    known: OnceLock<(u64, Version)>,
    /// Whether it is complete, so that reading needs no lock.
    whole: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    range_set: RangeSet,
    failure: Option<Arc<str>>,
    /// Waiting transfers and their offsets. A transfer that asks again replaces its entry, so that each has one.
    waiting: HashMap<(usize, usize), (u64, Waker)>,
}

/// Progress of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Partial,
    Complete,
    Failed,
}

impl Object {
    /// Creates an object that is fetched into the empty `file`.
    pub(super) fn partial(meta: Meta, file: File, path: PathBuf) -> Object {
        let known = OnceLock::new();
        if let (Some(size), Some(version)) = (meta.size, meta.version()) {
            let _ = known.set((size, version));
        }
        let local = is_local(&file);
        Object {
            meta,
            file: FileReader::new(file, local, None),
            path: Mutex::new(path),
            known,
            whole: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Creates a complete object.
    pub(super) fn whole(meta: Meta, size: u64, version: Version, file: File, path: PathBuf) -> Object {
        let mut object = Object::partial(meta, file, path);
        object.known = OnceLock::from((size, version));
        object.whole = AtomicBool::new(true);
        object
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stage(&self) -> Stage {
        match self.whole.load(Ordering::Acquire) {
            true => Stage::Complete,
            false if self.state().failure.is_some() => Stage::Failed,
            false => Stage::Partial,
        }
    }

    /// Returns whether size and tag are known, so that a transfer can start.
    pub(super) fn is_known(&self) -> bool {
        self.known.get().is_some()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn file(&self) -> &File {
        self.file.file()
    }

    /// Gives the file its final name.
    pub(super) fn rename(&self, to: &Path) -> io::Result<()> {
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        std::fs::rename(&*path, to)?;
        to.clone_into(&mut path);
        Ok(())
    }

    /// Writes fetched bytes and wakes the transfers that wait for them.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.file().write_all_at(bytes, at)?;
        let served: Vec<_> = {
            let State { range_set, waiting, .. } = &mut *self.state();
            range_set.insert(at..at + bytes.len() as u64);
            waiting.extract_if(|_, (offset, _)| range_set.end_from(*offset) > *offset).map(|(_, (_, waker))| waker).collect()
        };
        served.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Returns the first hole at or after `offset`, else the first hole of the file.
    pub(super) fn hole(&self, offset: u64, size: u64) -> Option<Range<u64>> {
        let state = self.state();
        state.range_set.hole_from(offset, size).or_else(|| state.range_set.hole_from(0, size))
    }

    /// Returns the end of the available bytes from `offset` on.
    pub(super) fn filled(&self, offset: u64) -> u64 {
        self.state().range_set.end_from(offset)
    }

    /// Returns the offset to which a stream at `at` should move: a transfer waits there, and none waits for the next bytes.
    pub(super) fn wanted_offset(&self, at: u64) -> Option<u64> {
        let state = self.state();
        let mut elsewhere = None;
        for (offset, _) in state.waiting.values() {
            if (at..at + NEAR).contains(offset) {
                return None;
            }
            elsewhere = Some(elsewhere.map_or(*offset, |least: u64| least.min(*offset)));
        }
        elsewhere
    }

    /// Marks the object as complete.
    pub(super) fn finish(&self, size: u64, version: Version) {
        let _ = self.known.set((size, version));
        self.whole.store(true, Ordering::Release);
        self.wake_all(None);
    }

    /// Marks the fetch as failed. Available bytes can still be read.
    pub(super) fn fail(&self, why: &str) {
        self.wake_all(Some(why.into()));
    }

    /// Clears the failure because the fetch is continued.
    pub(super) fn restart_fill(&self) {
        self.state().failure = None;
    }

    fn wake_all(&self, failure: Option<Arc<str>>) {
        let mut state = self.state();
        state.failure = failure;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(|(_, waker)| waker.wake());
    }

    fn read(&self, context: &mut Context<'_>, offset: u64, len: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let len = buffer.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        match self.file.poll_read_at(context, offset, &mut buffer[..len]) {
            Poll::Ready(Ok(0)) if len > 0 => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file in the cache was cut short")))
            }
            read => read,
        }
    }
}

impl Source for Object {
    fn size(&self) -> Option<u64> {
        self.known.get().map(|(size, _)| *size)
    }

    fn version(&self) -> Version {
        self.known.get().map_or(Version([0; 16]), |(_, version)| *version)
    }

    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let size = self.size().unwrap_or(u64::MAX);
        if offset >= size || buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.whole.load(Ordering::Acquire) {
            return self.read(context, offset, size - offset, buffer);
        }
        let mut state = self.state();
        let end = state.range_set.end_from(offset).min(size);
        if end > offset {
            drop(state);
            return self.read(context, offset, end - offset, buffer);
        }
        if let Some(why) = &state.failure {
            return Poll::Ready(Err(io::Error::other(why.to_string())));
        }
        // Before the lock it may have become complete; after that no transfer is woken.
        if self.whole.load(Ordering::Acquire) {
            drop(state);
            return self.read(context, offset, size - offset, buffer);
        }
        let waker = context.waker();
        let who = (waker.data() as usize, std::ptr::from_ref(waker.vtable()) as usize);
        state.waiting.insert(who, (offset, waker.clone()));
        Poll::Pending
    }

    fn borrow_at(&self, offset: u64, len: usize) -> Option<Borrowed<'_>> {
        let whole = self.whole.load(Ordering::Acquire);
        self.size().filter(|_| whole).and_then(|size| self.file.borrow_at(size, offset, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::testing::{read_at, read_source};

    fn partial(size: u64) -> Object {
        let meta = Meta { size: Some(size), etag: Some("\"a\"".into()), last_modified: None, settled: false };
        Object::partial(meta, tempfile::tempfile().unwrap(), PathBuf::new())
    }

    #[test]
    fn many_transfers_read_during_the_fetch_in_any_order() {
        let object = Arc::new(partial(6));
        let readers: Vec<_> = (0..20)
            .map(|_| {
                std::thread::spawn({
                    let object = object.clone();
                    move || read_source(&*object).unwrap()
                })
            })
            .collect();
        for (at, bytes) in [(4, "ef"), (0, "ab"), (2, "cd")] {
            object.write(at, bytes.as_bytes()).unwrap();
        }
        object.finish(6, object.version());
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() == b"abcdef"));
        assert!(object.state().waiting.is_empty());
    }

    #[test]
    fn after_a_failure_available_bytes_are_read_and_the_rest_is_an_error() {
        let object = partial(6);
        object.write(0, b"abc").unwrap();
        object.fail("the origin is gone");
        let mut buffer = [0; 9];
        assert_eq!(read_at(&object, 1, &mut buffer).unwrap(), 2);
        assert!(read_at(&object, 3, &mut buffer).is_err_and(|e| e.to_string().contains("gone")));
        object.restart_fill();
        assert!(object.poll_read_at(&mut Context::from_waker(Waker::noop()), 3, &mut buffer).is_pending());
        object.write(3, b"def").unwrap();
        assert_eq!(read_source(&object).unwrap(), b"abcdef");
    }

    #[test]
    fn the_stream_moves_to_a_waiting_transfer_unless_one_waits_for_the_next_bytes() {
        let object = partial(100 << 20);
        let wait_for = |offset, waker: &Waker| {
            assert!(object.poll_read_at(&mut Context::from_waker(waker), offset, &mut [0]).is_pending());
        };
        assert_eq!(object.wanted_offset(0), None, "no transfer waits");
        wait_for(50 << 20, Waker::noop());
        assert_eq!(object.wanted_offset(0), Some(50 << 20));
        wait_for(60 << 20, Waker::noop());
        assert_eq!(object.wanted_offset(0), Some(60 << 20), "a transfer waits at one offset only");
        struct Other;
        impl std::task::Wake for Other {
            fn wake(self: Arc<Self>) {}
        }
        wait_for(1 << 20, &Arc::new(Other).into());
        assert_eq!(object.wanted_offset(0), None);
        assert_eq!(object.wanted_offset(2 << 20), Some(1 << 20));
    }
}
