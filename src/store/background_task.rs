//! Background tasks of a store that end with their guard.

use std::future::Future;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A task that stops when this is dropped.
#[derive(Debug)]
pub(super) struct BackgroundTask {
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

/// The stop signal of a task.
pub(super) type Stop = oneshot::Receiver<()>;

impl BackgroundTask {
    /// Starts the task; it must end soon after its `Stop` is ready.
    pub(super) fn start<F: Future<Output = ()> + Send + 'static>(task: impl FnOnce(Stop) -> F) -> BackgroundTask {
        let (stop, stop_signal) = oneshot::channel();
        BackgroundTask { stop: Some(stop), task: Some(tokio::spawn(task(stop_signal))) }
    }

    /// Returns a guard without a task.
    pub(super) fn none() -> BackgroundTask {
        BackgroundTask { stop: None, task: None }
    }

    /// Stops the task and waits for its end.
    pub(super) async fn end(mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            let _ended = task.await;
        }
    }
}
