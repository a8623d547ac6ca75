//! The loop around a controller, on one thread: starts due checks, takes results and changes of the store, and publishes changes. A running
//! check is a task; a waiting backend is an entry of a queue.

use super::controller::{Controller, Moment};
use super::outcome::Outcome;
use super::probe::Prober;
use guideway_packet::time::Time;
use guideway_store::{PoolHealth, Store, StoreView, SuspectedBackend};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Time limit of a write to the store before it counts as unavailable.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of reading the suspicions of directors.
const SUSPECT_POLL_INTERVAL: Duration = Duration::from_millis(250);
/// A time that never comes.
const NEVER: Duration = Duration::from_secs(3600);

/// A controller that status and metrics may read while it works.
#[derive(Clone, Debug)]
pub struct SharedController(Arc<Mutex<Controller>>);

impl SharedController {
    /// Shares a controller.
    pub fn new(controller: Controller) -> SharedController {
        SharedController(Arc::new(Mutex::new(controller)))
    }

    /// Locks the controller. Nothing waits while holding it.
    pub fn lock(&self) -> MutexGuard<'_, Controller> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages of an engine's tasks.
enum Event {
    Done(u64, Outcome, Duration),
    Published(Arc<str>, PoolHealth, Result<(), String>),
    Suspected(Vec<SuspectedBackend>),
}

/// Checks and publishes until this is dropped or the store is gone. Must run in a [`tokio::task::LocalSet`].
///
/// `leading` is whether this controller publishes; until it is known, and while it is false, the controller follows the published health.
pub async fn run(shared: SharedController, prober: Prober, store: Store, mut leading: watch::Receiver<bool>) {
    let (prober, clock) = (Rc::new(prober), Clock { started: Instant::now() });
    let mut watch = store.watch();
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut leadership_final = false;
    spawn_local(poll_suspects(store.clone(), leading.clone(), sender.clone()));
    // Loads the published health before any decision.
    update(&shared, &clock, &mut watch, &mut leading);
    loop {
        let wake = {
            let (mut controller, now) = (shared.lock(), clock.now());
            controller.expire(now);
            while let Some(job) = controller.due(now) {
                let (prober, sender) = (prober.clone(), sender.clone());
                spawn_local(async move {
                    let begun = Instant::now();
                    let outcome = prober.check(&job.target).await;
                    // The engine is gone: no task needs the result.
                    let _gone = sender.send(Event::Done(job.id, outcome, begun.elapsed()));
                });
            }
            let news: Vec<(Arc<str>, PoolHealth)> = controller.publish(now).into_iter().collect();
            if !news.is_empty() {
                spawn_local(publish(store.clone(), news, sender.clone()));
            }
            controller.deadline().map_or_else(|| Instant::now() + NEVER, |at| clock.instant(at))
        };
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    let (mut controller, now) = (shared.lock(), clock.now());
                    apply(&mut controller, now, event);
                    // Takes all other pending messages at once.
                    while let Ok(event) = events.try_recv() {
                        apply(&mut controller, now, event);
                    }
                }
                None => return,
            },
            changed = watch.changed() => match changed {
                Ok(()) => update(&shared, &clock, &mut watch, &mut leading),
                Err(_) => return,
            },
            // In some stores the leadership never changes, and the channel is closed.
            changed = leading.changed(), if !leadership_final => match changed {
                Ok(()) => update(&shared, &clock, &mut watch, &mut leading),
                Err(_) => leadership_final = true,
            },
            () = sleep_until(wake) => {}
        }
    }
}

/// Applies the store's changes first: a new leader starts from the published health.
fn update(shared: &SharedController, clock: &Clock, watch: &mut watch::Receiver<StoreView>, leading: &mut watch::Receiver<bool>) {
    let view = watch.borrow_and_update().clone();
    let (mut controller, now) = (shared.lock(), clock.now());
    controller.update_state(now, &view);
    controller.set_leading(now, *leading.borrow_and_update());
}

fn apply(controller: &mut Controller, now: Moment, event: Event) {
    match event {
        Event::Done(id, outcome, took) => controller.done(now, id, outcome, took),
        Event::Published(pool, health, outcome) => controller.published(now, &pool, health, outcome),
        Event::Suspected(suspects) => controller.suspected(now, &suspects),
    }
}

