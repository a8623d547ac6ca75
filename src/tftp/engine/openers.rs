//! Threads for work that blocks: openings, and files that clients wrote. They are made when work waits, up to a limit, and end with the server.

use super::Key;
use super::mailbox::{Mail, Mailbox};
use crate::handler::{Opened, Refusal};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Most openings that wait for a thread.
const QUEUE: usize = 4096;

/// Work that blocks.
pub enum Job {
    /// Opens content.
    Open(Box<dyn FnOnce() -> Opened + Send>),
    /// Puts a file on disk.
    Store(Box<dyn FnOnce() -> Result<(), Refusal> + Send>),
}

impl Job {
    fn run(self, key: Key) -> Mail {
        // A handler's mistake is one client's ERROR, not the loss of a thread.
        let mistake = || Refusal::failed("the server failed");
        match self {
            Job::Open(job) => Mail::Opened(key, catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(mistake()))),
            Job::Store(job) => Mail::Stored(key, catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(mistake()))),
        }
    }
}

/// The pool.
#[derive(Clone)]
pub struct Openers(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    most: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Arc<Mailbox>, Key, Job)>,
    threads: usize,
    idle: usize,
    stopped: bool,
}

impl Openers {
    /// A pool of at most so many threads.
    pub fn new(most: usize) -> Openers {
        Openers(Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), most: most.max(1) }))
    }

    /// Runs `job` and puts what it gives into `mailbox`. `false` when too many wait already.
    pub fn submit(&self, mailbox: &Arc<Mailbox>, key: Key, job: Job) -> bool {
        let mut state = self.0.lock();
        if state.queue.len() >= QUEUE {
            return false;
        }
        state.queue.push_back((Arc::clone(mailbox), key, job));
        if state.idle >= state.queue.len() {
            self.0.work.notify_one();
        } else if state.threads < self.0.most {
            let shared = Arc::clone(&self.0);
            let spawned = std::thread::Builder::new().name("tftp opener".to_owned()).spawn(move || shared.work());
            match spawned {
                Ok(_) => state.threads += 1,
                // Others will do it; without any, the transfer's time for opening ends it.
                Err(error) => tracing::warn!("no thread for opening files: {error}"),
            }
        }
        true
    }

    /// Lets the threads end when their work is done; work that waits is dropped.
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
            if let Some((mailbox, key, job)) = state.queue.pop_front() {
                drop(state);
                mailbox.put(job.run(key));
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
