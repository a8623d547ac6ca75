//! Background threads for origins, hooks and programs, so that event loops never wait for them.

use crate::handler::{Opened, Opening, Refusal};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

/// Threads that all handlers of a server share. Clones refer to the same threads, which end with the last clone.
#[derive(Clone)]
pub struct Background {
    handle: Handle,
    _threads: Arc<Threads>,
}

struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        // Does not wait: the last clone may be dropped on one of these threads.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Background {
    /// Starts `threads` threads (at least one).
    ///
    /// # Errors
    /// When the system provides no thread or no event queue.
    pub fn new(threads: usize) -> io::Result<Background> {
        let runtime = Builder::new_multi_thread().worker_threads(threads.max(1)).thread_name("tftp-background").enable_all().build()?;
        Ok(Background { handle: runtime.handle().clone(), _threads: Arc::new(Threads(Some(runtime))) })
    }

    /// Runs a task in the background.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) {
        // The task holds no clone: otherwise threads that wait for an origin would keep themselves alive.
        drop(self.handle.spawn(task));
    }

    /// Returns an opening whose task runs on these threads. The task is dropped when the opening is.
    pub fn open(&self, task: impl Future<Output = Opened> + Send + 'static) -> Opening {
        let (mut sender, receiver) = oneshot::channel();
        self.spawn(async move {
            tokio::select! {
                opened = task => drop(sender.send(opened)),
                () = sender.closed() => {}
            }
        });
        Opening::later(async move { receiver.await.unwrap_or_else(|_| Err(Refusal::failed("the server is stopping"))) })
    }

    /// Waits for the result of an opening of any kind.
    pub async fn settle(&self, opening: Opening) -> Opened {
        settle(&self.handle, opening).await
    }
}

/// Waits for the result of an opening, in a task that runs on these threads.
pub async fn resolve_here(opening: Opening) -> Opened {
    settle(&Handle::current(), opening).await
}

/// Runs blocking openings on a separate thread.
async fn settle(handle: &Handle, opening: Opening) -> Opened {
    match opening {
        Opening::Now(opened) => opened,
        Opening::Later(future) => future.await,
        Opening::Job(job) => match handle.spawn_blocking(job).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(%error, "handler failed");
                Err(Refusal::failed("the server failed"))
            }
        },
    }
}

/// Limits concurrency; a bounded number of further tasks waits.
pub struct ConcurrencyLimit {
    permits: Semaphore,
    waiting: AtomicUsize,
}

/// Largest number of waiting tasks: clients of further ones would give up before they run.
const MAX_WAITING: usize = 1024;

impl ConcurrencyLimit {
    /// Allows that many at once.
    pub fn new(permits: usize) -> ConcurrencyLimit {
        ConcurrencyLimit { permits: Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a permit, which is released on drop; refuses when too many tasks wait already.
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let busy = || Refusal::failed("the server is busy, try again");
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= MAX_WAITING {
            return Err(busy());
        }
        self.permits.acquire().await.map_err(|_| busy())
    }
}
