//! The status that the control socket shows. Control writes it, requests read it, and neither ever blocks a worker.

use super::counters_document::counters_document;
use super::events::Events;
use super::health_source::HealthLeader;
use super::known_vips::KnownVips;
use super::store_status::{StoreStatus, stale_reason};
use super::view::Announced;
use super::worker_status::{WorkerStatus, losses_document};
use super::{BackendState, HostProblems, Suspect, SuspectedBackends, View, changes};
use arc_swap::ArcSwapOption;
use guideway_api as api;
use guideway_api::event::{AvailableStore, EventData, RejectedState, ReloadOutcome, SuspectedBackend, UnavailableStore};
use guideway_api::presence::{Disagreement, Instance, Presence, PresentTables};
use guideway_api::status::{DirectorKind, DirectorStatus, IoStatus, Reloads};
use guideway_dataplane::counters::Counters;
use guideway_dataplane::path::draining::DrainingFlow;
use guideway_dataplane::tables::BackendId;
use guideway_packet::loss::Losses;
use indexmap::IndexMap;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The facts about a director that do not change while it runs.
#[derive(Clone, Debug)]
pub struct DirectorInfo {
    /// Name of the director.
    pub name: String,
    /// `af_xdp`, `af_packet` or `netmap`
    pub kind: &'static str,
    /// Name of the interface.
    pub interface: String,
    /// Mode of the io there: `native, copy`, …
    pub mode: String,
    /// The CPU of each worker.
    pub cpus: Vec<usize>,
    /// The process, as other directors of the store know it.
    pub instance: Instance,
    /// When the director started.
    pub started: Instant,
}

/// A transfer without a packet for this time has ended: clients retransmit after 1 to 5 s.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The status of a director.
#[derive(Debug)]
pub struct Status {
    info: DirectorInfo,
    workers: Vec<Arc<WorkerStatus>>,
    steering: Option<Arc<WorkerStatus>>,
    view: ArcSwapOption<View>,
    reloads: Mutex<Reloads>,
    io_trouble: Mutex<Option<String>>,
    store_status: Mutex<StoreStatus>,
    /// Empty where the director announces nothing.
    announced: ArcSwapOption<Announced>,
    known_vips: Mutex<KnownVips>,
    health_leader: HealthLeader,
    events: Events,
    /// When each backend without new flows got its last one.
    since: Mutex<HashMap<BackendId, Instant>>,
    /// Changes with every update of the status.
    changed: watch::Sender<()>,
    suspected: SuspectedBackends,
    disagreements: Mutex<Vec<Disagreement>>,
    host_problems: HostProblems,
    maintenance: AtomicBool,
    stuck: AtomicBool,
    ending: AtomicBool,
}

/// The flows that still run on backends without new flows.
#[derive(Clone, Debug)]
pub struct DrainingSummary {
    /// Flows with a recent packet; the one with the newest packet first.
    pub flows: Vec<DrainingFlow>,
    /// Flows of all backends that were not tracked for lack of room, since the start.
    pub evicted: u64,
}

impl Status {
    /// Whether an operator keeps clients away from this director.
    pub fn in_maintenance(&self) -> bool {
        self.maintenance.load(Relaxed)
    }

    /// Begins or ends maintenance. It outlives reloads, and ends with the process.
    pub fn set_maintenance(&self, on: bool) {
        if self.maintenance.swap(on, Relaxed) != on {
            tracing::info!(on, "maintenance");
        }
    }

    /// Records whether a thread has stopped polling. Returns whether this is news.
    pub fn set_stuck(&self, stuck: bool) -> bool {
        self.stuck.swap(stuck, Relaxed) != stuck
    }

    /// Records that the director is ending: it forwards what still comes, and other directors hand it nothing more. Returns whether this is news.
    pub fn set_ending(&self) -> bool {
        !self.ending.swap(true, Relaxed)
    }

