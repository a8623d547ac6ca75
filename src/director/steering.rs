//! The steering thread: receives for all workers when `[director] steering` says so.

use super::cpus;
use super::pace::Pace;
use super::worker::Report;
use arc_swap::{ArcSwap, Cache};
use guideway_control::Shown;
use guideway_dataplane::steer::Steering;
use guideway_dataplane::tables::Snapshot;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// When the director ends, what workers have decided to send is waited for so long.
const LAST_FRAMES: Duration = Duration::from_millis(300);

/// What the thread is made of.
pub struct Thread {
    /// The number by which it reports: that after the last worker's.
    pub index: usize,
    /// The CPU that it is pinned to.
    pub cpu: usize,
    /// Its work.
    pub steering: Steering,
    /// What control publishes.
    pub tables: Arc<ArcSwap<Snapshot>>,
    /// Where it shows what it did.
    pub shown: Arc<Shown>,
    /// Set when it has to end.
    pub stop: Arc<AtomicBool>,
    /// To control.
    pub reports: UnboundedSender<Report>,
}

/// Starts the thread.
pub fn spawn(thread: Thread) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("steering".to_owned()).spawn(move || {
        let _ = nix::sys::signal::SigSet::all().thread_block();
        let (index, reports) = (thread.index, thread.reports.clone());
        let why = match catch_unwind(AssertUnwindSafe(|| thread.run())) {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => "the steering thread panicked; the message stands above".to_owned(),
        };
        let _ = reports.send(Report::Failed(index, why));
    })
}

impl Thread {
    fn run(mut self) -> Result<(), String> {
        cpus::pin(self.cpu).map_err(|e| e.to_string())?;
        let failed = |e| format!("the io of the steering thread failed: {e}");
        let mut tables = Cache::new(self.tables.clone());
        let mut pace = Pace::default();
        let _ = self.reports.send(Report::Running(self.index));
        while !self.stop.load(Relaxed) {
            let turn = self.steering.turn(pace.wait(), &mut tables).map_err(failed)?;
            if turn.end {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let waiting = turn.received == 0 && self.steering.busy();
            if waiting {
                // A worker is at it. It may need this very CPU.
                std::thread::yield_now();
            }
            pace.turned(turn.received > 0 || waiting);
            self.shown.set(&self.steering.counters, 0);
            self.shown.set_io(self.steering.io());
        }
        let counters = self.steering.finish(LAST_FRAMES).map_err(failed)?;
        self.shown.set(&counters, 0);
        Ok(())
    }
}
