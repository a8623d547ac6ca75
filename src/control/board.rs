//! The board: what the control socket shows. Written by control, read by whoever asks; never in the way of a worker.

use super::events::{Events, Kind};
use super::{State, Suspect, Suspects, View, changes};
use arc_swap::ArcSwapOption;
use guideway_dataplane::counters::{Counters, Published};
use guideway_dataplane::path::lingering::{Lingerer, Lingering};
use guideway_dataplane::tables::BackendId;
use guideway_packet::io::Io;
use guideway_store::Trouble;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What is announced by BGP, and why the rest is not.
pub type Announced = BTreeMap<IpAddr, Result<(), String>>;

/// What does not change while the director runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Name of the director.
    pub name: String,
    /// `af_xdp`, `af_packet` or `netmap`
    pub kind: &'static str,
    /// Name of the interface.
    pub interface: String,
    /// How the io works there: `native, copy`, …
    pub mode: String,
    /// The CPU of each worker.
    pub cpus: Vec<usize>,
    /// When the director started.
    pub started: Instant,
}

/// What is known of the store.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Its kind.
    pub kind: &'static str,
    /// The newest good set that was read from it.
    pub generation: u64,
    /// Since when and why it cannot be read any more.
    pub trouble: Option<Trouble>,
    /// Why its newest set is not what the workers read.
    pub refused: Option<String>,
    /// Snapshots that were published since the start, for a new set or a neighbour.
    pub published: u64,
    /// Maglev tables that were built since the start.
    pub tables_built: u64,
}

impl Stored {
    fn to_json(&self) -> Value {
        let stale = self.trouble.as_ref().map(|t| json!({"seconds": t.since.elapsed().as_secs_f64(), "why": t.why}));
        json!({"kind": self.kind, "generation": self.generation, "stale": stale, "refused": self.refused})
    }
}

/// How reloads went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Files taken over since the start.
    pub accepted: u64,
    /// Files refused since the start.
    pub refused: u64,
    /// Why the last file was refused; `None` when it was taken over.
    pub last_error: Option<String>,
}

/// What a worker shows of itself.
#[derive(Debug, Default)]
pub struct Shown {
    counters: Published,
    turns: AtomicU64,
    flows: AtomicUsize,
    flow_capacity: AtomicUsize,
    io: OnceLock<Vec<(&'static str, AtomicU64)>>,
    lingering: OnceLock<Arc<Lingering>>,
}

/// A transfer that was silent for so long has ended: clients repeat what was lost after 1 to 5 s.
pub const QUIET: Duration = Duration::from_secs(10);

impl Shown {
    /// Shows the counters, how many entries of the flow table are in use, and that the worker has turned once more. Called by the worker alone.
    pub fn set(&self, counters: &Counters, flows: usize) {
        self.turns.store(self.turns.load(Relaxed).wrapping_add(1), Relaxed);
        self.counters.set(counters);
        self.flows.store(flows, Relaxed);
    }

    /// How often the worker has turned since it started.
    pub fn turns(&self) -> u64 {
        self.turns.load(Relaxed)
    }

    /// Shows what the io has counted. Called by the worker alone, always with the same io.
    pub fn set_io(&self, io: &dyn Io) {
        let start = || {
            let mut counts = Vec::new();
            io.each_count(&mut |name, _| counts.push((name, AtomicU64::new(0))));
            counts
        };
        let mut shown = self.io.get_or_init(start).iter();
        io.each_count(&mut |_, count| {
            if let Some((_, shown)) = shown.next() {
                shown.store(count, Relaxed);
            }
        });
    }

    /// Shows what still runs on backends that get nothing new. Called by the worker, once.
    pub fn set_lingering(&self, lingering: Arc<Lingering>) {
        let _again = self.lingering.set(lingering);
    }

