//! Announces VIPs: adds a route for each VIP that can be forwarded to a kernel table that BIRD or FRR exports by BGP.
//!
//! | module | task |
//! |---|---|
//! | [`reachability`] | decides which VIPs can be forwarded, and why the others cannot |
//! | [`watchdog`] | detects stuck workers |
//! | [`damping`] | delays changes, so that short outages and flapping do not reach routers |
//! | [`routes`] | manages the device that the routes lead to, and the routes in the kernel |
//!
//! The routes lead to a TUN device that exists as long as the director holds it open. When the director ends, for whatever reason, the
//! kernel removes the device and its routes.

pub mod damping;
pub mod reachability;
pub mod routes;
#[cfg(test)]
mod tests;
pub mod watchdog;

use damping::{Announcements, Damper};
use guideway_control::{Announced, Status, View};
use guideway_packet::time::Time;
use reachability::{Verdicts, WithdrawReason};
pub use routes::{Error, Routes};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use watchdog::Watchdog;

/// Interval at which the kernel's table is compared with the announcements even without a change, because the table may have been flushed.
const RECONCILE_INTERVAL: Duration = watchdog::CHECK_INTERVAL;
/// Withdrawing takes a few messages to the kernel. When it takes longer than this, the kernel removes the routes together with the device.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps the kernel's table in step with the reachable VIPs. When this is dropped, nothing is announced any more.
#[derive(Debug)]
pub struct Announcer {
    verdicts: watch::Sender<Verdicts>,
    withdraw: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Announcer {
    /// Starts with nothing announced; `status` shows the announcements.
    pub fn start(routes: Routes, status: Arc<Status>) -> Announcer {
        let (verdicts, changes) = watch::channel(Verdicts::new());
        let (withdraw, withdraw_requested) = oneshot::channel();
        let task = AnnounceTask {
            routes,
            status,
            damper: Damper::default(),
            watchdog: Watchdog::default(),
            announced: BTreeMap::new(),
            ending: false,
            origin: Instant::now(),
        };
        task.status.announce(Announced::new());
        Announcer { verdicts, withdraw: Some(withdraw), task: tokio::spawn(task.run(changes, withdraw_requested)) }
    }

    /// Takes the newest view, and why the io does not receive what it should, if so. Must be called whenever tables, neighbours or this change. Does not wait for
    /// the kernel.
    pub fn update(&self, view: &View, io_trouble: Option<&str>) {
        let mut now = reachability::verdicts(view);
        if let Some(why) = io_trouble {
            now.values_mut().for_each(|verdict| *verdict = Err(WithdrawReason::Io(why.to_owned())));
        }
        self.verdicts.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// Withdraws all VIPs permanently. When this returns, the kernel has none of the director's routes.
    pub async fn withdraw(mut self) {
        if let Some(withdraw) = self.withdraw.take() {
            // If the task has ended, its device is gone, too.
            let _ = withdraw.send(());
        }
        if tokio::time::timeout(WITHDRAW_TIMEOUT, &mut self.task).await.is_err() {
            tracing::warn!("routes not removed in time; the kernel removes them with their device");
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct AnnounceTask {
    routes: Routes,
    status: Arc<Status>,
    damper: Damper,
    watchdog: Watchdog,
    /// Last reported state of each VIP.
    announced: Announced,
    ending: bool,
    origin: Instant,
}

impl AnnounceTask {
    async fn run(mut self, mut changes: watch::Receiver<Verdicts>, mut withdraw_requested: oneshot::Receiver<()>) {
        loop {
            let mut verdicts = changes.borrow_and_update().clone();
            let stuck = self.stuck();
            let maintenance = self.status.in_maintenance().then_some(WithdrawReason::Maintenance);
            if let Some(why) = stuck.or(maintenance) {
                verdicts.values_mut().for_each(|verdict| *verdict = Err(why.clone()));
            }
            let announcements = self.damper.announcements(self.now(), &verdicts);
            let wait = announcements.recheck_at.map_or(RECONCILE_INTERVAL, |at| (at - self.now()).min(RECONCILE_INTERVAL));
            self.apply(announcements).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
                _ = &mut withdraw_requested => break,
            }
        }
        self.ending = true;
        let because = self.announced.keys().map(|vip| (*vip, "the director is ending".to_owned())).collect();
        self.apply(Announcements { announce: BTreeSet::new(), because, recheck_at: None }).await;
    }

    fn stuck(&mut self) -> Option<WithdrawReason> {
        let thread = self.watchdog.check(self.now(), &self.status.polls())?;
        let name = if thread < self.status.workers() { format!("worker {thread}") } else { "the steering thread".to_owned() };
        Some(WithdrawReason::Stuck(format!(
            "{name} is stuck: it has not polled for {} s",
            (watchdog::CHECK_INTERVAL * watchdog::MAX_MISSED_CHECKS).as_secs()
        )))
    }

    fn now(&self) -> Time {
        Time::default().plus(self.origin.elapsed())
    }

    async fn apply(&mut self, announcements: Announcements) {
        let mut now: Announced = announcements.because.into_iter().map(|(vip, why)| (vip, Err(why))).collect();
        match self.routes.reconcile(&announcements.announce).await {
            Ok(refused) => now.extend(announcements.announce.into_iter().map(|vip| (vip, refused.get(&vip).cloned().map_or(Ok(()), Err)))),
            Err(why) => {
                // The content of the table is unknown. A VIP that should not be announced is reported as such all the same.
                let why = format!("cannot update the kernel's table: {why}");
                now.extend(announcements.announce.into_iter().map(|vip| (vip, Err(why.clone()))));
            }
        }
        self.log_changes(&now);
        self.status.announce(now.clone());
        self.announced = now;
    }

    /// Logs the changes.
    fn log_changes(&self, now: &Announced) {
        for (vip, state) in now {
            match (self.announced.get(vip), state) {
                (before, Ok(())) if before != Some(&Ok(())) => tracing::info!(%vip, "VIP announced"),
                (Some(Ok(())), Err(_)) if self.ending => tracing::info!(%vip, "VIP withdrawn"),
                (Some(Ok(())), Err(why)) => tracing::warn!(%vip, reason = %why, "VIP withdrawn"),
                (None, Err(why)) => tracing::warn!(%vip, reason = %why, "VIP not announced"),
                (Some(Err(before)), Err(why)) if before != why => tracing::debug!(%vip, reason = %why, "VIP still not announced"),
                _ => {}
            }
        }
        let gone = |vip: &IpAddr| self.announced.get(vip) == Some(&Ok(())) && !now.contains_key(vip);
        for vip in self.announced.keys().filter(|vip| gone(vip)) {
            tracing::info!(%vip, reason = "no longer in the file", "VIP withdrawn");
        }
    }
}
