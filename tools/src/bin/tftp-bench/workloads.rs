//! What is measured, and one measurement of each kind with a fresh server.

use crate::accounting::{CpuAccounting, machine_busy};
use crate::concurrent::{self, LoadControl, LoadSpec, Outcome};
use crate::metrics::{
    BLKSIZE, CLIENT_BUSY, CLIENT_CPU, CPU, CPU_PER_GIB, FAILED, MB_PER_CPU_S, MB_PER_S, MEDIAN, OPENED, OTHERS, PER_SECOND, PROCESSES, PSS,
    PSS_BEFORE, REPEATED, RESENDS, Sample, UNFINISHED, US_PER_BLOCK, US_PER_TRANSFER, WALL, median,
};
use crate::servers::{BenchPaths, Kind, Running, Server, pinned};
use crate::single::{FetchSpec, Fetched, fetch};
use guideway_host::error::{Context, Error};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use sha2::{Digest, Sha256};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The block size of an Ethernet frame, which all works with many transfers use.
pub const ETHERNET_BLKSIZE: u16 = 1428;
/// The window of all works with windows.
pub const WINDOW: u16 = 16;
/// Short transfers at once.
const SHORT_AT_ONCE: usize = 32;
/// Clients that only keep a transfer open acknowledge after this long.
const THINK_TIME: Duration = Duration::from_secs(1);

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Workload {
    /// One transfer, both ends on one CPU.
    Single { blksize: u16, window: u16 },
    /// The same, but the client takes a window's segments together, as a network card would cut them apart on a wire.
    Gro { blksize: u16, window: u16 },
    /// Many transfers of a file of medium size.
    Concurrent { window: u16 },
    /// Very many short ones.
    Short,
    /// This many transfers that are open and do almost nothing.
    Open { transfers: usize },
    /// Some with losses.
    Loss { window: u16 },
    /// Many requests in one moment.
    Burst,
}

/// Names of works for the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// One transfer
    Single,
    /// Many transfers of 1 MiB
    Concurrent,
    /// Short transfers
    Short,
    /// Memory with open transfers
    Memory,
    /// Transfers at 1 % loss
    Loss,
    /// A burst of requests
    Burst,
}

impl Workload {
    /// Its group.
    pub fn group(self) -> Group {
        match self {
            Workload::Single { .. } | Workload::Gro { .. } => Group::Single,
            Workload::Concurrent { .. } => Group::Concurrent,
            Workload::Short => Group::Short,
            Workload::Open { .. } => Group::Memory,
            Workload::Loss { .. } => Group::Loss,
            Workload::Burst => Group::Burst,
        }
    }

    /// The window that it asks for.
    pub fn window(self) -> u16 {
        match self {
            Workload::Single { window, .. }
            | Workload::Gro { window, .. }
            | Workload::Concurrent { window }
            | Workload::Loss { window } => window,
            Workload::Short | Workload::Open { .. } | Workload::Burst => 1,
        }
    }

    /// Whether this server takes part.
    pub fn is_for(self, kind: Kind) -> bool {
        match self {
            // Peers have a thread, a process or at least a socket for each transfer: 200 of them say enough.
            Workload::Open { transfers } => transfers <= 1_000 || kind == Kind::Guideway,
            _ => true,
        }
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Workload::Single { blksize, window } => write!(f, "single, blksize {blksize}, windowsize {window}"),
            Workload::Gro { blksize, window } => write!(f, "single, blksize {blksize}, windowsize {window}, UDP_GRO"),
            Workload::Concurrent { window } => write!(f, "many × 1 MiB, windowsize {window}"),
            Workload::Short => write!(f, "short transfers"),
            Workload::Open { transfers } => write!(f, "{transfers} open transfers"),
            Workload::Loss { window } => write!(f, "1 % loss, windowsize {window}"),
            Workload::Burst => write!(f, "burst of requests"),
        }
    }
}

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Bytes of the single transfer.
    pub single: usize,
    /// Transfers of a crowd.
    pub concurrent: usize,
    /// Short transfers.
    pub short: usize,
    /// Transfers at 1 % loss.
    pub loss: usize,
    /// Requests of a burst.
    pub burst: usize,
    /// Longest time of one measurement.
    pub limit: Duration,
    /// The same where packets are lost, which takes most servers very long.
    pub loss_limit: Duration,
    /// Threads that play clients.
    pub threads: usize,
}

/// What a server can do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Abilities {
    /// Whether it grants windows.
    pub windows: bool,
}

/// Everything a measurement needs.
pub struct Bench {
    /// Where things are.
    pub place: BenchPaths,
    /// How CPU time is counted.
    pub accounting: CpuAccounting,
    /// How much.
    pub sizes: Sizes,
    /// The CPU of single transfers.
    pub cpu: usize,
    digests: [[u8; 32]; 3],
}

const SINGLE: &str = "single.bin";
const MEDIUM: &str = "medium.bin";
const SHORT: &str = "short.bin";
/// Bytes of the files of crowds, and of short transfers.
const MEDIUM_SIZE: usize = 1 << 20;
const SHORT_SIZE: usize = 2048;

