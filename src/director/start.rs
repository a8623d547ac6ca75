//! From a configuration to a running director, and to its end. What is claimed first is given back last.

use super::control::{Control, Noticed};
use super::worker::{self, Report, Worker};
use super::{Error, cpus, open, steering};
use crate::announce::{Announcer, Routes};
use arc_swap::ArcSwap;
use guideway_config::Config;
use guideway_control::neighbour::{self, Neighbours, Wanted};
use guideway_control::{self as control, Api, Board, Facts, NextHops, Shown, Stored, Unresolved, Writer, api};
use guideway_daemon::metrics;
use guideway_daemon::socket::ControlSocket;
use guideway_daemon::systemd;
use guideway_dataplane::steer;
use guideway_packet::io::Io;
use guideway_packet::time::Time;
use guideway_store::{self as store, Store};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

/// Before a backend gets its first packet, its neighbour has so long to answer.
pub(super) const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// Backends without a next hop, or suspected, that may wait to be looked at.
const UNRESOLVED: usize = 256;

/// Questions about another intent that may wait for an answer.
const TRIALS: usize = 16;

/// The signals that a director listens to.
pub(super) struct Signals {
    pub(super) reload: Signal,
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
}

/// Runs the director until it is told to end.
pub(super) async fn run(file: &Path, config: Config) -> Result<(), Error> {
    let started = Instant::now();
    let system = |what| move |error| Error::System { what, error };
    let signals = || -> std::io::Result<Signals> {
        Ok(Signals {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    };
    // First of all: a signal that comes during the start must not kill us in the middle of it.
    let mut signals = signals().map_err(system("cannot listen for signals"))?;
    let socket = ControlSocket::claim(&config.director.socket)?;
    let scraped = config.director.metrics.map(metrics::listen).transpose()?;
    let remote = config.api.as_ref().map(api::tcp::listen).transpose()?;
    let interface = open::interface(&config.director)?;
    let store = match &config.store {
        None => Store::memory(config.intent()),
        // It may be long until there is a set; whoever tells us to end meanwhile is heard.
        Some(at) => tokio::select! {
            opened = store::open(at) => opened?,
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
        },
    };
    let mut seen = store.watch();
    let set = seen.borrow_and_update().set.clone();
    let config = config.with(&set.intent);
    let routes = config.announce.as_ref().map(Routes::make).transpose()?;
    let wanted = wanted(&config, BTreeSet::new());
    let backends = wanted.addresses.clone();
    let mut neighbours = neighbour::watch(interface.index, wanted).await?;
    answered(&mut neighbours, &backends, FIRST_ANSWER).await;
    // Not before the neighbours have answered: netmap takes the interface from the host, whose questions the workers have to carry.
    let mut opened = open::open(&config.director, interface, vips(&config).len())?;
    let steered = match config.director.steering {
        0 => None,
        workers => Some((opened.only_io(workers)?, workers)),
    };
    let threads = steered.as_ref().map_or(opened.workers.len(), |(_, workers)| workers + 1);
    let cpus = cpus::choose(&opened.cpus, threads, &cpus::allowed())?;
    cpus::leave(&cpus)?;

    let mut writer = Writer::new();
    let hops = neighbours.hops.borrow_and_update().clone();
    let tables = Arc::new(ArcSwap::from_pointee(writer.apply_set(&config, set.generation, &set.health, &hops, Time::default())?));
    let mtu = hops.link.mtu;
    let steering = steered.map(|(io, workers)| {
        let (steering, lanes) = steer::split(io, workers, mtu);
        opened.workers = lanes.into_iter().map(|lane| Box::new(lane) as Box<dyn Io>).collect();
        (steering, Arc::<Shown>::default())
    });
    let shown: Vec<Arc<Shown>> = opened.workers.iter().map(|_| Arc::default()).collect();
    let facts = Facts {
        name: config.director.name.clone(),
        kind: opened.kind,
        interface: opened.interface.name.clone(),
        mode: opened.mode.clone(),
        cpus: cpus.clone(),
        started,
    };
    let board = Arc::new(Board::new(facts, shown.clone(), steering.as_ref().map(|(_, shown)| shown.clone())));

    let (reports, mut reported) = unbounded_channel();
    let (ask, unresolved) = crossbeam::channel::bounded(UNRESOLVED);
    let (suspect, suspected) = crossbeam::channel::bounded(UNRESOLVED);
    let mut workers = Workers { stop: Arc::new(AtomicBool::new(false)), threads: Vec::with_capacity(cpus.len()) };
    let steering_cpu = cpus.get(opened.workers.len()).copied();
    let count = opened.workers.len();
    for (index, ((io, cpu), shown)) in opened.workers.into_iter().zip(cpus).zip(shown).enumerate() {
        let worker = Worker {
            index,
            workers: count,
            cpu,
            io,
            flows: config.director.flows,
            mtu,
            tables: tables.clone(),
            shown,
            unresolved: ask.clone(),
            suspected: suspect.clone(),
            stop: workers.stop.clone(),
            reports: reports.clone(),
        };
        workers.threads.push(worker::spawn(worker).map_err(system("cannot start a worker's thread"))?);
    }
    if let (Some((steering, shown)), Some(cpu)) = (steering, steering_cpu) {
        let (index, tables, stop) = (workers.threads.len(), tables.clone(), workers.stop.clone());
        let thread = steering::Thread { index, cpu, steering, tables, shown, stop, reports: reports.clone() };
        workers.threads.push(steering::spawn(thread).map_err(system("cannot start the steering thread"))?);
    }
    all_running(&mut reported, workers.threads.len()).await?;
    opened.filter.set_vips(&vips(&config)).map_err(open::Error::from)?;
    tracing::info!(
        name = config.director.name, io = opened.kind, mode = opened.mode, interface = opened.interface.name, workers = board.workers(),
        socket = %config.director.socket.display(), "ready"
    );

    let (interface, filter) = (opened.interface, opened.filter);
    // Not before: what is announced must be forwarded.
    let announcer = routes.map(|routes| Announcer::start(routes, board.clone()));
    let (ask_trial, trials) = mpsc::channel(TRIALS);
    let stored =
        Stored { kind: store.kind(), generation: set.generation, published: 1, tables_built: writer.tables_built(), ..Stored::default() };
    let word = watch::Sender::new(board.word());
    let _presence = store.present(&config.director.name, word.subscribe());
    let suspects = watch::Sender::new(Value::Null);
    let _suspicions = store.suspect(&config.director.name, suspects.subscribe());
    let mut control = Control {
        file,
        config,
        health: set.health.clone(),
        generation: set.generation,
        store: store.clone(),
        seen,
        stored,
        word,
        suspects,
        from_file: set.intent_generation,
        rested: started,
        writer,
        neighbours,
        tables,
        former: Vec::new(),
        interface,
        filter,
        board: board.clone(),
        started,
        announcer,
    };
    control.show();
    let listener = socket.listener().map_err(system("cannot listen on the control socket"))?;
    let api = Arc::new(Api::new(board.clone(), store, ask_trial));
    if let Some(remote) = remote {
        remote.serve(api.clone())?;
    }
    let server = tokio::spawn(api::serve(listener, api));
    if let Some(listener) = scraped {
        let board = board.clone();
        // Without it the director forwards all the same.
        tokio::spawn(metrics::serve(listener, move || control::metrics::render(&board)));
    }
    systemd::ready();
    let end = control.run(signals, reported, Noticed { unresolved, suspected }, trials, server).await;
    // When the director does not end by a signal, its VIPs are still announced.
    if let Some(announcer) = control.announcer.take() {
        announcer.leave().await;
    }
    workers.end();
    tracing::info!(counters = %board.counters().to_json(), "ended");
    end
}

/// The workers' threads; they are stopped when this is dropped.
struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until every worker takes packets.
async fn all_running(reported: &mut UnboundedReceiver<Report>, workers: usize) -> Result<(), Error> {
    let mut running = 0;
    while running < workers {
        match reported.recv().await {
            Some(Report::Running(_)) => running += 1,
            Some(Report::Failed(worker, why)) => return Err(Error::Worker { worker, why }),
            None => return Err(Error::Ended("every worker")),
        }
    }
    Ok(())
}

/// The VIPs' addresses.
pub(super) fn vips(config: &Config) -> BTreeSet<IpAddr> {
    config.vips.iter().map(|vip| vip.address).collect()
}

/// What next hops are needed for: the backends and the other site of `config`, and those that are `also` known.
pub(super) fn wanted(config: &Config, also: BTreeSet<IpAddr>) -> Wanted {
    let mut addresses = also;
    addresses.extend(config.pools.iter().flat_map(|pool| &pool.backends).map(|backend| backend.address));
    addresses.extend(&config.director.other_site);
    Wanted { addresses, fixed: config.neighbours.iter().map(|n| (n.address, n.mac)).collect() }
}

/// Waits a moment until it is known of each of `backends` whether it can be reached, so that its first packets find it. What does not answer is
/// left behind.
pub(super) async fn answered(neighbours: &mut Neighbours, backends: &BTreeSet<IpAddr>, patience: Duration) {
    let waiting = |hops: &NextHops, backend: &IpAddr| matches!(hops.status(*backend), Err(Unresolved::New | Unresolved::Asked(_)));
    let all = neighbours.hops.wait_for(|hops| !backends.iter().any(|backend| waiting(hops, backend)));
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::info!("not every backend's neighbour has answered yet; going on without");
    }
}
