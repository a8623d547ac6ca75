//! What goes on while workers forward: changes of the set, reloads, neighbours, retirements, signals.

use super::Error;
use super::open::Filter;
use super::start::Signals;
use super::worker::Report;
use crate::announce::Announcer;
use arc_swap::ArcSwap;
use crossbeam::channel::Receiver;
use guideway_config::{Config, duration};
use guideway_control::neighbour::Neighbours;
use guideway_control::{Board, Stored, Trial, View, Writer};
use guideway_dataplane::path::requests::suspicion::Suspicion;
use guideway_dataplane::tables::{BackendId, Snapshot};
use guideway_io::interface::Interface;
use guideway_packet::time::Time;
use guideway_store::{Health, Seen, Store, Suspected};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How often the backends that workers miss are looked at. They are also asked for without this.
const LOOK: Duration = Duration::from_millis(50);
/// Far enough to stand for never.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// What workers notice and control has to look at.
pub(super) struct Noticed {
    /// Backends without a next hop.
    pub(super) unresolved: Receiver<BackendId>,
    /// Backends that several clients wait for.
    pub(super) suspected: Receiver<Suspicion>,
}

/// Control's state.
pub(super) struct Control<'f> {
    pub(super) file: &'f Path,
    /// The director's part of the file, with the intent that the workers have.
    pub(super) config: Config,
    /// The health that the workers have.
    pub(super) health: Health,
    /// The generation of both.
    pub(super) generation: u64,
    pub(super) store: Store,
    pub(super) seen: watch::Receiver<Seen>,
    pub(super) stored: Stored,
    /// What the director says of itself in the store.
    pub(super) word: watch::Sender<Value>,
    /// Whom it suspects, there.
    pub(super) suspects: watch::Sender<Value>,
    /// The intent of this generation is that of the file.
    pub(super) from_file: u64,
    /// Before this the next set is not taken over, so that many quick changes become one.
    pub(super) rested: Instant,
    pub(super) writer: Writer,
    pub(super) neighbours: Neighbours,
    pub(super) tables: Arc<ArcSwap<Snapshot>>,
    /// Snapshots that workers or the board may still read. Whoever lets go of one last frees it, and that must not be a worker.
    pub(super) former: Vec<Arc<Snapshot>>,
    pub(super) interface: Interface,
    pub(super) filter: Filter,
    pub(super) board: Arc<Board>,
    pub(super) started: Instant,
    /// `None`: the file has no `[announce]`, or everything is withdrawn for good.
    pub(super) announcer: Option<Announcer>,
}

