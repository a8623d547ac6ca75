//! A worker's way in and out when its flows are handed to it by the steering thread.

use super::frame_batch::FrameBatch;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use guideway_packet::frame::{OWN_INTERFACE, Output};
use guideway_packet::io::{BatchHandler, Io, PollResult};
use guideway_packet::time::Time;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// One worker's io. A turn ends it (`PollResult::end`) when the steering thread is gone and nothing is left.
///
/// `ToHost` only releases a frame: the steering thread has already left the packets of the host to it.
#[derive(Debug)]
pub struct WorkerQueue {
    submissions: Receiver<FrameBatch>,
    completions: Sender<FrameBatch>,
    /// The last batch, which takes frames that the worker itself sends until its next poll.
    current: Option<FrameBatch>,
    /// The time of the shared io, as of its last poll.
    clock: Arc<AtomicU64>,
}

impl WorkerQueue {
    pub(super) fn new(submissions: Receiver<FrameBatch>, completions: Sender<FrameBatch>, clock: Arc<AtomicU64>) -> WorkerQueue {
        WorkerQueue { submissions, completions, current: None, clock }
    }

    /// The queue has room for all batches. It fails only when the steering thread is gone.
    fn complete_current(&mut self) {
        if let Some(batch) = self.current.take() {
            let _ = self.completions.try_send(batch);
        }
    }
}

impl Io for WorkerQueue {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        self.complete_current();
        let batch = match self.submissions.try_recv() {
            Err(TryRecvError::Empty) if !wait.is_zero() => self.submissions.recv_timeout(wait).map_err(|e| match e {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            }),
            other => other,
        };
        match batch {
            Ok(mut batch) => {
                let received = batch.process(work);
                self.current = Some(batch);
                Ok(PollResult { received, ..PollResult::default() })
            }
            Err(error) => Ok(PollResult { end: error == TryRecvError::Disconnected, ..PollResult::default() }),
        }
    }

    /// Adds the frame to the batch of the last poll, which leaves with the next one; `false` when that poll had none, or there is no room.
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        self.send_by(frame, OWN_INTERFACE)
    }

    fn send_by(&mut self, frame: &[u8], output: Output) -> std::io::Result<bool> {
        Ok(self.current.as_mut().is_some_and(|batch| batch.append(frame, output)))
    }

    fn now(&self) -> Time {
        Time(self.clock.load(Relaxed))
    }
}

impl Drop for WorkerQueue {
    fn drop(&mut self) {
        self.complete_current();
    }
}
