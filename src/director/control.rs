//! The control loop while workers forward: cluster state changes, reloads, neighbours, retirements, signals.

use super::Error;
use super::host_problems;
use super::open::Filter;
use super::signals::Signals;
use super::worker::WorkerEvent;
use crate::announce::{Announcer, watchdog};
use arc_swap::ArcSwap;
use crossbeam_channel::Receiver;
use guideway_config::{Config, duration};
use guideway_control::api::credentials::Credentials;
use guideway_control::fleet;
use guideway_control::neighbour::Neighbours;
use guideway_control::{CheckedHealth, DryRun, ReloadRequest, Status, StoreStatus, View, Writer};
use guideway_daemon::systemd;
use guideway_dataplane::path::requests::suspicion::Suspicion;
use guideway_dataplane::tables::{BackendId, Snapshot};
use guideway_io::interface::Interface;
use guideway_io::offloads;
use guideway_packet::time::Time;
use guideway_store::{Health, Lineage, Origin, Store, StoreView, SuspectedBackend};
use serde_json::Value;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Interval at which control reads the backends that workers report as unresolved. Neighbours are also resolved without this.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Interval at which the interface is examined. The kernel sends a message about a changed MAC address, but none about a changed number of queues.
const FACTS_INTERVAL: Duration = Duration::from_secs(1);
/// Time in which other directors learn by the store that this one is ending, with a margin.
const PEERS_DELAY: Duration = fleet::INTERVAL.saturating_add(Duration::from_millis(250));
/// A time that never comes.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Reports of the workers for control.
pub(super) struct WorkerReports {
    /// Backends without a next hop.
    pub(super) unresolved: Receiver<BackendId>,
    /// Backends that several clients wait for.
    pub(super) suspected: Receiver<Suspicion>,
}

/// The state of the control loop.
pub(super) struct Control<'f> {
    pub(super) file: &'f Path,
    /// The director's part of the file, with the intent in force.
    pub(super) config: Config,
    /// The health in force.
    pub(super) health: Health,
    /// The generation of both.
    pub(super) generation: u64,
    /// The history in which it counts.
    pub(super) lineage: Lineage,
    pub(super) store: Store,
    pub(super) store_view: watch::Receiver<StoreView>,
    pub(super) store_status: StoreStatus,
    /// Directors that share the store.
    pub(super) fleet: watch::Receiver<Vec<IpAddr>>,
    /// The director's presence record in the store.
    pub(super) presence: watch::Sender<Value>,
    /// The director's suspicions in the store.
    pub(super) suspects: watch::Sender<Value>,
    /// The generation whose intent is that of the file.
    pub(super) file_generation: u64,
    /// Earliest time of the next update, so that many quick changes are merged.
    pub(super) next_update: Instant,
    pub(super) writer: Writer,
    pub(super) neighbours: Neighbours,
    pub(super) tables: Arc<ArcSwap<Snapshot>>,
    /// Snapshots that workers or the status may still read. The last holder frees a snapshot, and that must not be a worker.
    pub(super) old_snapshots: Vec<Arc<Snapshot>>,
    pub(super) interface: Interface,
    pub(super) filter: Filter,
    /// The largest MTU of the interface, in bytes, whose frames fit the buffers of the io.
    pub(super) max_mtu: u32,
    /// Which offloads harm the io.
    pub(super) offload_kind: offloads::Kind,
    /// Why the io does not receive what it should.
    pub(super) io_trouble: Option<String>,
    pub(super) status: Arc<Status>,
    pub(super) started: Instant,
    /// Token and certificate of the API over TCP.
    pub(super) credentials: Option<Credentials>,
    /// `None`: the file has no `[announce]`, or all VIPs are withdrawn permanently.
    pub(super) announcer: Option<Announcer>,
    pub(super) liveness: Liveness,
}

/// Reports to systemd while the control loop runs and every worker polls.
#[derive(Debug)]
pub(super) struct Liveness {
    workers: watchdog::Watchdog,
    systemd: systemd::Watchdog,
}

impl Liveness {
    pub(super) fn new() -> Self {
        Self { workers: watchdog::Watchdog::default(), systemd: systemd::Watchdog::from_environment() }
    }