impl Control<'_> {
    /// Until a signal ends the director, or something that it cannot do without ends.
    pub(super) async fn run(
        &mut self,
        mut signals: Signals,
        mut reported: mpsc::UnboundedReceiver<Report>,
        noticed: Noticed,
        mut trials: mpsc::Receiver<Trial>,
        mut server: JoinHandle<std::io::Result<()>>,
    ) -> Result<(), Error> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due = None;
        let mut end = None;
        loop {
            let retirement = self.writer.expiry().map_or(NEVER, |at| at - self.now());
            tokio::select! {
                Some(report) = reported.recv() => if let Report::Failed(worker, why) = report {
                    return Err(Error::Worker { worker, why });
                },
                _ = signals.terminate.recv() => match self.leave("SIGTERM").await {
                    Some(at) => end = Some(at),
                    None => return Ok(()),
                },
                _ = signals.interrupt.recv() => match self.leave("SIGINT").await {
                    Some(at) => end = Some(at),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(end.unwrap_or_else(|| tokio::time::Instant::now() + NEVER)) => return Ok(()),
                Some(()) = signals.reload.recv() => self.reload().await,
                Ok(()) = self.seen.changed(), if due.is_none() => due = Some(self.rested.max(Instant::now())),
                () = until(due), if due.is_some() => {
                    due = None;
                    self.take_newest().await;
                }
                Some(trial) = trials.recv() => self.answer(trial),
                changed = self.neighbours.hops.changed() => match changed {
                    Ok(()) => self.neighbours_changed(),
                    Err(_) => return Err(self.no_watcher()),
                },
                () = tokio::time::sleep(retirement) => self.retired().await,
                _ = look.tick() => {
                    self.ask_for(&noticed.unresolved);
                    self.suspect(&noticed.suspected);
                    self.forget();
                }
                _ = &mut server => return Err(Error::Ended("the control socket's server")),
            }
        }
    }

    /// Withdraws what is announced; gives until when to go on forwarding. `None`: there is nothing to wait for, or not any more.
    async fn leave(&mut self, signal: &str) -> Option<tokio::time::Instant> {
        let (Some(announcer), Some(announce)) = (self.announcer.take(), &self.config.announce) else {
            tracing::info!("{signal}: ending");
            return None;
        };
        announcer.leave().await;
        tracing::info!("{signal}: VIPs are withdrawn; ending in {} (a second signal ends at once)", duration::human(announce.linger));
        Some(tokio::time::Instant::now() + announce.linger)
    }

    fn no_watcher(&self) -> Error {
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
        let same = published.mac == hops.link.mac
            && published.mtu == hops.link.mtu
            && published.backends.iter().flatten().all(|backend| backend.next_hop() == hops.get(backend.address));
        if same { self.show() } else { self.publish_again("neighbours changed") }
    }

    /// Publishes the same configuration with what has changed around it.
    pub(super) fn publish_again(&mut self, why: &str) {
        let hops = self.neighbours.hops.borrow_and_update().clone();
        let now = self.now();
        match self.writer.apply_set(&self.config, self.generation, &self.health, &hops, now) {
            Ok(snapshot) => {
                tracing::debug!(generation = snapshot.generation, why, "published");
                self.publish(snapshot);
                self.neighbours.wanted.send_if_modified(|wanted| {
                    let now = self.writer.addresses();
                    let changed = wanted.addresses != now;
                    wanted.addresses = now;
                    changed
                });
            }
            Err(e) => tracing::error!("the tables stay as they are although {why}: {e}"),
        }
        self.show();
    }

    /// Gives a snapshot to the workers.
    pub(super) fn publish(&mut self, snapshot: Snapshot) {
        let before = self.tables.swap(Arc::new(snapshot));
        self.former.push(before);
        self.forget();
        self.stored.published += 1;
        self.stored.tables_built = self.writer.tables_built();
    }

    /// Frees the snapshots that nobody reads any more.
    fn forget(&mut self) {
        self.former.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    fn ask_for(&self, unresolved: &Receiver<BackendId>) {
        let tables = self.tables.load();
        for backend in unresolved.try_iter().filter_map(|id| tables.backend(id)) {
            // When the queue is full, it holds enough to do.
            let _ = self.neighbours.urgent.try_send(backend.address);
        }
    }

    fn suspect(&self, suspected: &Receiver<Suspicion>) {
        let tables = self.tables.load();
        for (suspicion, backend) in suspected.try_iter().filter_map(|s| Some((s, tables.backend(s.backend)?))) {
            let because = suspicion.to_string();
            if self.board.suspect(&backend.pool, &backend.name, &because) {
                tracing::warn!(pool = &*backend.pool, backend = &*backend.name, "suspected: {because}");
            }
        }
        // Also when there is nothing new: suspicions end by themselves.
        let now = self.board.suspected().into_iter().map(|suspect| Suspected { pool: suspect.pool, backend: suspect.backend });
        let word = Suspected::word(now);
        self.suspects.send_if_modified(|said| {
            let changed = *said != word;
            *said = word;
            changed
        });
    }

    /// Brings the board up to date, and what is announced.
    pub(super) fn show(&self) {
        let hops = self.neighbours.hops.borrow().clone();
        self.board.show_store(self.stored.clone());
        let view = View {
            snapshot: self.tables.load_full(),
            keys: (self.config.active_key().map(|key| key.id()), self.config.director.keys().map(|key| key.id()).collect()),
            vips: self.config.vips.iter().map(|vip| vip.address).collect(),
            backends: self.writer.backends().collect(),
            hops,
        };
        if let Some(announcer) = &self.announcer {
            announcer.update(&view);
        }
        self.board.show(view);
        let word = self.board.word();
        self.word.send_if_modified(|said| {
            let changed = *said != word;
            *said = word;
            changed
        });
    }
}

/// Until `at`; for ever without one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
