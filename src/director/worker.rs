//! One worker: a thread on a CPU of its own that receives, runs the packet path, and sends. It waits for nobody and allocates nothing per batch.

use super::cpus;
use super::pace::Pace;
use arc_swap::{ArcSwap, Cache};
use crossbeam::channel::Sender;
use guideway_control::Shown;
use guideway_dataplane::path::State;
use guideway_dataplane::path::requests::suspicion::Suspicion;
use guideway_dataplane::tables::{BackendId, Snapshot};
use guideway_dataplane::turn::turn;
use guideway_packet::io::Io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::mpsc::UnboundedSender;

/// What a worker tells control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It takes packets now.
    Running(usize),
    /// It has ended although nobody stopped it.
    Failed(usize, String),
}

/// What a worker is made of.
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// How many there are: each keeps to its part of the limits on requests.
    pub workers: usize,
    /// The CPU that it is pinned to.
    pub cpu: usize,
    /// Its way in and out.
    pub io: Box<dyn Io>,
    /// Flows that its table has room for.
    pub flows: usize,
    /// MTU of the interface in bytes.
    pub mtu: u16,
    /// What control publishes.
    pub tables: Arc<ArcSwap<Snapshot>>,
    /// Where it shows what it did.
    pub shown: Arc<Shown>,
    /// Backends that packets wanted while they had no next hop. When it is full, control is busy with others.
    pub unresolved: Sender<BackendId>,
    /// Backends that several clients wait for. When it is full, control has enough to look at.
    pub suspected: Sender<Suspicion>,
    /// Set when the worker has to end.
    pub stop: Arc<AtomicBool>,
    /// To control.
    pub reports: UnboundedSender<Report>,
}

/// Starts the thread.
pub fn spawn(worker: Worker) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{}", worker.index)).spawn(move || {
        // Signals are control's: a worker would be interrupted for nothing.
        let _ = nix::sys::signal::SigSet::all().thread_block();
        let (index, reports) = (worker.index, worker.reports.clone());
        // A director with a dead worker would lose that worker's share of the packets: control ends it instead.
        let why = match catch_unwind(AssertUnwindSafe(|| worker.run())) {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => "it panicked; the message stands above".to_owned(),
        };
        let _ = reports.send(Report::Failed(index, why));
    })
}

impl Worker {
    fn run(mut self) -> Result<(), String> {
        cpus::pin(self.cpu).map_err(|e| e.to_string())?;
        let mut state = State::new(self.flows, self.mtu);
        state.share_limits(self.workers);
        self.shown.set_flow_capacity(state.flows.capacity());
        self.shown.set_lingering(state.lingering.clone());
        self.shown.set_io(&*self.io);
        let mut tables = Cache::new(self.tables.clone());
        let mut pace = Pace::default();
        let _ = self.reports.send(Report::Running(self.index));
        while !self.stop.load(Relaxed) {
            let busy = self.turn(&mut state, &mut tables, &pace).map_err(|e| format!("its io failed: {e}"))?;
            pace.turned(busy);
        }
        self.shown.set(&state.counters, state.flows.used());
        Ok(())
    }

    /// One turn of the io and what follows from it; whether there was anything to do.
    fn turn(&mut self, state: &mut State, tables: &mut Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>, pace: &Pace) -> std::io::Result<bool> {
        let (turn, sent) = turn(&mut *self.io, state, pace.wait(), tables)?;
        if turn.end {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        state.drain_unresolved(|backend| {
            let _ = self.unresolved.try_send(backend);
        });
        state.drain_suspected(|suspicion| {
            let _ = self.suspected.try_send(suspicion);
        });
        self.shown.set(&state.counters, state.flows.used());
        self.shown.set_io(&*self.io);
        Ok(turn.received > 0 || sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_config as config;
    use guideway_control::{NextHops, Writer};
    use guideway_packet::io::{Turn, Work};
    use guideway_packet::time::Time;
    use std::time::Duration;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    /// Fails in the way that it is told to, or stays empty.
    struct Faulty(fn() -> std::io::Result<Turn>);

    impl Io for Faulty {
        fn turn(&mut self, wait: Duration, _: &mut Work<'_>) -> std::io::Result<Turn> {
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

    fn worker(io: Faulty) -> (Worker, UnboundedReceiver<Report>) {
        let config = config::read(FILE).config.unwrap();
        let snapshot = Writer::new().apply(&config, &NextHops::fixed(&config), Time(0)).unwrap();
        let (reports, end) = unbounded_channel();
        let worker = Worker {
            index: 3,
            workers: 4,
            cpu: cpus::allowed()[0],
            io: Box::new(io),
            flows: 1024,
            mtu: 1500,
            tables: Arc::new(ArcSwap::from_pointee(snapshot)),
            shown: Arc::default(),
            unresolved: crossbeam::channel::bounded(1).0,
            suspected: crossbeam::channel::bounded(1).0,
            stop: Arc::default(),
            reports,
        };
        (worker, end)
    }

    #[test]
    fn a_worker_that_panics_or_whose_io_fails_says_so() {
        type End = fn() -> std::io::Result<Turn>;
        let ends: [(End, &str); 3] = [
            (|| panic!("this panic is part of the test"), "panicked"),
            (|| Err(std::io::Error::other("the interface is gone")), "the interface is gone"),
            (|| Ok(Turn { end: true, ..Turn::default() }), "end of file"),
        ];
        for (end, expected) in ends {
            let (worker, mut reports) = worker(Faulty(end));
            spawn(worker).unwrap().join().unwrap();
            assert_eq!(reports.blocking_recv(), Some(Report::Running(3)));
            let Some(Report::Failed(3, why)) = reports.blocking_recv() else { panic!("no report") };
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    fn a_worker_that_is_stopped_ends_without_a_word() {
        let (worker, mut reports) = worker(Faulty(|| Ok(Turn::default())));
        let (stop, shown) = (worker.stop.clone(), worker.shown.clone());
        let thread = spawn(worker).unwrap();
        assert_eq!(reports.blocking_recv(), Some(Report::Running(3)));
        let since = std::time::Instant::now();
        while shown.turns() < 20 {
            assert!(since.elapsed() < Duration::from_secs(20), "a worker without packets shows that it is at work");
            std::thread::yield_now();
        }
        stop.store(true, Relaxed);
        thread.join().unwrap();
        assert_eq!(reports.blocking_recv(), None);
    }
}