    /// Returns whether a thread does not poll.
    fn report(&mut self, now: Time, polls: &[u64]) -> bool {
        let stuck = self.workers.check(now, polls).is_some();
        if !stuck {
            self.systemd.report(Instant::now());
        }
        stuck
    }
}

impl Control<'_> {
    /// Runs until a signal ends the director, or a required part of it ends.
    pub(super) async fn run(
        &mut self,
        mut signals: Signals,
        mut worker_events: mpsc::UnboundedReceiver<WorkerEvent>,
        worker_reports: WorkerReports,
        mut dry_runs: mpsc::Receiver<DryRun>,
        mut reloads: mpsc::Receiver<ReloadRequest>,
        mut server: JoinHandle<std::io::Result<()>>,
    ) -> Result<(), Error> {
        let mut tick = tokio::time::interval(POLL_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut facts = tokio::time::interval(FACTS_INTERVAL);
        facts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sighup = Origin { who: "SIGHUP".to_owned(), from: "a signal".to_owned(), reason: None };
        let mut due = None;
        let mut end = None;
        loop {
            let retirement = self.writer.expiry().map_or(NEVER, |at| at - self.now());
            tokio::select! {
                Some(report) = worker_events.recv() => if let WorkerEvent::Failed(worker, why) = report {
                    return Err(Error::Worker { worker, why });
                },
                _ = signals.terminate.recv() => match self.withdraw("SIGTERM").await {
                    Some(at) => end = Some(at),
                    None => return Ok(()),
                },
                _ = signals.interrupt.recv() => match self.withdraw("SIGINT").await {
                    Some(at) => end = Some(at),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(end.unwrap_or_else(|| tokio::time::Instant::now() + NEVER)) => return Ok(()),
                Some(()) = signals.reload.recv() => drop(self.reload("SIGHUP", &sighup).await),
                Some(ReloadRequest { origin, reply }) = reloads.recv() => {
                    // The requester may be gone.
                    let _gone = reply.send(self.reload("a command", &origin).await);
                }
                Ok(()) = self.store_view.changed(), if due.is_none() => due = Some(self.next_update.max(Instant::now())),
                () = sleep_until(due), if due.is_some() => {
                    due = None;
                    self.apply_latest().await;
                }
                Ok(()) = self.fleet.changed() => self.fleet_changed(),
                Some(dry_run) = dry_runs.recv() => self.dry_run(dry_run),
                changed = self.neighbours.hops.changed() => match changed {
                    Ok(()) => self.neighbours_changed(),
                    Err(_) => return Err(self.watcher_error()),
                },
                () = tokio::time::sleep(retirement) => self.expire_retired().await,
                _ = tick.tick() => {
                    self.request_neighbours(&worker_reports.unresolved);
                    self.update_suspects(&worker_reports.suspected);
                    self.free_snapshots();
                    let stuck = self.liveness.report(self.now(), &self.status.polls());
                    if self.status.set_stuck(stuck) {
                        self.update_status();
                    }
                }
                _ = facts.tick() => self.examine_interface(),
                _ = &mut server => return Err(Error::Ended("the control socket's server")),
            }
        }
    }

    /// Withdraws the VIPs, and tells other directors to hand on no more fragments. Returns until when the director goes on forwarding, or
    /// `None` when it need not wait any longer.
    async fn withdraw(&mut self, signal: &str) -> Option<tokio::time::Instant> {
        let first = self.status.set_ending();
        // A store with this director alone has one.
        let has_peers = self.fleet.borrow().len() > 1;
        self.update_status();
        let (Some(announcer), Some(announce)) = (self.announcer.take(), &self.config.announce) else {
            tracing::info!(signal, "director ending");
            return (first && has_peers).then(|| tokio::time::Instant::now() + PEERS_DELAY);
        };
        announcer.withdraw().await;
        let linger = if has_peers { announce.linger.max(PEERS_DELAY) } else { announce.linger };
        tracing::info!(signal, linger = %duration::human(linger), "VIPs withdrawn, director ending; a second signal ends it at once");
        Some(tokio::time::Instant::now() + linger)
    }

    fn watcher_error(&self) -> Error {
        match Interface::by_name(&self.interface.name) {
            Ok(found) if found.index == self.interface.index => Error::Ended("the watcher of neighbours"),
            _ => Error::Gone(self.interface.name.clone()),
        }
    }

    pub(super) fn now(&self) -> Time {
        Time::default().plus(self.started.elapsed())
    }

    fn neighbours_changed(&mut self) {
        let published = self.tables.load_full();
        let hops = self.neighbours.hops.borrow_and_update().clone();
        if published.mac != hops.link.mac {
            self.renew_io();
        }
        let same = self.writer.knows_unreachable(&hops)
            && published.mac == hops.link.mac
            && published.mtu == hops.link.mtu
            && published.backends.iter().flatten().all(|backend| backend.next_hop() == hops.get(backend.address));
        if same { self.update_status() } else { self.publish_again("neighbours changed") }
    }

    fn fleet_changed(&mut self) {
        let present = self.fleet.borrow_and_update().clone();
        let count = present.len();
        if self.writer.set_present(present, &self.config) {
            tracing::info!(directors = count, "directors of the fleet changed");
            self.publish_again("directors of the fleet changed");
        }
    }

    /// Publishes the same configuration with changed neighbours, directors or retirements.
    pub(super) fn publish_again(&mut self, why: &str) {
        let hops = self.neighbours.hops.borrow_and_update().clone();
        let now = self.now();
        match self.writer.apply_state(&self.config, self.generation, &self.health, &hops, now) {
            Ok(snapshot) => {
                tracing::debug!(generation = snapshot.generation, why, "published");
                self.publish(snapshot);
                self.neighbours.targets.send_if_modified(|targets| {
                    let now = self.writer.addresses();
                    let changed = targets.addresses != now;
                    targets.addresses = now;
                    changed
                });
            }
            Err(e) => tracing::error!(cause = why, error = %e, "tables not rebuilt"),
        }
        self.update_status();
    }

    /// Publishes a snapshot to the workers.
    pub(super) fn publish(&mut self, snapshot: Snapshot) {
        let before = self.tables.swap(Arc::new(snapshot));
        self.old_snapshots.push(before);
        self.free_snapshots();
        self.store_status.published += 1;
        self.store_status.tables_built = self.writer.tables_built();
    }

    /// Frees the snapshots without readers.
    fn free_snapshots(&mut self) {
        self.old_snapshots.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    fn request_neighbours(&self, unresolved: &Receiver<BackendId>) {
        let tables = self.tables.load();
        for backend in unresolved.try_iter().filter_map(|id| tables.backend(id)) {
            // A full queue holds enough work.
            let _ = self.neighbours.urgent.try_send(backend.address);
        }
    }

    fn update_suspects(&self, suspected: &Receiver<Suspicion>) {
        let tables = self.tables.load();
        for (suspicion, backend) in suspected.try_iter().filter_map(|s| Some((s, tables.backend(s.backend)?))) {
            let reason = suspicion.to_string();
            if self.status.suspect(&backend.pool, &backend.name, &reason) {
                tracing::warn!(pool = &*backend.pool, backend = &*backend.name, %reason, "backend suspected");
            }
        }
        // Runs also without news, because suspicions expire.
        let now = self.status.suspected().into_iter().map(|suspect| SuspectedBackend { pool: suspect.pool, backend: suspect.backend });
        let presence = SuspectedBackend::encode(now);
        self.suspects.send_if_modified(|published| {
            let changed = *published != presence;
            *published = presence;
            changed
        });
    }

    /// Updates the status and the announcements.
    pub(super) fn update_status(&self) {
        let hops = self.neighbours.hops.borrow().clone();
        host_problems::update(&self.config, &hops, self.status.host_problems());
        self.status.set_store_status(self.store_status.clone());
        let view = View {
            snapshot: self.tables.load_full(),
            keys: (self.config.active_key().map(|key| key.id()), self.config.director.keys().map(|key| key.id()).collect()),
            vips: self.config.vips.iter().map(|vip| vip.address).collect(),
            backends: self.writer.backends().collect(),
            hops,
            checked: CheckedHealth::of(&self.config.pools, &self.health),
        };
        if let Some(announcer) = &self.announcer {
            announcer.update(&view, self.io_trouble.as_deref());
        }
        self.status.set_view(view);
        let presence = self.status.presence();
        self.presence.send_if_modified(|published| {
            let changed = *published != presence;
            *published = presence;
            changed
        });
    }
}

/// Sleeps until `at`; for ever without one.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
