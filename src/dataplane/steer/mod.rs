//! Software steering: one thread receives for several workers and gives each its flows, as Maglev's own steering does.
//!
//! A network card spreads packets over receive queues by the header that it understands. GRE from few routers has few outer headers, so all of it can
//! land in one queue, and one worker would do everything. Here the steering thread owns the io; each worker has a [`Lane`], which is an io like any other.
//!
//! ```text
//!            ┌─ full ──► lane 0 (worker) ─┐
//! io ─► deal ┤                            ├─ done ─► send ─► io
//!            └─ full ──► lane 1 (worker) ─┘
//! ```
//!
//! * Frames travel in parcels of up to a batch, so that a queue is touched once a batch and not once a frame. While a worker is busy its next parcel
//!   is filled further instead of being handed over nearly empty.
//! * A frame is copied twice: into a parcel, and from there into the io's transmit buffer. In return no buffer of the io ever leaves its thread.
//! * The order within a flow is kept: one worker, one queue there, one queue back, both first in, first out.
//! * Memory is fixed: [`PARCELS`] for each lane. When all of a lane's are under way, its frames are dropped, `steering_full`: its worker is behind, or the
//!   transmit ring is.
//! * Every packet is counted once: by its worker; by the steering thread if it needs no worker or finds no room.

mod lane;
mod parcel;
#[cfg(test)]
mod tests;

pub use lane::Lane;

use crate::counters::{Counters, Number};
use crate::path::spread::{spread, worker};
use crate::tables::Snapshot;
use crate::turn::Tables;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use guideway_packet::frame::Frame;
use guideway_packet::io::{Io, Turn};
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use parcel::Parcel;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Parcels of each lane: so many batches may wait for its worker, or for the transmit ring after it.
pub const PARCELS: usize = 32;

/// The thread's side.
pub struct Steering {
    io: Box<dyn Io>,
    lanes: Vec<Side>,
    clock: Arc<AtomicU64>,
    /// What became of packets that no worker got.
    pub counters: Counters,
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steering").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

/// Its side of one lane.
#[derive(Debug)]
struct Side {
    full: Sender<Parcel>,
    done: Receiver<Parcel>,
    free: Vec<Parcel>,
    /// The parcel that is being filled.
    open: Option<Parcel>,
    /// The parcel that is being sent: the io had no room for the rest of it.
    sending: Option<Parcel>,
}

/// Puts `workers` lanes before `io`, for frames of an interface with this MTU in bytes.
pub fn split(io: Box<dyn Io>, workers: usize, mtu: u16) -> (Steering, Vec<Lane>) {
    let clock = Arc::new(AtomicU64::new(io.now().0));
    let (sides, lanes) = (0..workers)
        .map(|_| {
            let ((full, to_worker), (from_worker, done)) = (bounded(PARCELS), bounded(PARCELS));
            let free = (0..PARCELS).map(|_| Parcel::new(mtu)).collect();
            let lane = Lane::new(to_worker, from_worker, clock.clone());
            (Side { full, done, free, open: None, sending: None }, lane)
        })
        .unzip();
    (Steering { io, lanes: sides, clock, counters: Counters::default() }, lanes)
}

impl Steering {
    /// Sends what workers have done, receives a batch, and deals it out. Sleeps in the io for at most `wait`, and not at all while a worker has a parcel.
    ///
    /// # Errors
    /// Those of the io.
    pub fn turn(&mut self, wait: Duration, tables: &mut impl Tables) -> std::io::Result<Turn> {
        self.send_done()?;
        let wait = if self.busy() { Duration::ZERO } else { wait };
        let Steering { io, lanes, counters, .. } = self;
        let turn = io.turn(wait, &mut |now, frames| {
            let tables = tables.current();
            for frame in frames {
                frame.verdict = deal(frame, tables, lanes, now);
                // Those of a worker are counted by it; the io lets go of them as of frames that are held.
                if frame.verdict != Verdict::Hold {
                    counters.add(Number::Received, 1);
                    counters.verdict(frame.verdict);
                }
            }
        })?;
        self.lanes.iter_mut().for_each(Side::hand_over_if_idle);
        self.clock.store(self.io.now().0, Relaxed);
        Ok(turn)
    }

    /// The io that all share.
    pub fn io(&self) -> &dyn Io {
        &*self.io
    }

    /// Whether a lane has parcels under way.
    pub fn busy(&self) -> bool {
        self.lanes.iter().any(|lane| lane.free.len() < PARCELS)
    }

    /// Sends what workers have decided to transmit, in the order in which each decided.
    fn send_done(&mut self) -> std::io::Result<()> {
        let Steering { io, lanes, .. } = self;
        for lane in lanes {
            while let Some(mut parcel) = lane.sending.take().or_else(|| lane.done.try_recv().ok()) {
                if !parcel.send(&mut **io)? {
                    lane.sending = Some(parcel);
                    break;
                }
                parcel.clear();
                lane.free.push(parcel);
            }
        }
        Ok(())
    }

    /// Sends what workers still bring until every lane was dropped, for at most `patience`. Received frames that lie in a lane go with it, as those
    /// that lie in a receive ring do.
    ///
    /// # Errors
    /// Those of the io.
    pub fn finish(mut self, patience: Duration) -> std::io::Result<Counters> {
        let until = Instant::now() + patience;
        loop {
            self.send_done()?;
            self.io.turn(Duration::ZERO, &mut |_, frames| frames.iter_mut().for_each(|frame| frame.verdict = Verdict::ToHost))?;
            let ended = |lane: &mut Side| match lane.done.try_recv() {
                Ok(parcel) => {
                    lane.sending = Some(parcel);
                    false
                }
                Err(TryRecvError::Disconnected) => lane.sending.is_none(),
                Err(TryRecvError::Empty) => false,
            };
            // All of them are looked at: what is found has to be sent.
            let open = self.lanes.iter_mut().filter(|lane| lane.sending.is_none()).map(ended).filter(|ended| !ended).count();
            let stuck = self.lanes.iter().any(|lane| lane.sending.is_some());
            if (open == 0 && !stuck) || Instant::now() >= until {
                return Ok(self.counters);
            }
            std::thread::yield_now();
        }
    }
}

/// Puts a frame on the lane of its flow. `Hold` says that its worker decides.
#[inline]
fn deal(frame: &Frame<'_>, tables: &Snapshot, lanes: &mut [Side], now: Time) -> Verdict {
    let hash = match spread(frame.bytes(), tables) {
        Ok(hash) => hash,
        Err(verdict) => return verdict,
    };
    let lane = worker(hash, lanes.len());
    let taken = lanes.get_mut(lane).is_some_and(|lane| lane.put(frame.bytes(), now));
    if taken { Verdict::Hold } else { Verdict::Drop(Reason::SteeringFull) }
}

impl Side {
    /// `false` when every parcel is under way.
    #[inline]
    fn put(&mut self, frame: &[u8], now: Time) -> bool {
        let Some(mut parcel) = self.open.take().or_else(|| self.free.pop()) else { return false };
        parcel.put(frame, now);
        if parcel.is_full() {
            self.hand_over(parcel);
        } else {
            self.open = Some(parcel);
        }
        true
    }

    fn hand_over_if_idle(&mut self) {
        if self.full.is_empty()
            && let Some(parcel) = self.open.take()
        {
            self.hand_over(parcel);
        }
    }

    /// There is room for every parcel that there is; without a worker there is nobody to do it, and control is told by the worker's end.
    fn hand_over(&mut self, parcel: Parcel) {
        let _ = self.full.try_send(parcel);
    }
}
