//! The status of a worker: atomics that the worker writes and the status of the director reads.

use guideway_dataplane::counters::{Counters, SharedCounters};
use guideway_dataplane::path::draining::DrainingFlows;
use guideway_packet::io::Io;
use guideway_packet::loss::{Loss, Losses};
use indexmap::IndexMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// The status of one worker.
#[derive(Debug, Default)]
pub struct WorkerStatus {
    pub(super) counters: SharedCounters,
    pub(super) polls: AtomicU64,
    pub(super) flows: AtomicUsize,
    pub(super) flow_capacity: AtomicUsize,
    pub(super) io: OnceLock<Vec<(&'static str, AtomicU64)>>,
    losses: [AtomicU64; Loss::ALL.len()],
    pub(super) draining_flows: OnceLock<Arc<DrainingFlows>>,
}

impl WorkerStatus {
    /// Updates the counters and the number of flow table entries in use, and counts one poll. Only the worker calls it.
    pub fn set(&self, counters: &Counters, flows: usize) {
        self.polls.store(self.polls.load(Relaxed).wrapping_add(1), Relaxed);
        self.counters.set(counters);
        self.flows.store(flows, Relaxed);
    }

    /// Returns how often the worker has polled since it started.
    pub fn polls(&self) -> u64 {
        self.polls.load(Relaxed)
    }

    /// Updates the counters of the io. Only the worker calls it, always with the same io.
    pub fn set_io(&self, io: &dyn Io) {
        let start = || {
            let mut counts = Vec::new();
            io.for_each_counter(&mut |name, _| counts.push((name, AtomicU64::new(0))));
            counts
        };
        let mut shown = self.io.get_or_init(start).iter();
        io.for_each_counter(&mut |_, count| {
            if let Some((_, shown)) = shown.next() {
                shown.store(count, Relaxed);
            }
        });
        let losses = io.losses();
        for (loss, shown) in Loss::ALL.iter().zip(&self.losses) {
            shown.store(losses.get(*loss), Relaxed);
        }
    }

    /// Returns the frames that its io lost.
    pub fn losses(&self) -> Losses {
        let mut losses = Losses::default();
        Loss::ALL.iter().zip(&self.losses).for_each(|(loss, frames)| losses.add(*loss, frames.load(Relaxed)));
        losses
    }

    /// Attaches the flows that still run on backends without new flows. The worker calls it once.
    pub fn set_draining_flows(&self, draining_flows: Arc<DrainingFlows>) {
        let _again = self.draining_flows.set(draining_flows);
    }

    /// Sets the capacity of the flow table.
    pub fn set_flow_capacity(&self, flows: usize) {
        self.flow_capacity.store(flows, Relaxed);
    }
}

/// Returns the reasons for which frames were lost, as documents show them.
pub(super) fn losses_document(losses: &Losses) -> IndexMap<String, u64> {
    let lost = Loss::ALL.iter().filter(|loss| losses.get(**loss) > 0);
    lost.map(|loss| (loss.name().to_owned(), losses.get(*loss))).collect()
}
