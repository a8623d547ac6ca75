//! A worker: a thread on its own CPU that receives, runs the packet path, and sends. It never waits for other threads and never allocates
//! per batch.

use super::idle::IdleBackoff;
use arc_swap::{ArcSwap, Cache};
use crossbeam_channel::Sender;
use guideway_control::WorkerStatus;
use guideway_dataplane::path::requests::suspicion::Suspicion;
use guideway_dataplane::path::{Shared, State};
use guideway_dataplane::poll::poll;
use guideway_dataplane::tables::{BackendId, Snapshot};
use guideway_host::cpus;
use guideway_packet::io::Io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// How long a worker sleeps at most while it holds early fragments, whose first ones may come to another worker.
const HOLDING_WAIT: Duration = Duration::from_millis(1);

/// A report of a worker to control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerEvent {
    /// The worker takes packets.
    Running(usize),
    /// The worker has ended although it was not stopped.
    Failed(usize, String),
}

/// The parts of a worker.
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// Number of workers; each one enforces its part of the request limits.
    pub workers: usize,
    /// What the workers share.
    pub shared: Shared,
    /// The CPU that it is pinned to.
    pub cpu: usize,
    /// Its io.
    pub io: Box<dyn Io>,
    /// Capacity of its flow table.
    pub flows: usize,
    /// MTU of the interface in bytes.
    pub mtu: u16,
    /// The current tables.
    pub tables: Arc<ArcSwap<Snapshot>>,
    /// Its counters.
    pub worker_status: Arc<WorkerStatus>,
    /// Backends without a next hop that packets wanted. When the queue is full, control is busy with others.
    pub unresolved: Sender<BackendId>,
    /// Backends that several clients wait for. When the queue is full, control has enough work.
    pub suspected: Sender<Suspicion>,
    /// Set when the worker must end.
    pub stop: Arc<AtomicBool>,
    /// Reports to control.
    pub reports: UnboundedSender<WorkerEvent>,
}

/// Starts the thread.
pub fn spawn(worker: Worker) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{}", worker.index)).spawn(move || {
        // Control handles signals; they must not interrupt a worker.
        let _ = nix::sys::signal::SigSet::all().thread_block();
        let (index, reports) = (worker.index, worker.reports.clone());
        // A director without one worker would lose that worker's share of packets, so control ends it.
        let why = match catch_unwind(AssertUnwindSafe(|| worker.run())) {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => "it panicked; see the message above".to_owned(),
        };
        let _ = reports.send(WorkerEvent::Failed(index, why));
    })
}

impl Worker {
    fn run(mut self) -> Result<(), String> {
        cpus::pin(self.cpu).map_err(|e| e.to_string())?;
        let mut state = State::new(self.flows, self.mtu);
        state.divide_limits(self.workers);
        if self.workers > 1 {
            state.share(self.index, &self.shared);
        }
        self.worker_status.set_flow_capacity(state.flows.capacity());
        self.worker_status.set_draining_flows(state.draining_flows.clone());
        self.worker_status.set_io(&*self.io);
        let mut tables = Cache::new(self.tables.clone());
        let mut idle = IdleBackoff::default();
        let _ = self.reports.send(WorkerEvent::Running(self.index));
        while !self.stop.load(Relaxed) {
            let busy = self.poll(&mut state, &mut tables, &idle).map_err(|e| format!("its io failed: {e}"))?;
            idle.polled(busy);
        }
        self.worker_status.set(&state.counters, state.flows.used());
        Ok(())
    }

