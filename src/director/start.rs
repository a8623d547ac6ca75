//! Starts a director from a configuration and stops it. Resources are released in reverse order.

use super::control::{Control, Liveness, WorkerReports};
use super::resolve::{START_RESOLVE_TIMEOUT, route_key, targets, vips, wait_resolved};
use super::signals::Signals;
use super::worker::{self, Worker, WorkerEvent};
use super::{Error, health_leader, open, peers, steering};
use crate::announce::{Announcer, Routes};
use arc_swap::ArcSwap;
use guideway_config::{self as config_file, Config};
use guideway_control::{self as control, Api, DirectorInfo, Status, StoreStatus, WorkerStatus, Writer, api};
use guideway_control::{fleet, neighbour};
use guideway_daemon::metrics;
use guideway_daemon::socket::ControlSocket;
use guideway_daemon::systemd;
use guideway_dataplane::path::Shared;
use guideway_dataplane::steer;
use guideway_host::cpus;
use guideway_packet::io::Io;
use guideway_packet::time::Time;
use guideway_store::{self as store, Store};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::mpsc::{self, UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

/// Maximum number of queued reports about unresolved or suspected backends.
const QUEUE_LEN: usize = 256;

/// Maximum number of queued dry runs.
const MAX_DRY_RUNS: usize = 16;

/// Returns the store with a copy below the first directory of `state_directories`, which systemd sets (`StateDirectory=`), unless the file names another.
fn with_default_cache(store: &config_file::Store, director: &str, state_directories: Option<&OsStr>) -> config_file::Store {
    match state_directories.and_then(|all| std::env::split_paths(all).find(|directory| directory.is_absolute())) {
        Some(directory) => store.clone().or_cache(directory.join(format!("{director}.state.json"))),
        None => store.clone(),
    }
}

/// Runs the director until a signal ends it.
pub(super) async fn run(file: &Path, config: Config) -> Result<(), Error> {
    let started = Instant::now();
    let system = |what| move |error| Error::System { what, error };
    // Comes first, so that a signal during the start does not kill the process half way.
    let mut signals = Signals::listen().map_err(system("cannot listen for signals"))?;
    let socket = ControlSocket::claim(&config.director.socket)?;
    let metrics_listener = config.director.metrics.map(metrics::listen).transpose()?;
    let remote = config.api.as_ref().map(api::tcp::listen).transpose()?;
    let interface = open::interface(&config.director)?;
    let state_directories = std::env::var_os("STATE_DIRECTORY");
    let with_cache = |store| with_default_cache(store, &config.director.name, state_directories.as_deref());
    let store = match &config.store.as_ref().map(with_cache) {
        None => Store::memory(config.intent()),
        // The first cluster state may take long; signals end the wait.
        Some(at) => tokio::select! {
            opened = store::open(at) => opened?,
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
        },
    };
    let instance = peers::this_instance(&config.director);
    if store.is_durable() {
        tokio::select! {
            claimed = peers::claim_name(&store, &config.director.name, &instance) => claimed?,
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
        }
    }
    let mut store_view = store.watch();
    let cluster = store_view.borrow_and_update().cluster.clone();
    let config = config.with_intent(&cluster.intent);
    let routes = config.announce.as_ref().map(Routes::create).transpose()?;
    let targets = targets(&config, BTreeSet::new());
    let backends = targets.addresses.clone();
    let mut neighbours = neighbour::watch(interface.index, route_key(&config), targets).await?;
    wait_resolved(&mut neighbours, &backends, START_RESOLVE_TIMEOUT).await;
    // Must follow neighbour resolution: netmap takes the interface from the host, and then workers must carry its ARP requests.
    let mut opened = open::open(&config.director, interface, vips(&config).len())?;
    let steered = match config.director.steering {
        0 => None,
        workers => Some((opened.single_io(workers)?, workers)),
    };
    let threads = steered.as_ref().map_or(opened.workers.len(), |(_, workers)| workers + 1);
    let cpus = cpus::assign(&opened.cpus, threads, &cpus::allowed())?;
    cpus::exclude(&cpus)?;

    let mut writer = Writer::new();
    let hops = neighbours.hops.borrow_and_update().clone();
    let tables =
        Arc::new(ArcSwap::from_pointee(writer.apply_state(&config, cluster.generation, &cluster.health, &hops, Time::default())?));
    let mtu = hops.link.mtu;
    let steering = steered.map(|(io, workers)| {
        let (steering, worker_queues) = steer::split(io, workers, mtu);
        opened.workers = worker_queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Io>).collect();
        (steering, Arc::<WorkerStatus>::default())
    });
    let worker_status: Vec<Arc<WorkerStatus>> = opened.workers.iter().map(|_| Arc::default()).collect();
    let info = DirectorInfo {
        name: config.director.name.clone(),
        kind: opened.kind,
        interface: opened.interface.name.clone(),
        mode: opened.mode.clone(),
        cpus: cpus.clone(),
        instance: instance.clone(),
        started,
    };
    let status = Arc::new(Status::new(info, worker_status.clone(), steering.as_ref().map(|(_, worker_status)| worker_status.clone())));

    let (reports, mut worker_events) = unbounded_channel();
    let (unresolved_sender, unresolved) = crossbeam_channel::bounded(QUEUE_LEN);
    let (suspect, suspected) = crossbeam_channel::bounded(QUEUE_LEN);
    let mut workers = Workers { stop: Arc::new(AtomicBool::new(false)), threads: Vec::with_capacity(cpus.len()) };
    let steering_cpu = cpus.get(opened.workers.len()).copied();
    let count = opened.workers.len();
    let shared = Shared::new(count);
    for (index, ((io, cpu), worker_status)) in opened.workers.into_iter().zip(cpus).zip(worker_status).enumerate() {
        let worker = Worker {
            index,
            workers: count,
            shared: shared.clone(),
            cpu,
            io,
            flows: config.director.flows,
            mtu,
            tables: tables.clone(),
            worker_status,
            unresolved: unresolved_sender.clone(),
            suspected: suspect.clone(),
            stop: workers.stop.clone(),
            reports: reports.clone(),
        };
        workers.threads.push(worker::spawn(worker).map_err(system("cannot start a worker's thread"))?);
    }
    if let (Some((steering, worker_status)), Some(cpu)) = (steering, steering_cpu) {
        let (index, tables, stop) = (workers.threads.len(), tables.clone(), workers.stop.clone());
        let thread = steering::SteeringThread { index, cpu, steering, tables, worker_status, stop, reports: reports.clone() };
        workers.threads.push(steering::spawn(thread).map_err(system("cannot start the steering thread"))?);
    }
    wait_running(&mut worker_events, workers.threads.len()).await?;
    opened.filter.set_vips(&vips(&config)).map_err(open::Error::from)?;
    tracing::info!(
        name = config.director.name, io = opened.kind, mode = opened.mode, interface = opened.interface.name, workers = status.workers(),
        socket = %config.director.socket.display(), "ready"
    );

    let (interface, filter, max_mtu, offload_kind) = (opened.interface, opened.filter, opened.max_mtu, opened.offloads);
    // Must follow the start of the workers: an announced VIP must be forwarded.
    let announcer = routes.map(|routes| Announcer::start(routes, status.clone()));
    let (dry_run_sender, dry_runs) = mpsc::channel(MAX_DRY_RUNS);
    let (reload_sender, reloads) = mpsc::channel(MAX_DRY_RUNS);
    let store_status = StoreStatus {
        kind: store.kind(),
        generation: cluster.generation,
        published: 1,
        tables_built: writer.tables_built(),
        ..StoreStatus::default()
    };
    let presence = watch::Sender::new(status.presence());
    let _presence = store.publish_director(&config.director.name, presence.subscribe());
    if store.is_durable() {
        tokio::spawn(peers::compare(store.clone(), config.director.name.clone(), instance, status.clone()));
    }
    let suspects = watch::Sender::new(Value::Null);
    let _suspicions = store.publish_suspects(&config.director.name, suspects.subscribe());
    let mut control = Control {
        file,
        config,
        health: cluster.health.clone(),
        generation: cluster.generation,
        lineage: cluster.lineage.clone(),
        store: store.clone(),
        store_view,
        fleet: fleet::watch(store.clone()),
        store_status,
        presence,
        suspects,
        file_generation: cluster.intent_generation,
        next_update: started,
        writer,
        neighbours,
        tables,
        old_snapshots: Vec::new(),
        interface,
        filter,
        max_mtu,
        io_trouble: None,
        offload_kind,
        status: status.clone(),
        started,
        credentials: remote.as_ref().map(api::tcp::Tcp::credentials),
        announcer,
        liveness: Liveness::new(),
    };
    control.update_status();
    let listener = socket.listener().map_err(system("cannot listen on the control socket"))?;
    tokio::spawn(health_leader::follow(store.clone(), status.clone()));
    let api = Arc::new(Api::new(status.clone(), store, dry_run_sender, reload_sender));
    if let Some(remote) = remote {
        remote.serve(api.clone())?;
    }
    let server = tokio::spawn(api::serve(listener, api));
    if let Some(listener) = metrics_listener {
        let status = status.clone();
        metrics::start(listener, move || control::metrics::render(&status)).map_err(system("cannot start a thread for the metrics"))?;
    }
    systemd::notify_ready();
    let end = control.run(signals, worker_events, WorkerReports { unresolved, suspected }, dry_runs, reloads, server).await;
    // When the director ends without a signal, its VIPs are still announced.
    if let Some(announcer) = control.announcer.take() {
        announcer.withdraw().await;
    }
    workers.end();
    tracing::info!(counters = %status.counters().to_json(), "ended");
    end
}

