//! The board: what the control socket shows. Written by control, read by whoever asks; never in the way of a worker.

use super::{Known, NextHops, Suspect, Suspects, neighbour::mac};
use crate::counters::{Counters, Published};
use crate::io::Io;
use crate::store::Trouble;
use crate::tables::Snapshot;
use arc_swap::ArcSwapOption;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

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

/// What changes with a reload or a neighbour.
#[derive(Clone, Debug)]
pub struct View {
    /// What the workers read.
    pub snapshot: Arc<Snapshot>,
    /// Address of each of the snapshot's services.
    pub vips: Vec<IpAddr>,
    /// The backends, retired ones too.
    pub backends: Vec<Known>,
    /// What is known of the way to them.
    pub hops: NextHops,
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
    flows: AtomicUsize,
    flow_capacity: AtomicUsize,
    io: OnceLock<Vec<(&'static str, AtomicU64)>>,
}

impl Shown {
    /// Shows the counters, and how many entries of the flow table are in use. Called by the worker alone.
    pub fn set(&self, counters: &Counters, flows: usize) {
        self.counters.set(counters);
        self.flows.store(flows, Relaxed);
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
    suspects: Suspects,
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
            suspects: Suspects::default(),
        }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Shows `view` from now on.
    pub fn show(&self, view: View) {
        self.view.store(Some(Arc::new(view)));
    }

    /// What the workers read, once there is something.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.load_full()
    }

    /// Shows what is known of the store from now on.
    pub fn show_store(&self, stored: Stored) {
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = stored;
    }

    /// The workers suspect a backend. Says whether that is news.
    pub fn suspect(&self, pool: &str, backend: &str, because: &str) -> bool {
        self.suspects.report(pool, backend, because, Instant::now())
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
            "store": stored.to_json(),
            "ready": view.is_some(),
            "io": {"kind": self.facts.kind, "interface": self.facts.interface, "mode": self.facts.mode, "counts": self.io_counts()},
            "workers": self.workers.len(),
            "uptime_seconds": self.facts.started.elapsed().as_secs(),
            "counters": sum.to_json(),
            "steering": steering.map(|counters| counters.to_json()),
            "per_worker": each.iter().enumerate().map(worker).collect::<Vec<_>>(),
            "vips": view.as_ref().map(|v| v.vips()).unwrap_or_default(),
            "backends": view.as_ref().map(|v| v.backends(&self.suspected())).unwrap_or_default(),
            "flows": {"used": flows(|s| &s.flows), "capacity": flows(|s| &s.flow_capacity)},
            "reload": {"accepted": reloads.accepted, "refused": reloads.refused, "last_error": reloads.last_error},
        })
    }
}

impl View {
    fn vips(&self) -> Vec<Value> {
        let vip = |(address, service): (&IpAddr, &crate::tables::Service)| {
            json!({
                "vip": address,
                "service": service.label,
                "pool": &*service.pool.name,
                "fingerprint": format!("{:016x}", service.pool.maglev.fingerprint()),
            })
        };
        self.vips.iter().zip(&self.snapshot.services).map(vip).collect()
    }

    fn backends(&self, suspects: &[Suspect]) -> Vec<Value> {
        let backend = |known: &Known| {
            let hop = self.hops.status(known.address);
            let suspect = suspects.iter().find(|suspect| (&*suspect.pool, &*suspect.backend) == (&*known.pool, &*known.name));
            json!({
                "name": &*known.name,
                "pool": &*known.pool,
                "address": known.address,
                "weight": known.weight,
                "state": known.state.name(),
                "neighbour": hop.as_ref().map_or_else(|_| "unresolved".to_owned(), |hop| mac(hop.mac)),
                "unresolved_because": hop.err().map(|why| why.to_string()),
                "suspected_because": suspect.map(|suspect| &*suspect.because),
            })
        };
        self.backends.iter().map(backend).collect()
    }
}