    /// Creates a status without a view: the director is not ready. `steering` is the status of the steering thread, if there is one.
    pub fn new(info: DirectorInfo, workers: Vec<Arc<WorkerStatus>>, steering: Option<Arc<WorkerStatus>>) -> Status {
        Status {
            info,
            workers,
            steering,
            view: ArcSwapOption::empty(),
            reloads: Mutex::new(Reloads { last: unix_seconds(), ..Reloads::default() }),
            io_trouble: Mutex::default(),
            store_status: Mutex::default(),
            announced: ArcSwapOption::empty(),
            known_vips: Mutex::default(),
            health_leader: HealthLeader::default(),
            events: Events::default(),
            since: Mutex::default(),
            changed: watch::Sender::new(()),
            suspected: SuspectedBackends::default(),
            disagreements: Mutex::default(),
            host_problems: HostProblems::default(),
            maintenance: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        }
    }

    /// Returns the number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Returns how often each worker has polled, and after them the steering thread, if there is one.
    pub fn polls(&self) -> Vec<u64> {
        self.workers.iter().chain(&self.steering).map(|worker_status| worker_status.polls()).collect()
    }

    /// Replaces the view, and records the difference as events.
    pub fn set_view(&self, view: View) {
        let generation = view.snapshot.generation;
        if let Some(before) = self.view.load_full() {
            if let Some(changes) = changes::state_changes(&before, &view) {
                self.events.record(generation, EventData::StateChanged(changes));
            }
            if let Some(changes) = changes::neighbour_changes(&before, &view) {
                self.events.record(generation, EventData::Neighbours(changes));
            }
        }
        {
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            let watched = view.backends.iter().filter(|backend| !matches!(backend.state, BackendState::Active | BackendState::Slow));
            *since = watched.map(|backend| (backend.id, since.get(&backend.id).copied().unwrap_or_else(Instant::now))).collect();
        }
        self.view.store(Some(Arc::new(view)));
        self.changed.send_replace(());
    }

