//! The loop around a controller, on one thread: checks that are due are begun, their outcomes and the store's news are taken in, what changed is
//! published. A check under way is a task; a backend that waits for its turn is an entry of a queue.

use super::controller::{Controller, Moment};
use super::outcome::Outcome;
use super::probe::Prober;
use guideway_packet::time::Time;
use guideway_store::{PoolHealth, Seen, Store, Suspected};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long writing to the store may take before it counts as away.
const WRITING: Duration = Duration::from_secs(10);
/// How often it is asked whom directors suspect.
const ASK: Duration = Duration::from_millis(250);
/// Far enough to stand for never.
const NEVER: Duration = Duration::from_secs(3600);

/// A controller that status and metrics may look at while it works.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Controller>>);

impl Shared {
    /// Shares a controller.
    pub fn new(controller: Controller) -> Shared {
        Shared(Arc::new(Mutex::new(controller)))
    }

    /// Looks at it. Nobody holds it while waiting for something.
    pub fn lock(&self) -> MutexGuard<'_, Controller> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the tasks of an engine tell it.
enum Event {
    Done(u64, Outcome, Duration),
    Published(Arc<str>, PoolHealth, Result<(), String>),
    Suspected(Vec<Suspected>),
}

/// Checks and publishes until this is dropped or the store is gone. To be run in a [`tokio::task::LocalSet`].
///
/// `leading` says whether this controller is the one that publishes; until it does, and while it does not, the others' word is followed.
pub async fn run(shared: Shared, prober: Prober, store: Store, mut leading: watch::Receiver<bool>) {
    let (prober, clock) = (Rc::new(prober), Clock { started: Instant::now() });
    let mut watch = store.watch();
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut settled = false;
    spawn_local(listen(store.clone(), leading.clone(), sender.clone()));
    // What was published is known before anything is decided.
    take(&shared, &clock, &mut watch, &mut leading);
    loop {
        let wake = {
            let (mut controller, now) = (shared.lock(), clock.now());
            controller.expire(now);
            while let Some(job) = controller.due(now) {
                let (prober, sender) = (prober.clone(), sender.clone());
                spawn_local(async move {
                    let begun = Instant::now();
                    let outcome = prober.check(&job.target).await;
                    // The engine is gone: nobody is interested any more.
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
                    // Whatever else is there is taken in at once.
                    while let Ok(event) = events.try_recv() {
                        apply(&mut controller, now, event);
                    }
                }
                None => return,
            },
            changed = watch.changed() => match changed {
                Ok(()) => take(&shared, &clock, &mut watch, &mut leading),
                Err(_) => return,
            },
            // In some stores who leads is settled for good, and nobody is left to change it.
            changed = leading.changed(), if !settled => match changed {
                Ok(()) => take(&shared, &clock, &mut watch, &mut leading),
                Err(_) => settled = true,
            },
            () = sleep_until(wake) => {}
        }
    }
}

/// The store's news first: whoever begins to lead begins from what is published.
fn take(shared: &Shared, clock: &Clock, watch: &mut watch::Receiver<Seen>, leading: &mut watch::Receiver<bool>) {
    let seen = watch.borrow_and_update().clone();
    let (mut controller, now) = (shared.lock(), clock.now());
    controller.set(now, &seen);
    controller.lead(now, *leading.borrow_and_update());
}

fn apply(controller: &mut Controller, now: Moment, event: Event) {
    match event {
        Event::Done(id, outcome, took) => controller.done(now, id, outcome, took),
        Event::Published(pool, health, outcome) => controller.published(now, &pool, health, outcome),
        Event::Suspected(suspects) => controller.suspected(now, &suspects),
    }
}

/// Asks for the backends that directors suspect, while this controller leads. It is asked for, not followed: a question that fails is asked again,
/// and nothing has to be known of what was said before.
async fn listen(store: Store, leading: watch::Receiver<bool>, sender: mpsc::UnboundedSender<Event>) {
    while !sender.is_closed() {
        sleep(ASK).await;
        if !*leading.borrow() {
            continue;
        }
        match timeout(WRITING, store.suspected()).await {
            Ok(Ok(suspects)) if !suspects.is_empty() => {
                let _gone = sender.send(Event::Suspected(suspects));
            }
            Ok(Err(error)) => tracing::debug!("whom directors suspect is not known: {error}"),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}

/// What is said of several pools at once is one change.
async fn publish(store: Store, news: Vec<(Arc<str>, PoolHealth)>, sender: mpsc::UnboundedSender<Event>) {
    let all: Vec<(String, PoolHealth)> = news.iter().map(|(pool, health)| (pool.to_string(), health.clone())).collect();
    let outcome = match timeout(WRITING, store.publish_all(&all)).await {
        Ok(outcome) => outcome.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", WRITING.as_secs())),
    };
    for (pool, health) in news {
        let _gone = sender.send(Event::Published(pool, health, outcome.clone()));
    }
}

/// The two clocks.
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
        let seen = watch.wait_for(|seen| seen.set.health.get("web").is_some_and(|health| condition(health)));
        timeout(Duration::from_secs(30), seen).await.expect("the store is told").expect("the store is there");
    }

    #[tokio::test]
    async fn who_leads_publishes_and_who_stands_by_takes_over() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let store = Store::memory(intent(port));
        let engine = |leading: bool| {
            let shared = Shared::new(Controller::new(16, 1));
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
                // The leader dies, and with it the other backend; the standby has seen both and says so as soon as it may.
                leader.abort();
                drop(first);
                let before = store.watch().borrow().set.generation;
                let failing = |shared: &Shared| shared.lock().to_json()["backends"][0]["failed_in_a_row"].as_u64().unwrap_or(0);
                while failing(&standing_by) < 3 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(store.watch().borrow().set.generation, before, "it does not lead and writes nothing");
                elect.send(true).unwrap();
                until(&store, |health| health.of("t1") == Observation::Down && health.of("t2") == Observation::Down).await;
                let _back = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
                until(&store, |health| health.of("t2") == Observation::Up).await;
            })
            .await;
    }
}
