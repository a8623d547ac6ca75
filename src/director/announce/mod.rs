//! Announces VIPs: a route for each VIP that can be forwarded, in a kernel table that BIRD or FRR exports by BGP.
//!
//! | module | is |
//! |---|---|
//! | [`decide`] | which VIPs can be forwarded, and why the others cannot |
//! | [`pulse`] | whether the workers are at work |
//! | [`damp`] | when that is followed: not for a blink, and not on and off and on |
//! | [`routes`] | the device that the routes lead to, and the routes in the kernel |
//!
//! The routes lead to a TUN device that lives as long as the director holds it open: however the director ends, the kernel takes the
//! device away and the routes with it.

pub mod damp;
pub mod decide;
pub mod pulse;
pub mod routes;
#[cfg(test)]
mod tests;

use damp::{Damper, Step};
use decide::{Verdicts, Why};
use guideway_control::{Announced, Board, View};
use guideway_packet::time::Time;
use pulse::Pulse;
pub use routes::{Error, Routes};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// The kernel's table is compared with what it should be so often even when nothing changes: somebody may have flushed it.
const CHECK: Duration = pulse::LOOK;
/// Withdrawing takes a few messages to the kernel. When it takes longer, the device is removed without them.
const WITHDRAWAL: Duration = Duration::from_secs(2);

/// Keeps the kernel's table in step with what can be forwarded. Nothing is announced any more once this is dropped.
#[derive(Debug)]
pub struct Announcer {
    verdicts: watch::Sender<Verdicts>,
    leave: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Announcer {
    /// Starts with nothing announced; what is, `board` shows.
    pub fn start(routes: Routes, board: Arc<Board>) -> Announcer {
        let (verdicts, changes) = watch::channel(Verdicts::new());
        let (leave, left) = oneshot::channel();
        let task = Task {
            routes,
            board,
            damper: Damper::default(),
            pulse: Pulse::default(),
            told: BTreeMap::new(),
            ending: false,
            origin: Instant::now(),
        };
        task.board.announce(Announced::new());
        Announcer { verdicts, leave: Some(leave), task: tokio::spawn(task.run(changes, left)) }
    }

    /// To be called whenever tables or neighbours have changed. Does not wait for the kernel.
    pub fn update(&self, view: &View) {
        let now = decide::decide(view);
        self.verdicts.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// Withdraws everything for good. When this returns the kernel has no route of ours any more.
    pub async fn leave(mut self) {
        if let Some(leave) = self.leave.take() {
            // When the task has ended, so has its device.
            let _ = leave.send(());
        }
        if tokio::time::timeout(WITHDRAWAL, &mut self.task).await.is_err() {
            tracing::warn!("the kernel was slow to remove the VIPs' routes: they go with their device");
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    routes: Routes,
    board: Arc<Board>,
    damper: Damper,
    pulse: Pulse,
    /// What was said of each VIP.
    told: Announced,
    ending: bool,
    origin: Instant,
}

impl Task {
    async fn run(mut self, mut changes: watch::Receiver<Verdicts>, mut left: oneshot::Receiver<()>) {
        loop {
            let mut verdicts = changes.borrow_and_update().clone();
            if let Some(why) = self.stuck() {
                verdicts.values_mut().for_each(|verdict| *verdict = Err(why.clone()));
            }
            let step = self.damper.step(self.now(), &verdicts);
            let wait = step.next.map_or(CHECK, |at| (at - self.now()).min(CHECK));
            self.carry_out(step).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
                _ = &mut left => break,
            }
        }
        self.ending = true;
        let because = self.told.keys().map(|vip| (*vip, "the director is ending".to_owned())).collect();
        self.carry_out(Step { announce: BTreeSet::new(), because, next: None }).await;
    }

    fn stuck(&mut self) -> Option<Why> {
        let thread = self.pulse.look(self.now(), &self.board.turns())?;
        let name = if thread < self.board.workers() { format!("worker {thread}") } else { "the steering thread".to_owned() };
        Some(Why::Stuck(format!("{name} is stuck: it has looked for no packet for {} s", (pulse::LOOK * pulse::LOOKS).as_secs())))
    }

    fn now(&self) -> Time {
        Time::default().plus(self.origin.elapsed())
    }

    async fn carry_out(&mut self, step: Step) {
        let mut now: Announced = step.because.into_iter().map(|(vip, why)| (vip, Err(why))).collect();
        match self.routes.reconcile(&step.announce).await {
            Ok(refused) => now.extend(step.announce.into_iter().map(|vip| (vip, refused.get(&vip).cloned().map_or(Ok(()), Err)))),
            Err(why) => {
                // What is in the table now is not known; a VIP that is not asked for is told as not announced all the same.
                let why = format!("the kernel's table cannot be brought up to date: {why}");
                now.extend(step.announce.into_iter().map(|vip| (vip, Err(why.clone()))));
            }
        }
        self.tell(&now);
        self.board.announce(now.clone());
        self.told = now;
    }

    /// Says in the log what has changed.
    fn tell(&self, now: &Announced) {
        for (vip, state) in now {
            match (self.told.get(vip), state) {
                (before, Ok(())) if before != Some(&Ok(())) => tracing::info!(%vip, "announced"),
                (Some(Ok(())), Err(_)) if self.ending => tracing::info!(%vip, "withdrawn"),
                (Some(Ok(())), Err(why)) => tracing::warn!(%vip, "withdrawn: {why}"),
                (None, Err(why)) => tracing::warn!(%vip, "not announced: {why}"),
                (Some(Err(before)), Err(why)) if before != why => tracing::debug!(%vip, "still not announced: {why}"),
                _ => {}
            }
        }
        let gone = |vip: &IpAddr| self.told.get(vip) == Some(&Ok(())) && !now.contains_key(vip);
        for vip in self.told.keys().filter(|vip| gone(vip)) {
            tracing::info!(%vip, "withdrawn: it is no longer in the file");
        }
    }
}