    /// Returns a receiver that changes with every update of the status.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns the events.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Returns since when the backend of this number gets no new flows; `None` if it gets some.
    pub fn draining_since(&self, backend: BackendId) -> Option<Instant> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).get(&backend).copied()
    }

    /// Returns the flows of these backends that had a packet within `idle_timeout`, over all workers.
    pub fn draining_flows(&self, backends: &[BackendId], idle_timeout: Duration) -> DrainingSummary {
        let backends: HashSet<BackendId> = backends.iter().copied().collect();
        let mut flows: HashMap<_, DrainingFlow> = HashMap::new();
        let mut evicted = 0;
        for draining_flows in self.workers.iter().filter_map(|worker_status| worker_status.draining_flows.get()) {
            evicted += draining_flows.evicted();
            for found in draining_flows.active_within(idle_timeout).into_iter().filter(|l| backends.contains(&l.flow_key.backend)) {
                let flow = flows.entry(found.flow_key).or_insert(DrainingFlow { packets: 0, ..found });
                flow.packets += found.packets;
                flow.idle = flow.idle.min(found.idle);
            }
        }
        let mut flows: Vec<DrainingFlow> = flows.into_values().collect();
        flows.sort_by_key(|flow| flow.idle);
        DrainingSummary { flows, evicted }
    }

    /// Returns how many flows still run on each backend without new flows.
    pub fn draining_counts(&self) -> HashMap<BackendId, usize> {
        let watched: Vec<BackendId> = self.since.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        let mut counts: HashMap<BackendId, usize> = watched.iter().map(|id| (*id, 0)).collect();
        for flow in self.draining_flows(&watched, IDLE_TIMEOUT).flows {
            *counts.entry(flow.flow_key.backend).or_default() += 1;
        }
        counts
    }

    /// Returns the same by `pool/backend`.
    fn draining(&self) -> BTreeMap<String, u64> {
        let counts = self.draining_counts();
        let mut named: BTreeMap<String, u64> = BTreeMap::new();
        for backend in self.view().iter().flat_map(|view| &view.backends) {
            if let Some(count) = counts.get(&backend.id) {
                *named.entry(format!("{}/{}", backend.pool, backend.name)).or_default() += *count as u64;
            }
        }
        named
    }

    /// Returns the tables that workers read, once there are some.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.load_full()
    }

    /// Replaces the state of the store, and records the difference as events.
    pub fn set_store_status(&self, store_status: StoreStatus) {
        let before = {
            let mut shown = self.store_status.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *shown, store_status.clone())
        };
        let generation = self.generation();
        let kind = store_status.kind.to_owned();
        match (&before.stale, &store_status.stale) {
            (before, Some(stale)) if before.as_ref().is_none_or(|before| before.reason != stale.reason) => {
                let unavailable = UnavailableStore { kind, reason: stale_reason(stale), why: stale.why.clone() };
                self.events.record(generation, EventData::StoreUnavailable(unavailable));
            }
            (Some(_), None) => self.events.record(generation, EventData::StoreAvailable(AvailableStore { kind })),
            _ => {}
        }
        if let Some(why) =
            store_status.refused.as_ref().filter(|why| before.generation != store_status.generation || before.refused.as_ref() != Some(why))
        {
            let rejected = RejectedState { refused: store_status.generation, why: why.clone() };
            self.events.record(generation, EventData::StateRejected(rejected));
        }
        self.changed.send_replace(());
    }

    /// Returns the state of the store.
    pub fn store_status(&self) -> StoreStatus {
        self.store_status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the generation of the cluster state that workers read; 0 before there is one.
    pub fn generation(&self) -> u64 {
        self.view.load().as_ref().map_or(0, |view| view.snapshot.generation)
    }

    /// Replaces what other directors of the store disagree in.
    pub fn set_disagreements(&self, disagreements: Vec<Disagreement>) {
        *self.disagreements.lock().unwrap_or_else(PoisonError::into_inner) = disagreements;
    }

    /// Returns what is wrong with the host.
    pub fn host_problems(&self) -> &HostProblems {
        &self.host_problems
    }

    /// Returns whether packets are forwarded, also those that other directors hand on.
    fn ready(&self) -> bool {
        let receives = !self.stuck.load(Relaxed) && self.io_trouble.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        self.view.load().is_some() && self.host_problems.blocking().is_none() && receives && !self.ending.load(Relaxed)
    }

    /// Replaces the announced VIPs.
    pub fn announce(&self, announced: Announced) {
        self.known_vips.lock().unwrap_or_else(PoisonError::into_inner).update(&announced, Instant::now());
        self.announced.store(Some(Arc::new(announced)));
    }

    /// Returns the VIPs that it announces or should, and those that are gone since a short time; empty where it announces nothing.
    pub fn announced_vips(&self) -> BTreeMap<IpAddr, bool> {
        let announced = self.announced.load();
        let Some(announced) = announced.as_deref() else { return BTreeMap::new() };
        let view = self.view.load();
        let served = view.iter().flat_map(|view| &view.vips).copied();
        let known = self.known_vips.lock().unwrap_or_else(PoisonError::into_inner);
        served.chain(known.iter()).map(|vip| (vip, announced.get(&vip).is_some_and(Result::is_ok))).collect()
    }

    /// Returns the health controller that leads, for who follows it.
    pub fn health_leader(&self) -> &HealthLeader {
        &self.health_leader
    }

    /// Records that workers suspect a backend. Returns whether they did not suspect it before.
    pub fn suspect(&self, pool: &str, backend: &str, reason: &str) -> bool {
        let news = self.suspected.report(pool, backend, reason, Instant::now());
        if news {
            let suspected = SuspectedBackend { pool: pool.to_owned(), backend: backend.to_owned(), why: reason.to_owned() };
            self.events.record(self.generation(), EventData::Suspected(suspected));
        }
        news
    }

    /// Returns the backends that clients of this director wait for now, so that a health controller checks them first. Cheap enough for frequent calls.
    pub fn suspected(&self) -> Vec<Suspect> {
        self.suspected.now(Instant::now())
    }

    /// Returns how often a backend became suspected since the start.
    pub fn suspicions(&self) -> u64 {
        self.suspected.total()
    }

    /// Counts a reload; an `Err` has the reason for which the file was refused.
    pub fn reloaded(&self, outcome: Result<(), String>) {
        let event = ReloadOutcome { accepted: outcome.is_ok(), why: outcome.as_ref().err().cloned() };
        self.events.record(self.generation(), EventData::Reload(event));
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        reloads.last = unix_seconds();
        match outcome {
            Ok(()) => {
                reloads.accepted += 1;
                reloads.last_error = None;
            }
            Err(why) => {
                reloads.refused += 1;
                reloads.last_error = Some(why);
            }
        }
    }

    /// Returns the counters of all workers and the steering thread together.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.workers.iter().chain(&self.steering).for_each(|worker_status| sum.merge(&worker_status.counters.get()));
        sum
    }

    /// Returns the io counters of all workers and the steering thread together.
    fn io_counts(&self) -> IndexMap<String, u64> {
        let mut sums = IndexMap::new();
        for (name, count) in self.workers.iter().chain(&self.steering).filter_map(|worker_status| worker_status.io.get()).flatten() {
            *sums.entry((*name).to_owned()).or_default() += count.load(Relaxed);
        }
        sums
    }

    /// Returns the frames that the io lost before a worker saw them.
    pub fn losses(&self) -> Losses {
        let mut sum = Losses::default();
        self.workers.iter().chain(&self.steering).for_each(|worker_status| sum.merge(&worker_status.losses()));
        sum
    }

    /// Records why the io does not receive what it should; `None` when it does again.
    pub fn set_io_trouble(&self, trouble: Option<String>) {
        *self.io_trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        self.changed.send_replace(());
    }

    /// Returns the record of this director in its store, by which operators see whether directors agree.
    pub fn presence(&self) -> Value {
        let view = self.view.load();
        let tables = view.as_ref().map(|view| PresentTables {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: view.snapshot.generation,
            keys: view.key_ids().known,
            active_key: view.key_ids().active,
            table_version: guideway_dataplane::maglev::VERSION.into(),
            tables: view.fingerprints(),
            draining: self.draining(),
        });
        let own = view.as_ref().map(|view| view.snapshot.address);
        let addresses = own.into_iter().flat_map(|own| [own.v4.map(Into::into), own.v6.map(Into::into)]).flatten().collect();
        // A struct of strings, numbers and lists always becomes JSON.
        let instance = Some(self.info.instance.clone());
        serde_json::to_value(Presence { ready: self.ready(), addresses, instance, tables }).unwrap_or_default()
    }

    /// Returns the document of `GET /v1/status`.
    pub fn document(&self) -> DirectorStatus {
        let view = self.view.load();
        let reload = self.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let store_status = self.store_status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Summed from the same reading, so that the document agrees with itself.
        let each: Vec<Counters> = self.workers.iter().map(|worker_status| worker_status.counters.get()).collect();
        let mut sum = Counters::default();
        each.iter().for_each(|counters| sum.merge(counters));
        let steering = self.steering.as_ref().map(|worker_status| worker_status.counters.get());
        steering.iter().for_each(|counters| sum.merge(counters));
        let worker = |(worker, counters): (usize, &Counters)| api::counters::WorkerCounters {
            worker,
            cpu: self.info.cpus.get(worker).copied(),
            counters: counters_document(counters),
        };
        let flows = |of: fn(&WorkerStatus) -> &AtomicUsize| self.workers.iter().map(|worker_status| of(worker_status).load(Relaxed)).sum();
        DirectorStatus {
            kind: DirectorKind::Director,
            name: self.info.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: view.as_ref().map_or(0, |v| v.snapshot.generation),
            published: store_status.published,
            tables_built: store_status.tables_built,
            store: store_status.document(),
            health: self.health_leader.document(view.as_ref().is_some_and(|view| view.checked.any)),
            disagreements: self.disagreements.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ready: self.ready(),
            maintenance: self.in_maintenance(),
            host_problems: self.host_problems.all().into_iter().map(|(_, why)| why).collect(),
            io: IoStatus {
                kind: self.info.kind.to_owned(),
                interface: self.info.interface.clone(),
                mode: self.info.mode.clone(),
                trouble: self.io_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                lost: losses_document(&self.losses()),
                counts: self.io_counts(),
            },
            workers: self.workers.len(),
            uptime_seconds: self.info.started.elapsed().as_secs(),
            counters: counters_document(&sum),
            steering: steering.as_ref().map(counters_document),
            per_worker: each.iter().enumerate().map(worker).collect(),
            key: view.as_ref().map(|v| v.key_ids()),
            vips: view.as_ref().map(|v| v.vips(self.announced.load().as_deref())).unwrap_or_default(),
            backends: view.as_ref().map(|v| v.backends(&self.suspected())).unwrap_or_default(),
            remote_site: view.as_ref().map(|v| v.remote_site()).unwrap_or_default(),
            draining: self.draining(),
            flows: api::counters::FlowTables { used: flows(|s| &s.flows), capacity: flows(|s| &s.flow_capacity) },
            reload,
        }
    }
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
