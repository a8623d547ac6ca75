//! Reports of ended requests as lines of JSON: to a file, a Unix datagram socket, an HTTP service, or several of them.
//!
//! Each has a bounded queue and a thread. Nothing here runs on an event loop or delays one; what cannot be delivered is dropped and counted.

mod file;
pub mod hook;
mod outage;
mod queue;
mod record;
mod socket;

use file::FileSink;
use guideway_daemon::metrics::{Exposition, MetricKind};
use guideway_tftp::report::TransferReport;
use hook::HookSink;
use queue::{Batching, Delivery, Line, Output, Sink};
use socket::SocketSink;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Largest number of lines that are written to a file or socket at once.
const MAX_AT_ONCE: usize = 256;

/// `[reports]`: where reports go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A file that is appended to.
    pub file: Option<PathBuf>,
    /// A Unix datagram socket of another program.
    pub socket: Option<PathBuf>,
    /// An HTTP service.
    pub hook: Option<hook::Settings>,
    /// Reports that may wait for each of them.
    pub queue: usize,
}

/// Place that reports go to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    File(PathBuf),
    Socket(PathBuf),
    Hook(hook::Settings),
}

impl Target {
    /// The key that sets it.
    const KEYS: [&'static str; 3] = ["file", "socket", "url"];

    fn index(&self) -> usize {
        match self {
            Target::File(_) => 0,
            Target::Socket(_) => 1,
            Target::Hook(_) => 2,
        }
    }
}

/// Takes reports.
#[derive(Default)]
pub struct Reports {
    name: String,
    outputs: Mutex<Vec<Running>>,
    deliveries: [Arc<Delivery>; 3],
}

/// A target with its queue.
struct Running {
    target: Target,
    queue: usize,
    output: Arc<Output>,
}

/// Targets that were opened, but get no reports yet.
pub struct Prepared(Vec<Running>);

impl Reports {
    /// Takes the reports of the server `name`; nothing is delivered before [`Reports::apply`].
    pub fn new(name: &str) -> Reports {
        Reports { name: name.to_owned(), ..Reports::default() }
    }

    fn outputs(&self) -> MutexGuard<'_, Vec<Running>> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the targets of these settings. Those that run already are kept.
    ///
    /// # Errors
    /// A sentence, when one cannot be opened. Then nothing has changed.
    pub fn prepare(&self, settings: Option<&Settings>, runtime: &Handle) -> Result<Prepared, String> {
        let Some(settings) = settings else { return Ok(Prepared(Vec::new())) };
        let targets = settings.file.iter().cloned().map(Target::File).chain(settings.socket.iter().cloned().map(Target::Socket));
        let targets = targets.chain(settings.hook.iter().cloned().map(Target::Hook));
        let queue = settings.queue;
        let prepare = |target: Target| {
            if let Some(known) = self.outputs().iter().find(|known| known.target == target && known.queue == queue) {
                return Ok(Running { target, queue, output: Arc::clone(&known.output) });
            }
            let (lines, interval) = match &target {
                Target::Hook(hook) => (hook.batch, hook.interval),
                Target::File(_) | Target::Socket(_) => (MAX_AT_ONCE, Duration::ZERO),
            };
            let key = Target::KEYS[target.index()];
            let delivery = Arc::clone(&self.deliveries[target.index()]);
            let output = open(&target, runtime)
                .and_then(|sink| Output::start(key, sink, Batching { queue, lines, interval }, delivery))
                .map_err(|error| format!("reports.{key}: {error}"))?;
            Ok(Running { target, queue, output: Arc::new(output) })
        };
        targets.map(prepare).collect::<Result<_, String>>().map(Prepared)
    }

    /// Delivers to these targets from now on, and opens their files anew. Queues of others are delivered to the end.
    pub fn apply(&self, prepared: Prepared) {
        *self.outputs() = prepared.0;
        self.reopen();
    }

    /// Opens files anew, after another program has moved them away.
    pub fn reopen(&self) {
        self.outputs().iter().for_each(|running| running.output.reopen());
    }

    /// Queues a report for each target.
    pub fn push(&self, report: &TransferReport) {
        let mut line: Option<Line> = None;
        for running in self.outputs().iter() {
            running.output.push(|| Arc::clone(line.get_or_insert_with(|| record::line(&self.name, report).into())));
        }
    }

    /// Delivers what is queued, at the latest until the time is over.
    pub fn stop(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.outputs().drain(..).for_each(|running| running.output.stop(deadline));
    }

    /// Adds the metrics of a scrape.
    pub fn write(&self, out: &mut Exposition) {
        let outputs = self.outputs();
        let deliveries = || Target::KEYS.iter().zip(&self.deliveries);
        let sent = out.metric("guideway_tftpd_delivered_reports_total", MetricKind::Counter, "Reports delivered, by key of `[reports]`.");
        for (key, delivery) in deliveries() {
            sent.sample(&[("target", key)], delivery.sent.load(Relaxed));
        }
        let help = "Reports dropped because the queue was full or they could not be delivered.";
        let dropped = out.metric("guideway_tftpd_undelivered_reports_total", MetricKind::Counter, help);
        for (key, delivery) in deliveries() {
            for (reason, count) in [("queue_full", &delivery.queue_full), ("not_delivered", &delivery.undelivered)] {
                dropped.sample(&[("reason", reason), ("target", key)], count.load(Relaxed));
            }
        }
        let queued = out.metric("guideway_tftpd_queued_reports", MetricKind::Gauge, "Reports that wait for their delivery.");
        for running in outputs.iter() {
            queued.sample(&[("target", Target::KEYS[running.target.index()])], running.output.queued());
        }
    }
}

fn open(target: &Target, runtime: &Handle) -> std::io::Result<Box<dyn Sink>> {
    let named = |path: &PathBuf, error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    Ok(match target {
        Target::File(path) => Box::new(FileSink::open(path).map_err(|error| named(path, error))?),
        Target::Socket(path) => Box::new(SocketSink::open(path).map_err(|error| named(path, error))?),
        Target::Hook(settings) => Box::new(HookSink::new(settings.clone(), runtime)?),
    })
}
