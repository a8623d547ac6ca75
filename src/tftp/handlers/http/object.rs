//! One version of a file of the origin: in part or whole on the local disk, read by any number of transfers while it comes.

use super::meta::Meta;
use super::spans::Spans;
use crate::content::{Content, Lent, Pages, Version};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

/// A reader so far behind the stream's place waits for the stream; one that is further away has it come.
const NEAR: u64 = 4 << 20;

pub(super) struct Object {
    pub(super) meta: Meta,
    file: File,
    path: Mutex<PathBuf>,
    /// Size and tag: from the head of the answer, else when everything is there. Nobody is given an object before that.
    known: OnceLock<(u64, Version)>,
    /// Everything is there: reading needs no lock.
    whole: AtomicBool,
    pages: Pages,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    spans: Spans,
    failure: Option<Arc<str>>,
    /// Who waits for which offset. Whoever asks again takes its old place, so that there is one for each transfer.
    waiting: HashMap<(usize, usize), (u64, Waker)>,
}

/// How far an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Coming,
    Whole,
    Failed,
}

impl Object {
    /// An object that comes into the empty `file`.
    pub(super) fn coming(meta: Meta, file: File, path: PathBuf) -> Object {
        let known = OnceLock::new();
        if let (Some(size), Some(version)) = (meta.size, meta.version()) {
            let _ = known.set((size, version));
        }
        Object {
            meta,
            file,
            path: Mutex::new(path),
            known,
            whole: AtomicBool::new(false),
            pages: Pages::default(),
            state: Mutex::default(),
        }
    }

    /// An object that is there.
    pub(super) fn whole(meta: Meta, size: u64, version: Version, file: File, path: PathBuf) -> Object {
        let mut object = Object::coming(meta, file, path);
        object.known = OnceLock::from((size, version));
        object.whole = AtomicBool::new(true);
        object
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stage(&self) -> Stage {
        match self.whole.load(Ordering::Acquire) {
            true => Stage::Whole,
            false if self.state().failure.is_some() => Stage::Failed,
            false => Stage::Coming,
        }
    }

    /// Whether size and tag are known, so that a transfer can start.
    pub(super) fn is_known(&self) -> bool {
        self.known.get().is_some()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its lasting name.
    pub(super) fn rename(&self, to: &Path) -> io::Result<()> {
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        std::fs::rename(&*path, to)?;
        to.clone_into(&mut path);
        Ok(())
    }

    /// Takes bytes that came and wakes those who waited for them.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        let served: Vec<_> = {
            let State { spans, waiting, .. } = &mut *self.state();
            spans.insert(at..at + bytes.len() as u64);
            waiting.extract_if(|_, (offset, _)| spans.end_from(*offset) > *offset).map(|(_, (_, waker))| waker).collect()
        };
        served.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// The first hole at or behind `offset`, else the first of all.
    pub(super) fn hole(&self, offset: u64, size: u64) -> Option<Range<u64>> {
        let state = self.state();
        state.spans.hole_from(offset, size).or_else(|| state.spans.hole_from(0, size))
    }

    /// Where the bytes from `offset` on end that are there.
    pub(super) fn filled(&self, offset: u64) -> u64 {
        self.state().spans.end_from(offset)
    }

    /// Where a stream that is at `at` would be better: a transfer waits there, and none for what comes next.
    pub(super) fn wanted_elsewhere(&self, at: u64) -> Option<u64> {
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

    /// Everything is there.
    pub(super) fn finish(&self, size: u64, version: Version) {
        let _ = self.known.set((size, version));
        self.whole.store(true, Ordering::Release);
        self.wake_all(None);
    }

    /// No more will come. What is there can still be read.
    pub(super) fn fail(&self, why: &str) {
        self.wake_all(Some(why.into()));
    }

    /// More will come after all.
    pub(super) fn go_on(&self) {
        self.state().failure = None;
    }

    fn wake_all(&self, failure: Option<Arc<str>>) {
        let mut state = self.state();
        state.failure = failure;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(|(_, waker)| waker.wake());
    }

    fn read(&self, offset: u64, len: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let len = buffer.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        loop {
            return match self.file.read_at(&mut buffer[..len], offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) if len > 0 => Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file in the cache was cut short"))),
                read => Poll::Ready(read),
            };
        }
    }
}

impl Content for Object {
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
            return self.read(offset, size - offset, buffer);
        }
        let mut state = self.state();
        let end = state.spans.end_from(offset).min(size);
        if end > offset {
            drop(state);
            return self.read(offset, end - offset, buffer);
        }
        if let Some(why) = &state.failure {
            return Poll::Ready(Err(io::Error::other(why.to_string())));
        }
        // Between the first look and the lock it may have become whole, after which nobody is woken any more.
        if self.whole.load(Ordering::Acquire) {
            drop(state);
            return self.read(offset, size - offset, buffer);
        }
        let waker = context.waker();
        let who = (waker.data() as usize, std::ptr::from_ref(waker.vtable()) as usize);
        state.waiting.insert(who, (offset, waker.clone()));
        Poll::Pending
    }

    fn lend(&self, offset: u64, len: usize) -> Option<Lent<'_>> {
        let whole = self.whole.load(Ordering::Acquire);
        self.size().filter(|_| whole).and_then(|size| self.pages.lend(&self.file, size, offset, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::testing::{read_all, read_at};

    fn coming(size: u64) -> Object {
        let meta = Meta { size: Some(size), etag: Some("\"a\"".into()), last_modified: None, settled: false };
        Object::coming(meta, tempfile::tempfile().unwrap(), PathBuf::new())
    }

    #[test]
    fn many_read_while_it_comes_in_any_order() {
        let object = Arc::new(coming(6));
        let readers: Vec<_> = (0..20)
            .map(|_| {
                std::thread::spawn({
                    let object = object.clone();
                    move || read_all(&*object).unwrap()
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
    fn what_came_is_read_after_a_failure_and_the_rest_is_an_error_until_it_goes_on() {
        let object = coming(6);
        object.write(0, b"abc").unwrap();
        object.fail("the origin is gone");
        let mut buffer = [0; 9];
        assert_eq!(read_at(&object, 1, &mut buffer).unwrap(), 2);
        assert!(read_at(&object, 3, &mut buffer).is_err_and(|e| e.to_string().contains("gone")));
        object.go_on();
        assert!(object.poll_read_at(&mut Context::from_waker(Waker::noop()), 3, &mut buffer).is_pending());
        object.write(3, b"def").unwrap();
        assert_eq!(read_all(&object).unwrap(), b"abcdef");
    }

    #[test]
    fn the_stream_goes_where_somebody_waits_unless_somebody_waits_for_what_comes_next() {
        let object = coming(100 << 20);
        let wait_for = |offset, waker: &Waker| {
            assert!(object.poll_read_at(&mut Context::from_waker(waker), offset, &mut [0]).is_pending());
        };
        assert_eq!(object.wanted_elsewhere(0), None, "nobody waits");
        wait_for(50 << 20, Waker::noop());
        assert_eq!(object.wanted_elsewhere(0), Some(50 << 20));
        wait_for(60 << 20, Waker::noop());
        assert_eq!(object.wanted_elsewhere(0), Some(60 << 20), "the same transfer waits at one place only");
        struct Other;
        impl std::task::Wake for Other {
            fn wake(self: Arc<Self>) {}
        }
        wait_for(1 << 20, &Arc::new(Other).into());
        assert_eq!(object.wanted_elsewhere(0), None);
        assert_eq!(object.wanted_elsewhere(2 << 20), Some(1 << 20));
    }
}
