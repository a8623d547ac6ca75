//! Runs handlers on the runtime and returns their results to the event loop. Panics are caught and become an answer.

use super::channel::{EventChannel, LoopEvent, Panicked, StoreResult};
use super::destination::HeldDestination;
use super::key::Key;
use crate::content::{Content, Source, run_elsewhere};
use crate::handler::{Handler, Opened, SharedHandler};
use crate::request::Request;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::Instrument;

/// Runs the handler of an event loop.
#[derive(Clone)]
pub struct Openers {
    runtime: Handle,
    handler: SharedHandler,
    channel: Arc<EventChannel>,
    /// Whether content needs its version before the first answer.
    versions: bool,
}

/// A running call of the handler, which ends with this value.
pub struct OpeningTask(AbortHandle);

impl Drop for OpeningTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Work on the destination of an upload.
pub enum StoreStep {
    /// Prepare for the first bytes.
    Begin,
    /// Write these bytes.
    Write(Vec<u8>),
    /// Write these bytes, the last ones, and store the file.
    Finish(Vec<u8>),
}

impl Openers {
    /// Runs `handler` on this runtime. `versions` says whether content needs its version before the first answer.
    pub fn new(runtime: Handle, handler: SharedHandler, channel: Arc<EventChannel>, versions: bool) -> Openers {
        Openers { runtime, handler, channel, versions }
    }

    /// Replaces the handler of further requests.
    pub fn set_handler(&mut self, handler: SharedHandler) {
        let before = std::mem::replace(&mut self.handler, handler);
        // It may be the last one that holds it, and dropping foreign code may take any time.
        run_elsewhere(move || drop(before));
    }

    /// Returns whether write requests reach the handler.
    pub fn accepts_uploads(&self) -> bool {
        self.handler.accepts_uploads()
    }

    /// Opens a file at once, if that needs no wait.
    pub fn open_now(&self, request: &Request) -> Option<Result<Opened, Panicked>> {
        catch_unwind(AssertUnwindSafe(|| self.handler.open_now(request))).map_or(Some(Err(Panicked)), |opened| opened.map(Ok))
    }

    /// Starts to open a file.
    pub fn open(&self, key: Key, request: Request) -> OpeningTask {
        let (handler, versions) = (self.handler.clone(), self.versions);
        let span = tracing::info_span!("open", client = %request.client, file = %request.name());
        self.run(
            async move {
                let opened = handler.open(request).await;
                if versions && let Ok(content) = &opened {
                    compute_version(content).await;
                }
                opened
            }
            .instrument(span),
            move |opened| LoopEvent::Opened(key, opened),
        )
    }

    /// Starts to accept a file.
    pub fn store(&self, key: Key, request: Request) -> OpeningTask {
        let handler = self.handler.clone();
        let span = tracing::info_span!("store", client = %request.client, file = %request.name());
        self.run(async move { handler.store(request).await.map(HeldDestination::new) }.instrument(span), move |accepted| {
            LoopEvent::Accepted(key, accepted)
        })
    }

    fn run<T>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
        event: impl FnOnce(Result<T, Panicked>) -> LoopEvent + Send + 'static,
    ) -> OpeningTask {
        let channel = Arc::clone(&self.channel);
        let task = self.runtime.spawn(async move {
            channel.send(event(caught(call).await));
        });
        OpeningTask(task.abort_handle())
    }

    /// Starts work on the destination of an upload.
    pub fn step(&self, key: Key, destination: HeldDestination, step: StoreStep) {
        let mut destination = destination.into_inner();
        let channel = Arc::clone(&self.channel);
        self.runtime.spawn_blocking(move || {
            let work = || match step {
                StoreStep::Begin => match destination.begin() {
                    Ok(()) => StoreResult::Ready(HeldDestination::new(destination)),
                    Err(refusal) if refusal.code.is_none() => StoreResult::NotNow(HeldDestination::new(destination)),
                    Err(refusal) => StoreResult::Refused(refusal),
                },
                StoreStep::Write(bytes) => {
                    destination.write(&bytes).map_or_else(StoreResult::Refused, |()| StoreResult::Ready(HeldDestination::new(destination)))
                }
                StoreStep::Finish(bytes) => {
                    let finished = destination.write(&bytes).and_then(|()| destination.finish());
                    finished.map_or_else(StoreResult::Refused, |()| StoreResult::Finished)
                }
            };
            channel.send(LoopEvent::Stored(key, catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)));
        });
    }
}

/// Runs a call of foreign code. As `FutureExt::catch_unwind`: after a panic the call is dropped.
pub(super) async fn caught<T>(call: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut call = Box::pin(call);
    std::future::poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

/// Computes the version of content in memory, on a thread for long work.
pub(super) async fn compute_version(content: &Content) {
    if content.0.known_version().is_none() {
        let source: Arc<dyn Source> = Arc::clone(&content.0);
        // A panic leaves the version unknown.
        let _done = tokio::task::spawn_blocking(move || source.version()).await;
    }
}