    /// Polls the io once and handles the result; returns whether there was anything to do.
    fn poll(
        &mut self,
        state: &mut State,
        tables: &mut Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
        idle: &IdleBackoff,
    ) -> std::io::Result<bool> {
        let mtu = tables.load().mtu;
        if mtu > self.mtu {
            state.make_room(mtu);
            self.mtu = mtu;
        }
        let wait = if state.holds_fragments() { idle.wait().min(HOLDING_WAIT) } else { idle.wait() };
        let (poll, sent) = poll(&mut *self.io, state, wait, tables)?;
        if poll.end {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        state.drain_unresolved(|backend| {
            let _ = self.unresolved.try_send(backend);
        });
        state.drain_suspicions(|suspicion| {
            let _ = self.suspected.try_send(suspicion);
        });
        state.count_evictions();
        self.worker_status.set(&state.counters, state.flows.used());
        self.worker_status.set_io(&*self.io);
        Ok(poll.received > 0 || sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_config as config;
    use guideway_control::{NextHops, Writer};
    use guideway_packet::io::{BatchHandler, PollResult};
    use guideway_packet::time::Time;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    /// Fails as configured, or stays empty.
    struct FaultyIo(fn() -> std::io::Result<PollResult>);

    impl Io for FaultyIo {
        fn poll(&mut self, wait: Duration, _: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
            std::thread::park_timeout(wait.min(Duration::from_millis(1)));
            self.0()
        }

        fn send(&mut self, _: &[u8]) -> std::io::Result<bool> {
            Ok(true)
        }

        fn now(&self) -> Time {
            Time(0)
        }
    }

    const FILE: &str = r#"
        [director]
        name = "d1"
        address = "10.0.1.11"
        key = "000102030405060708090a0b0c0d0e0f"
        io = { kind = "pcap", mac = "02:00:00:00:01:11" }
        routers = ["10.0.0.0/24"]
        [[vip]]
        address = "192.0.2.53"
        service = { protocol = "udp", ports = [53] }
        pool = "dns"
        [[pool]]
        name = "dns"
        backends = [{ name = "n1", address = "10.0.2.31" }]
    "#;

    fn worker(io: FaultyIo) -> (Worker, UnboundedReceiver<WorkerEvent>) {
        let config = config::read(FILE).config.unwrap();
        let snapshot = Writer::new().apply(&config, &NextHops::from_config(&config), Time(0)).unwrap();
        let (reports, end) = unbounded_channel();
        let worker = Worker {
            index: 3,
            workers: 4,
            shared: Shared::new(4),
            cpu: cpus::allowed()[0],
            io: Box::new(io),
            flows: 1024,
            mtu: 1500,
            tables: Arc::new(ArcSwap::from_pointee(snapshot)),
            worker_status: Arc::default(),
            unresolved: crossbeam_channel::bounded(1).0,
            suspected: crossbeam_channel::bounded(1).0,
            stop: Arc::default(),
            reports,
        };
        (worker, end)
    }

    #[test]
    fn a_panic_or_io_failure_of_a_worker_is_reported() {
        type End = fn() -> std::io::Result<PollResult>;
        let ends: [(End, &str); 3] = [
            (|| panic!("this panic is part of the test"), "panicked"),
            (|| Err(std::io::Error::other("the interface is gone")), "the interface is gone"),
            (|| Ok(PollResult { end: true, ..PollResult::default() }), "end of file"),
        ];
        for (end, expected) in ends {
            let (worker, mut reports) = worker(FaultyIo(end));
            spawn(worker).unwrap().join().unwrap();
            assert_eq!(reports.blocking_recv(), Some(WorkerEvent::Running(3)));
            let Some(WorkerEvent::Failed(3, why)) = reports.blocking_recv() else { panic!("no report") };
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    fn a_stopped_worker_ends_without_a_report() {
        let (worker, mut reports) = worker(FaultyIo(|| Ok(PollResult::default())));
        let (stop, worker_status) = (worker.stop.clone(), worker.worker_status.clone());
        let thread = spawn(worker).unwrap();
        assert_eq!(reports.blocking_recv(), Some(WorkerEvent::Running(3)));
        let since = std::time::Instant::now();
        while worker_status.polls() < 20 {
            assert!(since.elapsed() < Duration::from_secs(20), "a worker without packets counts its polls");
            std::thread::yield_now();
        }
        stop.store(true, Relaxed);
        thread.join().unwrap();
        assert_eq!(reports.blocking_recv(), None);
    }
}