impl Bench {
    /// Makes the files.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn new(place: BenchPaths, accounting: CpuAccounting, sizes: Sizes, cpu: usize) -> Result<Bench, Error> {
        let make = |(name, size): (&str, usize)| {
            let mut content = vec![0; size];
            fastrand::Rng::with_seed(size as u64).fill(&mut content);
            let file = place.root.join(name);
            fs::write(&file, &content).with_context(|| format!("writing {}", file.display()))?;
            Ok(Sha256::digest(&content).into())
        };
        let digests = [make((SINGLE, sizes.single))?, make((MEDIUM, MEDIUM_SIZE))?, make((SHORT, SHORT_SIZE))?];
        Ok(Bench { place, accounting, sizes, cpu, digests })
    }

    /// Asks a fresh server for the short file.
    ///
    /// # Errors
    /// When it does not serve it.
    pub fn abilities(&self, server: &Server) -> Result<Abilities, Error> {
        let running = server.start(&self.place, &self.accounting, None)?;
        let fetched = self.fetch(&running, (SHORT, 1024, WINDOW, false), self.digests[2], Duration::from_secs(5))?;
        Ok(Abilities { windows: fetched.window == WINDOW })
    }

    fn fetch(&self, _serving: &Running, requested: (&str, u16, u16, bool), sum: [u8; 32], limit: Duration) -> Result<Fetched, Error> {
        let (file, blksize, window, gro) = requested;
        let context = || format!("fetching {file}");
        let size = if file == SINGLE { self.sizes.single } else { SHORT_SIZE };
        // Touched now: page faults are not to be measured.
        let mut content = vec![0xaa; size + usize::from(blksize) * (usize::from(window) + 1)];
        let spec = FetchSpec { server: SocketAddr::V4(self.place.address), file, blksize, window, gro, limit };
        let fetched = fetch(&spec, &mut content).with_context(context)?;
        if <[u8; 32]>::from(Sha256::digest(&content[..fetched.bytes])) == sum {
            Ok(fetched)
        } else {
            Err(Error::failed(context(), "the content is wrong"))
        }
    }

    /// Measures once. The server is started afresh, and has served one short file before the clock starts.
    ///
    /// # Errors
    /// What prevented it.
    pub fn measure(&self, work: Workload, server: &Server) -> Result<Sample, Error> {
        match work {
            Workload::Single { blksize, window } => pinned(Some(self.cpu), || self.single(server, blksize, window, false))?,
            Workload::Gro { blksize, window } => pinned(Some(self.cpu), || self.single(server, blksize, window, true))?,
            _ => self.many(work, server),
        }
    }

    fn start_warm(&self, server: &Server, pin: Option<usize>) -> Result<Running, Error> {
        let running = server.start(&self.place, &self.accounting, pin)?;
        self.fetch(&running, (SHORT, 512, 1, false), self.digests[2], Duration::from_secs(5))?;
        Ok(running)
    }

    fn single(&self, server: &Server, blksize: u16, window: u16, gro: bool) -> Result<Sample, Error> {
        let running = self.start_warm(server, Some(self.cpu))?;
        let meter = CpuMeter::start(&running)?;
        let fetched = self.fetch(&running, (SINGLE, blksize, window, gro), self.digests[0], self.sizes.limit)?;
        let spent = meter.stop(&running)?;
        let (bytes, took) = (self.sizes.single as f64, fetched.took.as_secs_f64());
        let server_cpu = spent.server.as_secs_f64();
        Ok(vec![
            (MB_PER_S, bytes / 1e6 / took),
            (MB_PER_CPU_S, bytes / 1e6 / (server_cpu + fetched.cpu.as_secs_f64())),
            (US_PER_BLOCK, server_cpu * 1e6 / fetched.blocks as f64),
            (CPU_PER_GIB, server_cpu / (bytes / (1u64 << 30) as f64)),
            (CLIENT_CPU, fetched.cpu.as_secs_f64()),
            (BLKSIZE, f64::from(fetched.blksize)),
            (RESENDS, fetched.resends as f64),
            (OTHERS, spent.others),
        ])
    }

    fn many(&self, work: Workload, server: &Server) -> Result<Sample, Error> {
        let running = self.start_warm(server, None)?;
        let sizes = &self.sizes;
        let (file, size, digest) = match work {
            Workload::Short | Workload::Burst => (SHORT, SHORT_SIZE, self.digests[2]),
            _ => (MEDIUM, MEDIUM_SIZE, self.digests[1]),
        };
        let (transfers, at_once) = match work {
            Workload::Short => (sizes.short, SHORT_AT_ONCE),
            Workload::Concurrent { .. } | Workload::Single { .. } | Workload::Gro { .. } => (sizes.concurrent, sizes.concurrent),
            Workload::Open { transfers } => (transfers, transfers),
            Workload::Loss { .. } => (sizes.loss, sizes.loss),
            Workload::Burst => (sizes.burst, sizes.burst),
        };
        let spec = LoadSpec {
            server: self.place.address,
            file,
            size,
            digest,
            transfers,
            at_once,
            blksize: ETHERNET_BLKSIZE,
            window: work.window(),
            loss: if matches!(work, Workload::Loss { .. }) { 0.01 } else { 0.0 },
            seed: 1,
            think_time: matches!(work, Workload::Open { .. }).then_some(THINK_TIME),
            limit: if matches!(work, Workload::Loss { .. } | Workload::Burst) { sizes.loss_limit } else { sizes.limit },
            threads: if work == Workload::Burst { 1 } else { sizes.threads },
        };
        if let Workload::Open { transfers } = work {
            return open(&running, &spec, transfers);
        }
        let meter = CpuMeter::start(&running)?;
        let outcome = concurrent::run(&spec, &LoadControl::default())?;
        let spent = meter.stop(&running)?;
        Ok(sample(work, &spec, &outcome, &spent))
    }
}

