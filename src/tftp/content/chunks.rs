//! Reads on threads that may block, in chunks that the event loop then copies from. One read serves all transfers at the same place.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Bytes of a chunk.
const CHUNK: u64 = 64 * 1024;
/// Chunks that are kept, whether they are used or not.
const MIN_CHUNKS: usize = 4;
/// Most chunks that are kept while transfers read them, each at its own place: 16 MiB.
const MAX_CHUNKS: usize = 256;
/// A chunk is in use for so long after it was read from.
const IN_USE: Duration = Duration::from_secs(2);

/// A reader that may block.
pub(super) trait BlockingRead: Send + Sync + 'static {
    /// Reads at `offset` and returns the number of bytes, 0 only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Checks a chunk that was read. Chunks may be read again, and several at once.
    fn check(&self, start: u64, bytes: &[u8]) -> io::Result<()> {
        let _ = (start, bytes);
        Ok(())
    }
}

/// Runs work on a thread that may block; here, where there is no runtime.
pub(crate) fn run_elsewhere(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

/// A reader with the chunks that were read.
#[derive(Debug)]
pub(super) struct Chunked<R: BlockingRead> {
    /// `None` while it is dropped.
    shared: Option<Arc<Shared<R>>>,
    /// Whether dropping the reader may block.
    drop_elsewhere: bool,
}

#[derive(Debug)]
pub(super) struct Shared<R> {
    reader: R,
    chunks: Mutex<Chunks>,
}

/// The bytes of a chunk, or why they cannot be read. A chunk that is not full is the last one.
type Loaded = Result<Box<[u8]>, (io::ErrorKind, String)>;

#[derive(Debug)]
struct Chunk {
    start: u64,
    bytes: Loaded,
    used: Instant,
}

#[derive(Debug, Default)]
struct Chunks {
    /// The last ones that were read, the oldest first.
    loaded: VecDeque<Chunk>,
    /// Chunks that are being read, and who waits for them.
    loading: Vec<(u64, Vec<Waker>)>,
}

impl<R> Shared<R> {
    pub fn reader(&self) -> &R {
        &self.reader
    }

    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: BlockingRead> Chunked<R> {
    pub fn new(reader: R, drop_elsewhere: bool) -> Chunked<R> {
        Chunked { shared: Some(Arc::new(Shared { reader, chunks: Mutex::default() })), drop_elsewhere }
    }

    pub fn reader(&self) -> &R {
        &self.shared().reader
    }

    pub fn shared(&self) -> &Arc<Shared<R>> {
        match &self.shared {
            Some(shared) => shared,
            None => unreachable!("only its drop takes it"),
        }
    }

    /// Forgets what was read.
    #[cfg(test)]
    pub fn forget(&self) {
        self.shared().chunks().loaded.clear();
    }

    /// Copies bytes of a chunk, or starts to read it. Reads the next chunk ahead.
    pub fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let start = offset / CHUNK * CHUNK;
        let mut chunks = self.shared().chunks();
        let mut ahead = None;
        let polled = match chunks.loaded.iter_mut().enumerate().find(|(_, chunk)| chunk.start == start) {
            Some((index, chunk)) => match &chunk.bytes {
                Ok(bytes) => {
                    chunk.used = Instant::now();
                    let left = usize::try_from(offset - start).ok().and_then(|from| bytes.get(from..)).unwrap_or_default();
                    let len = left.len().min(buffer.len());
                    buffer[..len].copy_from_slice(&left[..len]);
                    ahead = (offset - start >= CHUNK / 2 && bytes.len() as u64 == CHUNK).then_some(start + CHUNK);
                    Poll::Ready(Ok(len))
                }
                Err(_) => {
                    let failed = chunks.loaded.remove(index).and_then(|chunk| chunk.bytes.err());
                    let (kind, why) = failed.unwrap_or((io::ErrorKind::Other, String::new()));
                    Poll::Ready(Err(io::Error::new(kind, why)))
                }
            },
            None => Poll::Pending,
        };
        let wanted = if polled.is_pending() { Some((start, Some(context.waker()))) } else { ahead.map(|ahead| (ahead, None)) };
        if let Some((start, waker)) = wanted
            && !chunks.loaded.iter().any(|chunk| chunk.start == start)
        {
            let load = chunks.wait_for(start, waker);
            drop(chunks);
            if load {
                let shared = Arc::clone(self.shared());
                run_elsewhere(move || shared.load(start));
            }
        }
        polled
    }
}

impl Chunks {
    /// Keeps a chunk, and drops those that nobody uses, or the one that was used longest ago.
    fn insert(&mut self, chunk: Chunk) {
        let now = chunk.used;
        self.loaded.push_back(chunk);
        while self.loaded.len() > MIN_CHUNKS {
            let oldest = self.loaded.iter().enumerate().min_by_key(|(_, chunk)| chunk.used).map(|(index, chunk)| (index, chunk.used));
            let Some((index, used)) = oldest else { return };
            if self.loaded.len() <= MAX_CHUNKS && now.saturating_duration_since(used) < IN_USE {
                return;
            }
            self.loaded.remove(index);
        }
    }

    /// Adds a waker to those of a chunk. Returns whether the chunk must be read.
    fn wait_for(&mut self, start: u64, waker: Option<&Waker>) -> bool {
        let known = self.loading.iter().position(|(at, _)| *at == start);
        let index = known.unwrap_or_else(|| {
            self.loading.push((start, Vec::new()));
            self.loading.len() - 1
        });
        let wakers = &mut self.loading[index].1;
        if let Some(waker) = waker.filter(|waker| !waker.will_wake(Waker::noop()) && !wakers.iter().any(|other| other.will_wake(waker))) {
            wakers.push(waker.clone());
        }
        known.is_none()
    }
}

impl<R: BlockingRead> Shared<R> {
    /// Reads a chunk. Blocks.
    fn load(&self, start: u64) {
        let read = catch_unwind(AssertUnwindSafe(|| self.read_chunk(start)));
        let read = read.unwrap_or_else(|_| Err(io::Error::other("reading the content panicked")));
        let mut chunks = self.chunks();
        let bytes = read.map_err(|error| (error.kind(), error.to_string()));
        chunks.insert(Chunk { start, bytes, used: Instant::now() });
        let waiting = chunks.loading.iter().position(|(at, _)| *at == start).map(|index| chunks.loading.swap_remove(index).1);
        drop(chunks);
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    fn read_chunk(&self, start: u64) -> io::Result<Box<[u8]>> {
        let bytes = read_chunk(&self.reader, start)?;
        self.reader.check(start, &bytes)?;
        Ok(bytes)
    }
}

/// Reads the chunk at `start`, of fewer bytes only at the end.
pub(super) fn read_chunk(reader: &impl BlockingRead, start: u64) -> io::Result<Box<[u8]>> {
    let mut bytes = vec![0; CHUNK as usize];
    let mut len = 0;
    while len < bytes.len() {
        match reader.read_at(start + len as u64, &mut bytes[len..]) {
            Ok(0) => break,
            Ok(more) => len += more.min(CHUNK as usize - len),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(len);
    Ok(bytes.into())
}

impl<R: BlockingRead> Drop for Chunked<R> {
    fn drop(&mut self) {
        if self.drop_elsewhere {
            let shared = self.shared.take();
            run_elsewhere(move || drop(shared));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    struct Slow(Vec<u8>, AtomicUsize);

    impl BlockingRead for Slow {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            self.1.fetch_add(1, Relaxed);
            assert!(offset < 10 * CHUNK, "a mistake of the reader");
            let left = self.0.get(offset as usize..).unwrap_or_default();
            let len = left.len().min(buffer.len()).min(50_000);
            buffer[..len].copy_from_slice(&left[..len]);
            Ok(len)
        }
    }

    #[test]
    fn chunks_are_read_once_and_a_panic_is_an_error() {
        let bytes: Vec<u8> = (0..2 * CHUNK + 100).map(|n| (n % 251) as u8).collect();
        let chunked = Chunked::new(Slow(bytes.clone(), AtomicUsize::new(0)), true);
        // Without a runtime, a chunk is read before the call returns.
        let read = |offset| {
            let (mut buffer, mut context) = ([0; 1000], Context::from_waker(Waker::noop()));
            let polled = match chunked.poll_read_at(&mut context, offset, &mut buffer) {
                Poll::Pending => chunked.poll_read_at(&mut context, offset, &mut buffer),
                ready => ready,
            };
            let Poll::Ready(read) = polled else { panic!("read") };
            read.map(|len| buffer[..len].to_vec())
        };
        for offset in [0, 700, CHUNK - 10, CHUNK, 2 * CHUNK + 99, 2 * CHUNK + 100] {
            let got = read(offset).unwrap();
            assert!(bytes[offset as usize..].starts_with(&got) && (!got.is_empty() || offset == 2 * CHUNK + 100), "{offset}");
        }
        assert!(chunked.reader().1.load(Relaxed) < 10, "{}", chunked.reader().1.load(Relaxed));
        assert!(read(10 * CHUNK).unwrap_err().to_string().contains("panicked"));
    }
    /// Each client of a boot storm is at another place of a file.
    #[test]
    fn fifty_readers_at_fifty_places_read_each_chunk_once() {
        struct Counted(AtomicUsize);
        impl BlockingRead for Counted {
            fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.fetch_add(1, Relaxed);
                let left = usize::try_from((50 * CHUNK).saturating_sub(offset)).unwrap();
                Ok(left.min(buffer.len()))
            }
        }
        let chunked = Chunked::new(Counted(AtomicUsize::new(0)), true);
        let mut buffer = [0; 1024];
        for step in 0..CHUNK / 1024 {
            for reader in 0..50 {
                let mut context = Context::from_waker(Waker::noop());
                let offset = reader * CHUNK + step * 1024;
                if chunked.poll_read_at(&mut context, offset, &mut buffer).is_pending() {
                    assert!(matches!(chunked.poll_read_at(&mut context, offset, &mut buffer), Poll::Ready(Ok(1024))));
                }
            }
        }
        // One of them reads ahead, beyond the end.
        assert_eq!(chunked.reader().0.load(Relaxed), 51);
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let (mut chunks, now) = (Chunks::default(), Instant::now());
        let chunk = |start, used| Chunk { start, bytes: Ok(Box::default()), used };
        (0..1000).for_each(|start| chunks.insert(chunk(start, now)));
        assert_eq!(chunks.loaded.len(), MAX_CHUNKS);
        chunks.insert(chunk(1000, now + IN_USE));
        assert_eq!(chunks.loaded.len(), MIN_CHUNKS);
    }
}
