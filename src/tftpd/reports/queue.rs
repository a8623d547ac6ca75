//! A bounded queue of lines and the thread that delivers them. Whoever queues never waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One report, with its line feed.
pub type Line = Arc<str>;

/// Delivers lines.
pub trait Sink: Send + 'static {
    /// Delivers lines and returns how many arrived, from the first on; the others are given up. `pause` waits before a further attempt; it returns
    /// `false` when there is no time for one.
    fn deliver(&mut self, lines: &[Line], pause: &dyn Fn(Duration) -> bool) -> usize;

    /// Opens its file anew.
    fn reopen(&mut self) {}
}

/// Sizes and times of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Lines that may wait.
    pub queue: usize,
    /// Largest number of lines of one delivery.
    pub lines: usize,
    /// How long a line waits for others.
    pub interval: Duration,
}

/// What became of the lines for one sink. It outlives a reload.
#[derive(Debug, Default)]
pub struct Delivery {
    /// Lines that arrived.
    pub sent: AtomicU64,
    /// Lines for which the queue had no room.
    pub queue_full: AtomicU64,
    /// Lines that could not be delivered.
    pub undelivered: AtomicU64,
}

/// A queue with its thread. The thread delivers the rest and ends when this is dropped.
pub struct Output {
    shared: Arc<Shared>,
    batching: Batching,
    delivery: Arc<Delivery>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    /// Since when the first line waits.
    since: Option<Instant>,
    reopen: bool,
    stopped: bool,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Longest wait for a change; the queue tells of each.
const IDLE: Duration = Duration::from_secs(3600);

impl Output {
    /// Starts the thread of a sink.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(name: &str, mut sink: Box<dyn Sink>, batching: Batching, delivery: Arc<Delivery>) -> std::io::Result<Output> {
        let shared = Arc::new(Shared::default());
        let (queue, counts) = (Arc::clone(&shared), Arc::clone(&delivery));
        std::thread::Builder::new().name(format!("reports {name}")).spawn(move || {
            let _ = nix::sys::signal::SigSet::all().thread_block();
            while let Some(lines) = next_batch(&queue, sink.as_mut(), batching) {
                let pause = |time: Duration| {
                    let until = Instant::now() + time;
                    let mut state = queue.state();
                    while !state.stopped && Instant::now() < until {
                        state = queue.wait(state, until.saturating_duration_since(Instant::now()));
                    }
                    !state.stopped
                };
                let sent = sink.deliver(&lines, &pause).min(lines.len()) as u64;
                counts.sent.fetch_add(sent, Relaxed);
                counts.undelivered.fetch_add(lines.len() as u64 - sent, Relaxed);
            }
            queue.state().ended = true;
            queue.changed.notify_all();
        })?;
        Ok(Output { shared, batching, delivery })
    }

    /// Queues a line that `line` makes, if there is room.
    pub fn push(&self, line: impl FnOnce() -> Line) {
        let mut state = self.shared.state();
        if state.lines.len() >= self.batching.queue {
            self.delivery.queue_full.fetch_add(1, Relaxed);
            return;
        }
        state.lines.push_back(line());
        state.since.get_or_insert_with(Instant::now);
        if state.lines.len() == 1 || state.lines.len() == self.batching.lines {
            self.shared.changed.notify_all();
        }
    }

    /// Opens its file anew, soon.
    pub fn reopen(&self) {
        self.shared.state().reopen = true;
        self.shared.changed.notify_all();
    }

    /// Returns the number of lines that wait.
    pub fn queued(&self) -> usize {
        self.shared.state().lines.len()
    }

    /// Delivers what is queued, with one attempt, and waits for that until `deadline`.
    pub fn stop(&self, deadline: Instant) {
        let mut state = self.shared.state();
        state.stopped = true;
        self.shared.changed.notify_all();
        while !state.ended && Instant::now() < deadline {
            state = self.shared.wait(state, deadline.saturating_duration_since(Instant::now()));
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.shared.changed.notify_all();
    }
}

/// Waits for lines, until there are enough of them or the first has waited long enough; `None` at the end.
fn next_batch(queue: &Shared, sink: &mut dyn Sink, batching: Batching) -> Option<Vec<Line>> {
    let mut state = queue.state();
    loop {
        if std::mem::take(&mut state.reopen) {
            drop(state);
            sink.reopen();
            state = queue.state();
            continue;
        }
        let waited = state.since.map_or(Duration::ZERO, |since| since.elapsed());
        let (full, late) = (state.lines.len() >= batching.lines, waited >= batching.interval || state.stopped);
        if !state.lines.is_empty() && (full || late) {
            let count = state.lines.len().min(batching.lines);
            let lines = state.lines.drain(..count).collect();
            state.since = (!state.lines.is_empty()).then(Instant::now);
            return Some(lines);
        }
        if state.stopped && state.lines.is_empty() {
            return None;
        }
        let limit = if state.lines.is_empty() { IDLE } else { batching.interval.saturating_sub(waited) };
        state = queue.wait(state, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Gives each batch to the test and waits until it may go on.
    struct Held(Sender<Vec<Line>>, Receiver<usize>);

    impl Sink for Held {
        fn deliver(&mut self, lines: &[Line], _: &dyn Fn(Duration) -> bool) -> usize {
            self.0.send(lines.to_vec()).unwrap();
            self.1.recv().unwrap()
        }
    }

    #[test]
    fn a_slow_receiver_costs_lines_and_nobodys_time() {
        let ((batches, received), (go_on, wait)) = (channel(), channel());
        let batching = Batching { queue: 3, lines: 2, interval: Duration::ZERO };
        let delivery = Arc::new(Delivery::default());
        let output = Output::start("test", Box::new(Held(batches, wait)), batching, Arc::clone(&delivery)).unwrap();
        output.push(|| "0".into());
        assert_eq!(received.recv().unwrap(), ["0".into()]);
        for number in 1..=5 {
            output.push(|| number.to_string().into());
        }
        assert_eq!((output.queued(), delivery.queue_full.load(Relaxed)), (3, 2));
        go_on.send(1).unwrap();
        assert_eq!(received.recv().unwrap(), ["1".into(), "2".into()]);
        go_on.send(1).unwrap();
        assert_eq!(received.recv().unwrap(), ["3".into()]);
        go_on.send(1).unwrap();
        output.stop(Instant::now() + Duration::from_secs(20));
        assert_eq!((delivery.sent.load(Relaxed), delivery.undelivered.load(Relaxed)), (3, 1));
    }

    #[test]
    fn lines_wait_for_others_only_for_the_interval_and_the_end_flushes() {
        let ((batches, received), (go_on, wait)) = (channel(), channel());
        (0..3).for_each(|_| go_on.send(9).unwrap());
        let batching = Batching { queue: 100, lines: 50, interval: Duration::from_millis(100) };
        let output = Output::start("test", Box::new(Held(batches, wait)), batching, Arc::default()).unwrap();
        let began = Instant::now();
        (0..10).for_each(|number| output.push(|| number.to_string().into()));
        assert_eq!(received.recv().unwrap().len(), 10);
        assert!(began.elapsed() >= Duration::from_millis(100));
        (0..50).for_each(|number| output.push(|| number.to_string().into()));
        assert_eq!(received.recv().unwrap().len(), 50, "a full batch goes at once");
        output.push(|| "last".into());
        drop(output);
        assert_eq!(received.recv().unwrap(), ["last".into()]);
    }
}