/// Opens the transfers and reads the memory when all are open and a second has passed.
fn open(running: &Running, spec: &LoadSpec<'_>, transfers: usize) -> Result<Sample, Error> {
    let watch = LoadControl::default();
    let before = running.memory()?.0;
    std::thread::scope(|scope| {
        let concurrent = scope.spawn(|| concurrent::run(spec, &watch));
        let since = Instant::now();
        while watch.open.load(Ordering::Relaxed) < transfers && since.elapsed() < spec.limit / 2 && !concurrent.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_secs(1));
        let memory = running.memory();
        let opened = watch.open.load(Ordering::Relaxed);
        watch.stop.store(true, Ordering::Relaxed);
        let outcome = concurrent.join().unwrap_or_else(|_| Err(Error::failed("playing clients", "a thread panicked")))?;
        let (pss, processes) = memory?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Ok(vec![
            (PSS, mib(pss)),
            (PSS_BEFORE, mib(before)),
            (PROCESSES, processes as f64),
            (OPENED, opened as f64),
            (REPEATED, outcome.retransmitted as f64),
        ])
    })
}

fn sample(work: Workload, spec: &LoadSpec<'_>, outcome: &Outcome, spent: &CpuUsage) -> Sample {
    let (wall, cpu, client) = (outcome.wall.as_secs_f64().max(1e-6), spent.server.as_secs_f64(), outcome.cpu.as_secs_f64());
    let failed = outcome.failed + outcome.wrong;
    let gib = (outcome.right * spec.size) as f64 / (1u64 << 30) as f64;
    let mut all = vec![
        (WALL, wall),
        (CPU, cpu),
        (CLIENT_CPU, client),
        (CLIENT_BUSY, 100.0 * client / wall / spec.threads as f64),
        (FAILED, failed as f64),
        (UNFINISHED, outcome.unfinished as f64),
        (RESENDS, outcome.resends as f64),
        (REPEATED, outcome.retransmitted as f64),
        (OTHERS, spent.others),
    ];
    if outcome.right > 0 {
        all.push((CPU_PER_GIB, cpu / gib));
    }
    match work {
        Workload::Short => {
            all.push((PER_SECOND, outcome.right as f64 / wall));
            all.push((US_PER_TRANSFER, cpu * 1e6 / outcome.right.max(1) as f64));
        }
        Workload::Loss { .. } => {
            let mut took: Vec<f64> = outcome.took.iter().map(Duration::as_secs_f64).collect();
            took.resize(spec.transfers, f64::INFINITY);
            all.push((MEDIAN, median(&took).min(spec.limit.as_secs_f64())));
        }
        _ => {}
    }
    all
}

/// Counts from one moment to another.
struct CpuMeter {
    since: Instant,
    server: Duration,
    own: Duration,
    machine: Duration,
}

struct CpuUsage {
    server: Duration,
    /// CPUs that neither server nor clients used.
    others: f64,
}

impl CpuMeter {
    fn start(running: &Running) -> Result<CpuMeter, Error> {
        let server = running.cpu_at_rest()?;
        Ok(CpuMeter { since: Instant::now(), server, own: own_cpu(), machine: machine_busy() })
    }

    fn stop(self, running: &Running) -> Result<CpuUsage, Error> {
        let (wall, own, machine) = (self.since.elapsed(), own_cpu(), machine_busy());
        let now = running.cpu()?;
        let others = (machine - self.machine).as_secs_f64() - (own - self.own).as_secs_f64() - (now - self.server).as_secs_f64();
        let server = running.cpu_at_rest()?.saturating_sub(self.server);
        Ok(CpuUsage { server, others: (others / wall.as_secs_f64().max(0.01)).max(0.0) })
    }
}

fn own_cpu() -> Duration {
    let micros = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |u| u.user_time().num_microseconds() + u.system_time().num_microseconds());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// How loaded the machine is, in the words of /proc/loadavg.
pub fn load() -> String {
    let text = fs::read_to_string(Path::new("/proc/loadavg")).unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
