//! The steering thread: receives for all workers when `[director] steering` is set.

use super::idle::IdleBackoff;
use super::worker::WorkerEvent;
use arc_swap::{ArcSwap, Cache};
use guideway_control::WorkerStatus;
use guideway_dataplane::steer::Steering;
use guideway_dataplane::tables::Snapshot;
use guideway_host::cpus;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Time that the thread waits at the end for packets that workers still send.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(300);

/// The parts of a steering thread.
pub struct SteeringThread {
    /// The number in its reports: that after the last worker's.
    pub index: usize,
    /// The CPU that it is pinned to.
    pub cpu: usize,
    /// The steering itself.
    pub steering: Steering,
    /// The current tables.
    pub tables: Arc<ArcSwap<Snapshot>>,
    /// Its counters.
    pub worker_status: Arc<WorkerStatus>,
    /// Set when it must end.
    pub stop: Arc<AtomicBool>,
    /// Reports to control.
    pub reports: UnboundedSender<WorkerEvent>,
}

/// Starts the thread.
pub fn spawn(thread: SteeringThread) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("steering".to_owned()).spawn(move || {
        let _ = nix::sys::signal::SigSet::all().thread_block();
        let (index, reports) = (thread.index, thread.reports.clone());
        let why = match catch_unwind(AssertUnwindSafe(|| thread.run())) {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => "the steering thread panicked; see the message above".to_owned(),
        };
        let _ = reports.send(WorkerEvent::Failed(index, why));
    })
}

impl SteeringThread {
    fn run(mut self) -> Result<(), String> {
        cpus::pin(self.cpu).map_err(|e| e.to_string())?;
        let failed = |e| format!("the io of the steering thread failed: {e}");
        let mut tables = Cache::new(self.tables.clone());
        let mut idle = IdleBackoff::default();
        let _ = self.reports.send(WorkerEvent::Running(self.index));
        while !self.stop.load(Relaxed) {
            let poll = self.steering.poll(idle.wait(), &mut tables).map_err(failed)?;
            if poll.end {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let waiting = poll.received == 0 && self.steering.busy();
            if waiting {
                // A worker is busy and may need this CPU.
                std::thread::yield_now();
            }
            idle.polled(poll.received > 0 || waiting);
            self.worker_status.set(&self.steering.counters, 0);
            self.worker_status.set_io(self.steering.io());
        }
        let counters = self.steering.finish(FLUSH_TIMEOUT).map_err(failed)?;
        self.worker_status.set(&counters, 0);
        Ok(())
    }
}
