//! Reports to the observer, on a thread of its own: the event loop only queues them.

use crate::report::{Counter, Counters, Observer, Statistics, TransferReport};
use crate::request::Request;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Largest number of events that wait for the observer. Further ones are counted and dropped.
const MAX_QUEUED: usize = 1 << 16;

/// What the observer is told.
pub enum Report {
    Started(Request),
    Finished(Box<TransferReport>),
}

/// The queue between the event loops and the observer's thread.
#[derive(Default)]
pub struct ReportQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: Vec<Report>,
    stopped: bool,
}

impl ReportQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread after the queued events.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }
}

/// The reports of one event loop.
pub struct Reports {
    /// `None` without an observer.
    queue: Option<Arc<ReportQueue>>,
    pending: Vec<Report>,
}

impl Reports {
    pub fn new(queue: Option<Arc<ReportQueue>>) -> Reports {
        Reports { queue, pending: Vec::new() }
    }

    /// Queues an event that `report` makes, until the next [`Reports::flush`].
    pub fn push(&mut self, report: impl FnOnce() -> Report) {
        if self.queue.is_some() {
            self.pending.push(report());
        }
    }

    /// Passes events to the observer's thread, once an iteration of the loop.
    pub fn flush(&mut self, counters: &Counters) {
        let Some(queue) = self.queue.as_ref().filter(|_| !self.pending.is_empty()) else { return };
        let mut state = queue.state();
        let room = MAX_QUEUED.saturating_sub(state.queue.len());
        counters.add(Counter::ReportsDropped, self.pending.len().saturating_sub(room) as u64);
        self.pending.truncate(room);
        let was_empty = state.queue.is_empty();
        state.queue.append(&mut self.pending);
        drop(state);
        if was_empty {
            queue.changed.notify_one();
        }
    }
}

/// Starts the observer's thread. `counters` are its own.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    queue: &Arc<ReportQueue>,
    observer: Arc<dyn Observer>,
    statistics: Statistics,
    counters: Arc<Counters>,
) -> std::io::Result<JoinHandle<()>> {
    let queue = Arc::clone(queue);
    std::thread::Builder::new().name("tftp reports".to_owned()).spawn(move || {
        let call = |work: &dyn Fn()| {
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                counters.add(Counter::ObserverPanics, 1);
            }
        };
        // A panic of it counts for nothing.
        let interval = || catch_unwind(AssertUnwindSafe(|| observer.interval())).unwrap_or(Duration::from_secs(60));
        let mut due = Instant::now() + interval();
        loop {
            let mut state = queue.state();
            let now = Instant::now();
            if state.queue.is_empty() && !state.stopped && now < due {
                state = queue.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0;
            }
            let (reports, stopped) = (std::mem::take(&mut state.queue), state.stopped);
            drop(state);
            let ended = stopped && reports.is_empty();
            for report in reports {
                call(&|| match &report {
                    Report::Started(request) => observer.started(request),
                    Report::Finished(report) => observer.finished(report),
                });
            }
            if Instant::now() >= due {
                due = Instant::now() + interval();
                call(&|| observer.server(&statistics));
            }
            if ended {
                return;
            }
        }
    })
}