/// Reads the backends that directors suspect, while this controller leads. It polls instead of watching: a failed read is repeated, and no
/// earlier state is needed.
async fn poll_suspects(store: Store, leading: watch::Receiver<bool>, sender: mpsc::UnboundedSender<Event>) {
    while !sender.is_closed() {
        sleep(SUSPECT_POLL_INTERVAL).await;
        if !*leading.borrow() {
            continue;
        }
        match timeout(PUBLISH_TIMEOUT, store.suspected()).await {
            Ok(Ok(suspects)) if !suspects.is_empty() => {
                let _gone = sender.send(Event::Suspected(suspects));
            }
            Ok(Err(error)) => tracing::debug!(%error, "suspicions not read"),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}

/// Several pools published at once are one change.
async fn publish(store: Store, news: Vec<(Arc<str>, PoolHealth)>, sender: mpsc::UnboundedSender<Event>) {
    let all: Vec<(String, PoolHealth)> = news.iter().map(|(pool, health)| (pool.to_string(), health.clone())).collect();
    let outcome = match timeout(PUBLISH_TIMEOUT, store.publish_all(&all)).await {
        Ok(outcome) => outcome.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PUBLISH_TIMEOUT.as_secs())),
    };
    for (pool, health) in news {
        let _gone = sender.send(Event::Published(pool, health, outcome.clone()));
    }
}

/// Reads both clocks.
struct Clock {
    started: Instant,
}

impl Clock {
    fn now(&self) -> Moment {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Moment { at: Time(0).plus(self.started.elapsed()), unix }
    }

    fn instant(&self, at: Time) -> Instant {
        self.started + (at - Time(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_config::Addresses;
    use guideway_config::{Backend, Check, Intent, Pool, Probe};
    use guideway_store::Observation;
    use std::net::Ipv4Addr;
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    fn intent(port: u16) -> Intent {
        let quick = Duration::from_millis(100);
        let check =
            Check { interval: quick, timeout: quick, min_healthy: 0, slow_start: Duration::ZERO, ..Check::new(Probe::Tcp { port }) };
        let backend = |name: &str, last| Backend {
            name: name.into(),
            address: Ipv4Addr::new(127, 0, 0, last).into(),
            weight: 100,
            tid_range: None,
            drain: false,
        };
        let backends = vec![backend("t1", 1), backend("t2", 2)];
        Intent {
            vips: Vec::new(),
            pools: vec![Pool { name: "web".into(), table_size: 1009, takeover: false, check: Some(check), backends }],
            active_key: None,
        }
    }

    async fn until(store: &Store, condition: impl Fn(&PoolHealth) -> bool) {
        let mut watch = store.watch();
        let view = watch.wait_for(|view| view.cluster.health.get("web").is_some_and(|health| condition(health)));
        timeout(Duration::from_secs(30), view).await.expect("published in time").expect("the store is open");
    }

    #[tokio::test]
    async fn the_leader_publishes_and_the_standby_takes_over() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let store = Store::memory(intent(port));
        let engine = |leading: bool| {
            let shared = SharedController::new(Controller::new(16, 1));
            let source = Addresses { v4: Some(Ipv4Addr::LOCALHOST), v6: None };
            let (elect, leading) = watch::channel(leading);
            let running = spawn_local(run(shared.clone(), Prober::new(source, Vec::new()), store.clone(), leading));
            (running, elect, shared)
        };
        LocalSet::new()
            .run_until(async {
                let (leader, _elected, _) = engine(true);
                let (_standby, elect, standing_by) = engine(false);
                until(&store, |health| health.backends.len() == 2 && health.of("t2") == Observation::Up).await;
                drop(second);
                until(&store, |health| health.of("t2") == Observation::Down && health.of("t1") == Observation::Up).await;
                // The leader dies, and the other backend with it. The standby has seen both and publishes it as soon as it may.
                leader.abort();
                drop(first);
                let before = store.watch().borrow().cluster.generation;
                let failing = |shared: &SharedController| shared.lock().document().backends[0].failed_in_a_row;
                let three_failures = async {
                    while failing(&standing_by) < 3 {
                        tokio::task::yield_now().await;
                    }
                };
                timeout(Duration::from_secs(30), three_failures).await.expect("the standby checks");
                assert_eq!(store.watch().borrow().cluster.generation, before, "a standby writes nothing");
                elect.send(true).unwrap();
                until(&store, |health| health.of("t1") == Observation::Down && health.of("t2") == Observation::Down).await;
                let _back = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
                until(&store, |health| health.of("t2") == Observation::Up).await;
            })
            .await;
    }
}
