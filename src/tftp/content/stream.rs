//! Content that is read once from front to back: a task reads ahead of the transfer and keeps what the transfer may have to repeat.

use super::source::{Source, Version};
use futures_core::Stream;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Bytes that are read ahead of the transfer.
const AHEAD: u64 = 256 * 1024;
/// Bytes behind the transfer's position that it may have to repeat: more than the largest window by default.
const KEPT: u64 = 1280 * 1024;
/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// A stream, as one transfer reads it.
pub(super) struct Streamed {
    buffer: Arc<Buffer>,
    size: Option<u64>,
    task: AbortHandle,
}

#[derive(Default)]
struct Buffer {
    state: Mutex<State>,
    /// The transfer has moved on.
    room: Notify,
}

#[derive(Default)]
struct State {
    /// Offset of the first kept byte.
    start: u64,
    bytes: VecDeque<u8>,
    /// How far the transfer has read.
    position: u64,
    ended: Option<Result<(), String>>,
    waiting: Option<Waker>,
}

impl Buffer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a piece, and waits until the transfer needs more.
    async fn put(&self, piece: &[u8]) {
        self.change(|state| state.bytes.extend(piece));
        loop {
            let room = self.room.notified();
            {
                let state = self.state();
                if state.start + (state.bytes.len() as u64) < state.position + AHEAD {
                    return;
                }
            }
            room.await;
        }
    }

    fn end(&self, with: Result<(), String>) {
        self.change(|state| _ = state.ended.get_or_insert(with));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

/// Ends the content when its task ends, also by a panic.
struct Ending(Arc<Buffer>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(Err("reading the content panicked".to_owned()));
    }
}

impl Streamed {
    pub(super) fn reader(reader: impl AsyncRead + Send + 'static, size: Option<u64>) -> Streamed {
        let mut reader = Box::pin(reader);
        Streamed::start(size, async move |buffer: Arc<Buffer>| {
            let mut piece = vec![0; PIECE];
            loop {
                match reader.read(&mut piece).await? {
                    0 => return Ok(()),
                    len => buffer.put(&piece[..len]).await,
                }
            }
        })
    }

    pub(super) fn stream<B: AsRef<[u8]> + Send>(stream: impl Stream<Item = io::Result<B>> + Send + 'static, size: Option<u64>) -> Streamed {
        let mut stream = Box::pin(stream);
        Streamed::start(size, |buffer: Arc<Buffer>| async move {
            while let Some(piece) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
                let piece = piece?;
                buffer.put(piece.as_ref()).await;
                drop(piece);
            }
            Ok(())
        })
    }

    fn start<R>(size: Option<u64>, read: impl FnOnce(Arc<Buffer>) -> R) -> Streamed
    where
        R: Future<Output = io::Result<()>> + Send + 'static,
    {
        let buffer = Arc::new(Buffer::default());
        let (reading, ending) = (read(Arc::clone(&buffer)), Ending(Arc::clone(&buffer)));
        let task = tokio::spawn(async move {
            let ended = reading.await;
            ending.0.end(ended.map_err(|error| error.to_string()));
        });
        Streamed { buffer, size, task: task.abort_handle() }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source for Streamed {
    fn size(&self) -> Option<u64> {
        self.size
    }

    /// Other servers cannot read it from the middle.
    fn version(&self) -> Version {
        Version([0; 16])
    }

    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = self.buffer.state();
        let Some(from) = offset.checked_sub(state.start) else {
            return Poll::Ready(Err(io::Error::other("the client went back further than a stream is kept")));
        };
        let available = (state.bytes.len() as u64).saturating_sub(from).min(buffer.len() as u64) as usize;
        if available == 0 {
            return match &state.ended {
                Some(Ok(())) => Poll::Ready(Ok(0)),
                Some(Err(why)) => Poll::Ready(Err(io::Error::other(why.clone()))),
                None => {
                    state.waiting = Some(context.waker().clone());
                    Poll::Pending
                }
            };
        }
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        state.bytes.range(from..from + available).zip(buffer).for_each(|(byte, to)| *to = *byte);
        state.position = state.position.max(offset + available as u64);
        let outdated = state.position.saturating_sub(KEPT).saturating_sub(state.start) as usize;
        if outdated >= PIECE {
            state.bytes.drain(..outdated);
            state.start += outdated as u64;
        }
        drop(state);
        self.buffer.room.notify_one();
        Poll::Ready(Ok(available))
    }
}

#[cfg(test)]
#[cfg(feature = "handlers")]
mod tests {
    use super::*;
    use crate::Content;
    use crate::handlers::testing::{read_all, runtime};

    struct Pieces(Vec<io::Result<Vec<u8>>>);

    impl Stream for Pieces {
        type Item = io::Result<Vec<u8>>;
        fn poll_next(mut self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.pop())
        }
    }

    #[test]
    fn streams_and_readers_are_read_to_their_end() {
        let _in_runtime = runtime().enter();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 253) as u8).collect();
        let all = bytes.clone();
        assert!(read_all(&Content::reader(io::Cursor::new(bytes.clone()), None)).unwrap() == all);
        let pieces = bytes.chunks(70_001).rev().map(|piece| Ok(piece.to_vec())).collect();
        assert!(read_all(&Content::stream(Pieces(pieces), None)).unwrap() == all);
        let broken = Pieces(vec![Err(io::Error::other("the service is gone")), Ok(vec![7; 100])]);
        assert!(read_all(&Content::stream(broken, None)).unwrap_err().to_string().contains("gone"));
        struct Mistake;
        impl AsyncRead for Mistake {
            fn poll_read(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>, _: &mut tokio::io::ReadBuf<'_>) -> Poll<io::Result<()>> {
                panic!("a mistake of the reader")
            }
        }
        assert!(read_all(&Content::reader(Mistake, None)).unwrap_err().to_string().contains("panicked"));
    }
}
