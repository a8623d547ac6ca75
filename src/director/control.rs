//! What goes on while workers forward: reloads, neighbours, retirements, signals.

use super::open::Filter;
use super::start::{Signals, answered, vips, wanted};
use super::worker::Report;
use super::{Error, load};
use crate::announce::Announcer;
use crate::config::{Config, duration};
use crate::control::neighbour::Neighbours;
use crate::control::{Board, View, Writer};
use crate::io::interface::Interface;
use crate::tables::{BackendId, Snapshot};
use crate::time::Time;
use arc_swap::ArcSwap;
use crossbeam::channel::Receiver;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How often the backends that workers miss are looked at. They are also asked for without this.
const LOOK: Duration = Duration::from_millis(50);
/// Far enough to stand for never.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Control's state.
pub(super) struct Control<'f> {
    pub(super) file: &'f Path,
    pub(super) config: Config,
    pub(super) writer: Writer,
    pub(super) neighbours: Neighbours,
    pub(super) tables: Arc<ArcSwap<Snapshot>>,
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
        mut reported: UnboundedReceiver<Report>,
        unresolved: Receiver<BackendId>,
        mut server: JoinHandle<std::io::Result<()>>,
    ) -> Result<(), Error> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                changed = self.neighbours.hops.changed() => match changed {
                    Ok(()) => self.neighbours_changed(),
                    Err(_) => return Err(self.no_watcher()),
                },
                () = tokio::time::sleep(retirement) => self.publish_again("a retired backend is forgotten"),
                _ = look.tick() => self.ask_for(&unresolved),
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

    fn now(&self) -> Time {
        Time::default().plus(self.started.elapsed())
    }

    /// Takes the file over, or says why not and leaves everything as it is.
    async fn reload(&mut self) {
        tracing::info!(file = %self.file.display(), "SIGHUP: reloading");
        let outcome = self.take_over().await;
        match &outcome {
            Ok(()) => tracing::info!(generation = self.tables.load().generation, "reloaded"),
            Err(reasons) => {
                for reason in reasons {
                    tracing::error!("reload refused: {reason}");
                }
                tracing::error!("reload refused: the tables of generation {} stay", self.tables.load().generation);
            }
        }
        self.board.reloaded(outcome.map_err(|reasons| reasons.join("\n")));
        self.show();
    }

    async fn take_over(&mut self) -> Result<(), Vec<String>> {
        let config = load(self.file).map_err(|error| match error {
            Error::Config { file, problems } => problems.iter().map(|p| p.in_file(&file).to_string()).collect(),
            other => vec![other.to_string()],
        })?;
        let mut restart: Vec<String> =
            self.config.changes_needing_restart(&config).iter().map(|p| p.in_file(self.file).to_string()).collect();
        restart.extend(self.filter.refuses(&self.config.director, &config.director).map(|why| format!("{}: {why}", self.file.display())));
        if !restart.is_empty() {
            return Err(restart);
        }
        // On a copy: whatever is refused below, nothing has changed.
        let mut writer = self.writer.clone();
        writer.apply(&config, &self.neighbours.hops.borrow(), self.now()).map_err(|e| vec![e.to_string()])?;
        let wants = wanted(&config, writer.addresses());
        let new = &wants.addresses - &self.writer.addresses();
        self.neighbours.wanted.send_replace(wants);
        answered(&mut self.neighbours, &new).await;

        let hops = self.neighbours.hops.borrow_and_update().clone();
        let (before, after) = (vips(&self.config), vips(&config));
        let taken = self.writer_after(&config, &hops).and_then(|(writer, snapshot)| {
            self.filter.set_vips(&(&before | &after)).map_err(|e| e.to_string())?;
            Ok((writer, snapshot))
        });
        match taken {
            Ok((writer, snapshot)) => {
                self.writer = writer;
                self.config = config;
                self.tables.store(Arc::new(snapshot));
            }
            Err(why) => {
                self.neighbours.wanted.send_replace(wanted(&self.config, self.writer.addresses()));
                return Err(vec![why]);
            }
        }
        // Only now: until the swap workers still forward to the VIPs that go.
        if let Err(e) = self.filter.set_vips(&after) {
            tracing::warn!("the filter in the kernel still takes VIPs that were removed: {e}");
        }
        Ok(())
    }

    fn writer_after(&self, config: &Config, hops: &crate::control::NextHops) -> Result<(Writer, Snapshot), String> {
        let mut writer = self.writer.clone();
        let snapshot = writer.apply(config, hops, self.now()).map_err(|e| e.to_string())?;
        Ok((writer, snapshot))
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
    fn publish_again(&mut self, why: &str) {
        let hops = self.neighbours.hops.borrow_and_update().clone();
        let now = self.now();
        match self.writer.apply(&self.config, &hops, now) {
            Ok(snapshot) => {
                tracing::debug!(generation = snapshot.generation, why, "published");
                self.tables.store(Arc::new(snapshot));
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

    fn ask_for(&self, unresolved: &Receiver<BackendId>) {
        let tables = self.tables.load();
        for backend in unresolved.try_iter().filter_map(|id| tables.backend(id)) {
            // When the queue is full, it holds enough to do.
            let _ = self.neighbours.urgent.try_send(backend.address);
        }
    }

    /// Brings the board up to date, and what is announced.
    pub(super) fn show(&self) {
        let hops = self.neighbours.hops.borrow().clone();
        let view = View {
            snapshot: self.tables.load_full(),
            vips: self.config.vips.iter().map(|vip| vip.address).collect(),
            backends: self.writer.backends().collect(),
            hops,
        };
        if let Some(announcer) = &self.announcer {
            announcer.update(&view);
        }
        self.board.show(view);
    }
}
