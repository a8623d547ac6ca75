//! Threads for blocking work: openings and uploads. They are started on demand, up to a limit, and end with the server.

use super::channel::{EventChannel, LoopEvent};
use super::key::Key;
use crate::handler::{Opened, Refusal};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Largest number of jobs that wait for a thread.
const MAX_QUEUED: usize = 4096;

/// Blocking work.
pub enum Job {
    /// Opens content.
    Open(Box<dyn FnOnce() -> Opened + Send>),
    /// Syncs a file to disk.
    Store(Box<dyn FnOnce() -> Result<(), Refusal> + Send>),
}

impl Job {
    fn run(self, key: Key) -> LoopEvent {
        // A panic of a handler becomes an ERROR for one client; the thread continues.
        let mistake = || Refusal::failed("the server failed");
        match self {
            Job::Open(job) => LoopEvent::Opened(key, catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(mistake()))),
            Job::Store(job) => LoopEvent::Stored(key, catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(mistake()))),
        }
    }
}

/// The pool.
#[derive(Clone)]
pub struct BlockingPool(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    max_threads: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Arc<EventChannel>, Key, Job)>,
    threads: usize,
    idle: usize,
    stopped: bool,
}

impl BlockingPool {
    /// Creates a pool of at most `max_threads` threads.
    pub fn new(max_threads: usize) -> BlockingPool {
        BlockingPool(Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), max_threads: max_threads.max(1) }))
    }

    /// Runs `job` and sends its result to `channel`. Returns `false` when too many jobs wait already.
    pub fn submit(&self, channel: &Arc<EventChannel>, key: Key, job: Job) -> bool {
        let mut state = self.0.lock();
        if state.queue.len() >= MAX_QUEUED {
            return false;
        }
        state.queue.push_back((Arc::clone(channel), key, job));
        if state.idle >= state.queue.len() {
            self.0.work.notify_one();
        } else if state.threads < self.0.max_threads {
            let shared = Arc::clone(&self.0);
            let spawned = std::thread::Builder::new().name("tftp opener".to_owned()).spawn(move || shared.work());
            match spawned {
                Ok(_) => state.threads += 1,
                // Another thread will run the job. Without one, the time-out of the opening ends the transfer.
                Err(error) => tracing::warn!("cannot start a thread of the blocking pool: {error}"),
            }
        }
        true
    }

    /// Ends the threads after their current jobs; waiting jobs are dropped.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        state.stopped = true;
        state.queue.clear();
        self.0.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.stopped {
            if let Some((channel, key, job)) = state.queue.pop_front() {
                drop(state);
                channel.send(job.run(key));
                state = self.lock();
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
        state.threads -= 1;
    }
}
