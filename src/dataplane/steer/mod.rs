//! Software steering: one thread receives for several workers and gives each its flows, as Maglev's own steering does.
//!
//! A network card spreads packets over receive queues by the header that it understands. GRE from few routers has few outer headers, so all of it can
//! land in one queue, and one worker would do everything. Here the steering thread owns the io; each worker has a [`WorkerQueue`], which is an io like any other.
//!
//! ```text
//!            ┌─ full ──► queue 0 (worker) ─┐
//! io ─► deal ┤                            ├─ done ─► send ─► io
//!            └─ full ──► queue 1 (worker) ─┘
//! ```
//!
//! * Frames travel in batches, so that a queue is touched once a batch and not once a frame. While a worker is busy, its next batch is filled further
//!   instead of being handed over nearly empty.
//! * A frame is copied twice: into a batch, and from there into the io's transmit buffer. In return no buffer of the io ever leaves its thread.
//! * The order within a flow is kept: one worker, one queue there, one queue back, both first in, first out.
//! * Memory is fixed: [`BATCHES_PER_QUEUE`] for each worker queue. When all of them are in use, frames are dropped, `worker_queue_full`: the worker is behind, or the transmit ring
//!   is.
//! * Every packet is counted once: by its worker; by the steering thread if it needs no worker or finds no room.

mod frame_batch;
#[cfg(test)]
mod tests;
mod worker_queue;

pub use worker_queue::WorkerQueue;

use crate::counters::{Counters, PacketCounter};
use crate::path::lookup::LastLookups;
use crate::path::steering_hash::{select_worker, steering_hash};
use crate::poll::SnapshotSource;
use crate::tables::Snapshot;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use frame_batch::FrameBatch;
use guideway_packet::frame::Frame;
use guideway_packet::io::{Io, PollResult};
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Batches of each worker queue that may wait for the worker, or for the transmit ring after it.
pub const BATCHES_PER_QUEUE: usize = 32;

/// The side of the steering thread.
pub struct Steering {
    io: Box<dyn Io>,
    queues: Vec<QueueEnd>,
    clock: Arc<AtomicU64>,
    /// The largest MTU so far, in bytes: what batches have room for.
    mtu: u16,
    /// Counters of the packets that no worker got.
    pub counters: Counters,
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steering").field("queues", &self.queues).finish_non_exhaustive()
    }
}

/// The steering thread's side of one worker queue.
#[derive(Debug)]
struct QueueEnd {
    submissions: Sender<FrameBatch>,
    completions: Receiver<FrameBatch>,
    free: Vec<FrameBatch>,
    /// The batch that is being filled.
    filling: Option<FrameBatch>,
    /// The batch that is being sent: the io had no room for the rest of it.
    sending: Option<FrameBatch>,
}

/// Puts `workers` queues before `io`, for frames of an interface with this MTU in bytes.
pub fn split(io: Box<dyn Io>, workers: usize, mtu: u16) -> (Steering, Vec<WorkerQueue>) {
    let clock = Arc::new(AtomicU64::new(io.now().0));
    let (queue_ends, queues) = (0..workers)
        .map(|_| {
            let ((full, to_worker), (from_worker, done)) = (bounded(BATCHES_PER_QUEUE), bounded(BATCHES_PER_QUEUE));
            let free = (0..BATCHES_PER_QUEUE).map(|_| FrameBatch::new(mtu)).collect();
            let queue = WorkerQueue::new(to_worker, from_worker, clock.clone());
            (QueueEnd { submissions: full, completions: done, free, filling: None, sending: None }, queue)
        })
        .unzip();
    (Steering { io, queues: queue_ends, clock, mtu, counters: Counters::default() }, queues)
}

