//! Threads for what waits: origins, hooks and programs are talked to there, away from the event loops that send.

use crate::handler::{Opened, Opening, Refusal};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

/// Threads that all handlers of a server share. Clones are the same threads; they end with the last clone.
#[derive(Clone)]
pub struct Background {
    handle: Handle,
    _threads: Arc<Threads>,
}

struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        // Not waiting: the last clone may go on one of these very threads.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Background {
    /// Starts `threads` threads (at least one).
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn new(threads: usize) -> io::Result<Background> {
        let runtime = Builder::new_multi_thread().worker_threads(threads.max(1)).thread_name("tftp-background").enable_all().build()?;
        Ok(Background { handle: runtime.handle().clone(), _threads: Arc::new(Threads(Some(runtime))) })
    }

    /// Runs a task whether or not anyone waits for it.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) {
        // The task holds no clone: threads that wait for an origin must not keep themselves alive.
        drop(self.handle.spawn(task));
    }

    /// Opens by a task that runs here. It is dropped when nobody waits for its result any more.
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

    /// The result of an opening, whichever way it opens.
    pub async fn settle(&self, opening: Opening) -> Opened {
        settle(&self.handle, opening).await
    }
}

/// The result of an opening for a task that runs on these threads.
pub async fn settle_here(opening: Opening) -> Opened {
    settle(&Handle::current(), opening).await
}

/// What blocks does so on a thread of its own.
async fn settle(handle: &Handle, opening: Opening) -> Opened {
    match opening {
        Opening::Now(opened) => opened,
        Opening::Later(future) => future.await,
        Opening::Job(job) => match handle.spawn_blocking(job).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(%error, "opening a file failed");
                Err(Refusal::failed("the server failed"))
            }
        },
    }
}

/// Lets in so many at a time; a bounded number of others waits.
pub struct Gate {
    places: Semaphore,
    waiting: AtomicUsize,
}

/// More than so many do not wait: their clients would have given up before their turn.
const MOST_WAITING: usize = 1024;

impl Gate {
    pub fn new(places: usize) -> Gate {
        Gate { places: Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)), waiting: AtomicUsize::new(0) }
    }

    /// A place, which ends with what is returned; a refusal when too many wait already.
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
        if before >= MOST_WAITING {
            return Err(busy());
        }
        self.places.acquire().await.map_err(|_| busy())
    }
}
