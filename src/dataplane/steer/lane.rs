//! A worker's way in and out when its flows are handed to it by the steering thread.

use super::parcel::Parcel;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use guideway_packet::io::{Io, Turn, Work};
use guideway_packet::time::Time;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// One worker's io. A turn ends it (`Turn::end`) when the steering thread is gone and nothing is left.
///
/// `ToHost` only releases a frame: the steering thread has left to the host what the tables of its moment say is the host's.
#[derive(Debug)]
pub struct Lane {
    full: Receiver<Parcel>,
    done: Sender<Parcel>,
    /// Decided over, and open for frames that the worker itself sends until its next turn.
    current: Option<Parcel>,
    /// The time of the io behind, as of its last turn.
    clock: Arc<AtomicU64>,
}

impl Lane {
    pub(super) fn new(full: Receiver<Parcel>, done: Sender<Parcel>, clock: Arc<AtomicU64>) -> Lane {
        Lane { full, done, current: None, clock }
    }

    /// There is room for every parcel that there is. When the steering thread is gone, nobody can send it.
    fn give_back(&mut self) {
        if let Some(parcel) = self.current.take() {
            let _ = self.done.try_send(parcel);
        }
    }
}

impl Io for Lane {
    fn turn(&mut self, wait: Duration, work: &mut Work<'_>) -> std::io::Result<Turn> {
        self.give_back();
        let parcel = match self.full.try_recv() {
            Err(TryRecvError::Empty) if !wait.is_zero() => self.full.recv_timeout(wait).map_err(|e| match e {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            }),
            other => other,
        };
        match parcel {
            Ok(mut parcel) => {
                let received = parcel.show(work);
                self.current = Some(parcel);
                Ok(Turn { received, ..Turn::default() })
            }
            Err(error) => Ok(Turn { end: error == TryRecvError::Disconnected, ..Turn::default() }),
        }
    }

    /// With the batch of the last turn, which leaves with the next one; `false` when that turn had none, or there is no room.
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        Ok(self.current.as_mut().is_some_and(|parcel| parcel.append(frame)))
    }

    fn now(&self) -> Time {
        Time(self.clock.load(Relaxed))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.give_back();
    }
}