/// The workers' threads; dropping this stops them.
struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // A worker that panicked has logged it.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until every worker runs.
async fn wait_running(worker_events: &mut UnboundedReceiver<WorkerEvent>, workers: usize) -> Result<(), Error> {
    let mut running = 0;
    while running < workers {
        match worker_events.recv().await {
            Some(WorkerEvent::Running(_)) => running += 1,
            Some(WorkerEvent::Failed(worker, why)) => return Err(Error::Worker { worker, why }),
            None => return Err(Error::Ended("every worker")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_without_a_cache_gets_one_where_systemd_keeps_state() {
        let read = |cache: &str| {
            let text = format!(
                "[director]\nname = \"d1\"\naddress = \"10.0.1.11\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
                 io = {{ kind = \"af_packet\", interface = \"eth0\" }}\nrouters = [\"10.0.1.1\"]\n\
                 [store]\nkind = \"etcd\"\nendpoints = [\"https://10.0.0.5:2379\"]\n{cache}"
            );
            config_file::read(&text).config.and_then(|config| config.store).unwrap()
        };
        let cache = |store: &config_file::Store, directories: Option<&str>| {
            with_default_cache(store, "d1", directories.map(OsStr::new)).cache().map(Path::to_owned)
        };
        let unnamed = read("");
        assert_eq!(cache(&unnamed, None), None);
        let state = Some(Path::new("/var/lib/guideway/d1.state.json").to_owned());
        assert_eq!(cache(&unnamed, Some("/var/lib/guideway")), state);
        assert_eq!(cache(&unnamed, Some("/var/lib/guideway:/var/lib/other")), state);
        assert_eq!(cache(&unnamed, Some("")), None);
        assert_eq!(cache(&read("cache = \"/srv/d1.json\"\n"), Some("/var/lib/guideway")), Some("/srv/d1.json".into()));
    }
}