    /// Shows for how many flows there is room.
    pub fn set_flow_capacity(&self, flows: usize) {
        self.flow_capacity.store(flows, Relaxed);
    }
}

/// What the control socket shows.
#[derive(Debug)]
pub struct Board {
    facts: Facts,
    workers: Vec<Arc<Shown>>,
    steering: Option<Arc<Shown>>,
    view: ArcSwapOption<View>,
    reloads: Mutex<Reloads>,
    stored: Mutex<Stored>,
    /// Empty when the director announces nothing.
    announced: ArcSwapOption<Announced>,
    events: Events,
    /// Since when each backend that gets nothing new gets nothing new.
    since: Mutex<HashMap<BackendId, Instant>>,
    /// Changes whenever something is shown.
    shown: watch::Sender<()>,
    suspects: Suspects,
}

/// What still runs on a backend.
#[derive(Clone, Debug)]
pub struct Running {
    /// Flows whose last packet was seen a short time ago; the one that spoke last first.
    pub flows: Vec<Lingerer>,
    /// How many flows of all backends were not shown for want of room, since the start.
    pub replaced: u64,
}

impl Board {
    /// A board without a view yet: the director is not ready. `steering` is shown by the thread before the workers, if there is one.
    pub fn new(facts: Facts, workers: Vec<Arc<Shown>>, steering: Option<Arc<Shown>>) -> Board {
        Board {
            facts,
            workers,
            steering,
            view: ArcSwapOption::empty(),
            reloads: Mutex::default(),
            stored: Mutex::default(),
            announced: ArcSwapOption::empty(),
            events: Events::default(),
            since: Mutex::default(),
            shown: watch::Sender::new(()),
            suspects: Suspects::default(),
        }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// How often each worker has turned, and behind them the steering thread, if there is one.
    pub fn turns(&self) -> Vec<u64> {
        self.workers.iter().chain(&self.steering).map(|shown| shown.turns()).collect()
    }

    /// Shows `view` from now on.
    pub fn show(&self, view: View) {
        let generation = view.snapshot.generation;
        if let Some(before) = self.view.load_full() {
            if let Some(data) = changes::of_set(&before, &view).to_json() {
                self.events.note(generation, Kind::SetChanged, data);
            }
            if let Some(data) = changes::of_neighbours(&before, &view).to_json() {
                self.events.note(generation, Kind::Neighbours, data);
            }
        }
        {
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            let watched = view.backends.iter().filter(|known| !matches!(known.state, State::Active | State::Slow));
            *since = watched.map(|known| (known.id, since.get(&known.id).copied().unwrap_or_else(Instant::now))).collect();
        }
        self.view.store(Some(Arc::new(view)));
        self.shown.send_replace(());
    }

    /// Changes whenever something is shown.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shown.subscribe()
    }

