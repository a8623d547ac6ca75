//! What a store does in the background for somebody, until that somebody has enough of it.

use std::future::Future;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A task that is told to end when this is dropped.
#[derive(Debug)]
pub(super) struct Background {
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

/// Told to the task.
pub(super) type Stop = oneshot::Receiver<()>;

impl Background {
    /// Starts the task; it ends soon after its `Stop` is ready.
    pub(super) fn start<F: Future<Output = ()> + Send + 'static>(task: impl FnOnce(Stop) -> F) -> Background {
        let (stop, told) = oneshot::channel();
        Background { stop: Some(stop), task: Some(tokio::spawn(task(told))) }
    }

    /// Nothing.
    pub(super) fn none() -> Background {
        Background { stop: None, task: None }
    }

    /// Tells the task to end and waits until it has.
    pub(super) async fn end(mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            let _ended = task.await;
        }
    }
}