impl Steering {
    /// Sends the batches that workers completed, receives one, and distributes it. Sleeps in the io for at most `wait`, and not at all while a worker has a batch.
    ///
    /// # Errors
    /// Those of the io.
    pub fn poll(&mut self, wait: Duration, tables: &mut impl SnapshotSource) -> std::io::Result<PollResult> {
        let mtu = tables.current().mtu;
        if mtu > self.mtu {
            self.mtu = mtu;
            self.queues.iter_mut().flat_map(|queue| &mut queue.free).for_each(|batch| batch.reset(mtu));
        }
        self.send_completed()?;
        let wait = if self.busy() { Duration::ZERO } else { wait };
        let Steering { io, queues, counters, .. } = self;
        let poll = io.poll(wait, &mut |now, frames| {
            let (tables, mut last) = (tables.current(), LastLookups::default());
            for frame in frames {
                frame.verdict = dispatch(frame, tables, &mut last, queues, now);
                // A worker counts its own frames. The io releases them like frames that are held.
                if frame.verdict != Verdict::Hold {
                    counters.add(PacketCounter::Received, 1);
                    counters.verdict(frame.verdict);
                }
            }
        })?;
        self.queues.iter_mut().for_each(QueueEnd::submit_if_idle);
        self.clock.store(self.io.now().0, Relaxed);
        Ok(poll)
    }

    /// The shared io.
    pub fn io(&self) -> &dyn Io {
        &*self.io
    }

    /// Whether any batch is in a worker queue.
    pub fn busy(&self) -> bool {
        self.queues.iter().any(|queue| queue.free.len() < BATCHES_PER_QUEUE)
    }

    /// Sends the frames that workers decided to transmit, in the order in which each decided.
    fn send_completed(&mut self) -> std::io::Result<()> {
        let Steering { io, queues, mtu, .. } = self;
        for queue in queues {
            while let Some(mut batch) = queue.sending.take().or_else(|| queue.completions.try_recv().ok()) {
                if !batch.send(&mut **io)? {
                    queue.sending = Some(batch);
                    break;
                }
                batch.reset(*mtu);
                queue.free.push(batch);
            }
        }
        Ok(())
    }

    /// Sends the batches that workers still complete until every queue was dropped, for at most `timeout`. Frames that are still in a queue are lost, as those in a
    /// receive ring are.
    ///
    /// # Errors
    /// Those of the io.
    pub fn finish(mut self, timeout: Duration) -> std::io::Result<Counters> {
        let until = Instant::now() + timeout;
        loop {
            self.send_completed()?;
            self.io.poll(Duration::ZERO, &mut |_, frames| frames.iter_mut().for_each(|frame| frame.verdict = Verdict::ToHost))?;
            let ended = |queue: &mut QueueEnd| match queue.completions.try_recv() {
                Ok(batch) => {
                    queue.sending = Some(batch);
                    false
                }
                Err(TryRecvError::Disconnected) => queue.sending.is_none(),
                Err(TryRecvError::Empty) => false,
            };
            // All of them are looked at: what is found has to be sent.
            let running = self.queues.iter_mut().filter(|queue| queue.sending.is_none()).map(ended).filter(|ended| !ended).count();
            let stuck = self.queues.iter().any(|queue| queue.sending.is_some());
            if (running == 0 && !stuck) || Instant::now() >= until {
                return Ok(self.counters);
            }
            std::thread::yield_now();
        }
    }
}

/// Puts a frame into the queue of its flow's worker. `Hold` says that the worker decides.
#[inline]
fn dispatch<'t>(frame: &Frame<'_>, tables: &'t Snapshot, last: &mut LastLookups<'t>, queues: &mut [QueueEnd], now: Time) -> Verdict {
    let hash = match steering_hash(frame.bytes(), tables, last) {
        Ok(hash) => hash,
        Err(verdict) => return verdict,
    };
    let queue = select_worker(hash, queues.len());
    let taken = queues.get_mut(queue).is_some_and(|queue| queue.put(frame.bytes(), now));
    if taken { Verdict::Hold } else { Verdict::Drop(Reason::WorkerQueueFull) }
}

impl QueueEnd {
    /// `false` when every batch is in use.
    #[inline]
    fn put(&mut self, frame: &[u8], now: Time) -> bool {
        let Some(mut batch) = self.filling.take().or_else(|| self.free.pop()) else { return false };
        batch.put(frame, now);
        if batch.is_full() {
            self.submit(batch);
        } else {
            self.filling = Some(batch);
        }
        true
    }

    fn submit_if_idle(&mut self) {
        if self.submissions.is_empty()
            && let Some(batch) = self.filling.take()
        {
            self.submit(batch);
        }
    }

    /// The queue has room for all batches. It fails only when the worker has ended, which control notices by itself.
    fn submit(&mut self, batch: FrameBatch) {
        let _ = self.submissions.try_send(batch);
    }
}