    /// What has happened.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Since when the backend of this number gets nothing new; `None` if it does.
    pub fn watched_since(&self, backend: BackendId) -> Option<Instant> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).get(&backend).copied()
    }

    /// What still runs on the backends of these numbers: flows that were not silent for `quiet`, over all workers.
    pub fn running(&self, backends: &[BackendId], quiet: Duration) -> Running {
        let backends: HashSet<BackendId> = backends.iter().copied().collect();
        let mut flows: HashMap<_, Lingerer> = HashMap::new();
        let mut replaced = 0;
        for lingering in self.workers.iter().filter_map(|shown| shown.lingering.get()) {
            replaced += lingering.replaced();
            for found in lingering.within(quiet).into_iter().filter(|l| backends.contains(&l.conversation.backend)) {
                let flow = flows.entry(found.conversation).or_insert(Lingerer { packets: 0, ..found });
                flow.packets += found.packets;
                flow.silent = flow.silent.min(found.silent);
            }
        }
        let mut flows: Vec<Lingerer> = flows.into_values().collect();
        flows.sort_by_key(|flow| flow.silent);
        Running { flows, replaced }
    }

    /// How many flows still run on each backend that gets nothing new.
    pub fn still_running(&self) -> HashMap<BackendId, usize> {
        let watched: Vec<BackendId> = self.since.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        let mut counts: HashMap<BackendId, usize> = watched.iter().map(|id| (*id, 0)).collect();
        for flow in self.running(&watched, QUIET).flows {
            *counts.entry(flow.conversation.backend).or_default() += 1;
        }
        counts
    }

    /// The same by `pool/backend`.
    pub fn draining(&self) -> Map<String, Value> {
        let counts = self.still_running();
        let mut named: BTreeMap<String, usize> = BTreeMap::new();
        for known in self.view().iter().flat_map(|view| &view.backends) {
            if let Some(count) = counts.get(&known.id) {
                *named.entry(format!("{}/{}", known.pool, known.name)).or_default() += count;
            }
        }
        named.into_iter().map(|(name, count)| (name, json!(count))).collect()
    }

    /// What the workers read, once there is something.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.load_full()
    }

    /// Shows what is known of the store from now on.
    pub fn show_store(&self, stored: Stored) {
        let before = {
            let mut shown = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *shown, stored.clone())
        };
        let generation = self.generation();
        match (&before.trouble, &stored.trouble) {
            (None, Some(trouble)) => self.events.note(generation, Kind::StoreAway, json!({"kind": stored.kind, "why": trouble.why})),
            (Some(_), None) => self.events.note(generation, Kind::StoreBack, json!({"kind": stored.kind})),
            _ => {}
        }
        if let Some(why) =
            stored.refused.as_ref().filter(|why| before.generation != stored.generation || before.refused.as_ref() != Some(why))
        {
            self.events.note(generation, Kind::SetRefused, json!({"refused": stored.generation, "why": why}));
        }
        self.shown.send_replace(());
    }

    /// What is known of the store.
    pub fn stored(&self) -> Stored {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Generation of the set that the workers read; 0 before there is one.
    pub fn generation(&self) -> u64 {
        self.view.load().as_ref().map_or(0, |view| view.snapshot.generation)
    }

    /// Shows what is announced from now on.
    pub fn announce(&self, announced: Announced) {
        self.announced.store(Some(Arc::new(announced)));
    }

    /// The workers suspect a backend. Says whether that is news.
    pub fn suspect(&self, pool: &str, backend: &str, because: &str) -> bool {
        let news = self.suspects.report(pool, backend, because, Instant::now());
        if news {
            self.events.note(self.generation(), Kind::Suspected, json!({"pool": pool, "backend": backend, "why": because}));
        }
        news
    }

    /// The backends that clients of this director wait for now: whoever checks backends should look at these first. Cheap enough to be asked often.
    pub fn suspected(&self) -> Vec<Suspect> {
        self.suspects.now(Instant::now())
    }

    /// How often a backend became suspected since the start.
    pub fn suspicions(&self) -> u64 {
        self.suspects.raised()
    }

    /// Counts a reload: `Err` says why the file was refused.
    pub fn reloaded(&self, outcome: Result<(), String>) {
        let (accepted, why) = (outcome.is_ok(), outcome.as_ref().err());
        self.events.note(self.generation(), Kind::Reload, json!({"accepted": accepted, "why": why}));
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// The sum of what all workers show, and the steering thread.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.workers.iter().chain(&self.steering).for_each(|shown| sum.merge(&shown.counters.get()));
        sum
    }

    /// The sum of what the ios of all workers have counted, and that of the steering thread.
    fn io_counts(&self) -> Map<String, Value> {
        let mut sums = Map::new();
        for (name, count) in self.workers.iter().chain(&self.steering).filter_map(|shown| shown.io.get()).flatten() {
            let before = sums.get(*name).and_then(Value::as_u64).unwrap_or(0);
            sums.insert((*name).to_owned(), json!(before + count.load(Relaxed)));
        }
        sums
    }

    /// What the director says of itself to all who read its store: what it has, by which agreement is seen.
    pub fn word(&self) -> Value {
        let view = self.view.load();
        let Some(view) = view.as_ref() else { return json!({"ready": false}) };
        json!({
            "ready": true,
            "version": env!("CARGO_PKG_VERSION"),
            "generation": view.snapshot.generation,
            "keys": view.keys.1.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "tables": view.fingerprints(),
            "draining": self.draining(),
        })
    }

    /// The document of `GET /v1/status`.
    pub fn status(&self) -> Value {
        let view = self.view.load();
        let reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Summed from the same reading, so that the document agrees with itself.
        let each: Vec<Counters> = self.workers.iter().map(|shown| shown.counters.get()).collect();
        let mut sum = Counters::default();
        each.iter().for_each(|counters| sum.merge(counters));
        let steering = self.steering.as_ref().map(|shown| shown.counters.get());
        steering.iter().for_each(|counters| sum.merge(counters));
        let worker =
            |(at, counters): (usize, &Counters)| json!({"worker": at, "cpu": self.facts.cpus.get(at), "counters": counters.to_json()});
        let flows = |of: fn(&Shown) -> &AtomicUsize| self.workers.iter().map(|shown| of(shown).load(Relaxed)).sum::<usize>();
        json!({
            "kind": "director",
            "name": self.facts.name,
            "version": env!("CARGO_PKG_VERSION"),
            "generation": view.as_ref().map_or(0, |v| v.snapshot.generation),
            "published": stored.published,
            "tables_built": stored.tables_built,
            "store": stored.to_json(),
            "ready": view.is_some(),
            "io": {"kind": self.facts.kind, "interface": self.facts.interface, "mode": self.facts.mode, "counts": self.io_counts()},
            "workers": self.workers.len(),
            "uptime_seconds": self.facts.started.elapsed().as_secs(),
            "counters": sum.to_json(),
            "steering": steering.map(|counters| counters.to_json()),
            "per_worker": each.iter().enumerate().map(worker).collect::<Vec<_>>(),
            "key": view.as_ref().map(|v| json!({
                "active": v.keys.0.map(|id| id.to_string()),
                "known": v.keys.1.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })),
            "vips": view.as_ref().map(|v| v.vips(self.announced.load().as_deref())).unwrap_or_default(),
            "backends": view.as_ref().map(|v| v.backends(&self.suspected())).unwrap_or_default(),
            "other_site": view.as_ref().map(|v| v.other_site()).unwrap_or_default(),
            "draining": self.draining(),
            "flows": {"used": flows(|s| &s.flows), "capacity": flows(|s| &s.flow_capacity)},
            "reload": {"accepted": reloads.accepted, "refused": reloads.refused, "last_error": reloads.last_error},
        })
    }
}
