//! All pools, without I/O: which check is due, what follows from an outcome, what is to be published when.
//!
//! There is one queue for all backends, ordered by time; a backend in it costs a few hundred bytes and no thread, task or timer. Checks start
//! spread over the interval and keep their pace: a late one does not make later ones late.

mod intent;
mod publish;
mod show;
mod suspicion;

#[cfg(test)]
mod tests;

use super::floor::{self, Member};
use super::machine::{Change, Machine, Phase};
use super::outcome::Outcome;
use super::probe::Target;
use guideway_config::{Check, Intent};
use guideway_packet::time::Time;
use guideway_store::{Health, Observation, Observed, Trouble};
use publish::Pending;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Now, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// What intervals are counted by.
    pub at: Time,
    /// What people are told: seconds since 1970-01-01 UTC.
    pub unix: u64,
}

/// A check that is to be made now.
#[derive(Clone, Debug)]
pub struct Job {
    /// To be given back with the outcome.
    pub id: u64,
    /// What is checked.
    pub target: Target,
}

/// The state of a controller.
#[derive(Debug)]
pub struct Controller {
    pools: BTreeMap<Arc<str>, Pool>,
    /// By a number that no other backend or check of a backend ever had.
    backends: HashMap<u64, Watched>,
    next_id: u64,
    /// When each backend is due, and when its slow start goes on. What is no longer true is skipped.
    due: BinaryHeap<Reverse<(Time, u64)>>,
    steps: BinaryHeap<Reverse<(Time, u64)>>,
    in_flight: usize,
    concurrency: usize,
    leading: bool,
    intent: Option<Arc<Intent>>,
    /// What the store has.
    published: Health,
    generation: u64,
    trouble: Option<Trouble>,
    pending: BTreeMap<Arc<str>, Pending>,
    counts: Counts,
    random: fastrand::Rng,
}

/// A pool that is checked.
#[derive(Debug)]
struct Pool {
    check: Arc<Check>,
    vip: Option<IpAddr>,
    /// By name.
    backends: BTreeMap<Arc<str>, u64>,
    /// How many backends are down and kept all the same.
    kept: usize,
}

/// A backend that is checked.
#[derive(Debug)]
struct Watched {
    target: Target,
    /// Whether it takes new flows when it is up.
    counts: bool,
    machine: Machine,
    due: Time,
    running: bool,
    /// When it was last checked before its time because somebody suspected it.
    hurried: Option<Time>,
    last: Option<Last>,
    /// What the last failure was.
    failure: String,
    shown: Observed,
    /// Down, but shown as up: the pool's floor.
    kept: bool,
    checks: u64,
    failed: u64,
}

/// The last check of a backend.
#[derive(Clone, Debug)]
struct Last {
    outcome: Outcome,
    took: Duration,
    unix: u64,
}

/// What is counted over all backends.
#[derive(Clone, Debug, Default)]
struct Counts {
    /// By the place in [`Outcome::NAMES`].
    outcomes: [u64; Outcome::NAMES.len()],
    fell: u64,
    returned: u64,
    published: u64,
    refused: u64,
    /// Checks before their time, for a suspicion.
    hurried: u64,
    /// Checks that were ended, and when that was last looked at.
    ended: u64,
    mark: (Time, u64),
    per_second: f64,
    /// When it may be logged again that a check could not be made.
    complain: Time,
    /// How much later than due the last check began.
    behind: Duration,
}

/// How often it is logged that checks cannot be made.
const COMPLAINTS: Duration = Duration::from_secs(10);
/// Over how long checks per second are told.
const WINDOW: Duration = Duration::from_secs(5);

impl Controller {
    /// A controller without pools. At most `concurrency` checks are under way at a time; `seed` spreads them.
    pub fn new(concurrency: usize, seed: u64) -> Self {
        Controller {
            pools: BTreeMap::new(),
            backends: HashMap::new(),
            next_id: 0,
            due: BinaryHeap::new(),
            steps: BinaryHeap::new(),
            in_flight: 0,
            concurrency: concurrency.max(1),
            leading: false,
            intent: None,
            published: Health::new(),
            generation: 0,
            trouble: None,
            pending: BTreeMap::new(),
            counts: Counts::default(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The next check that is due, if one is and there is room for it. To be asked until it gives nothing.
    pub fn due(&mut self, now: Moment) -> Option<Job> {
        while self.in_flight < self.concurrency {
            let Reverse((at, id)) = *self.due.peek().filter(|Reverse((at, _))| *at <= now.at)?;
            self.due.pop();
            let Some(watched) = self.backends.get_mut(&id).filter(|watched| watched.due == at && !watched.running) else { continue };
            watched.running = true;
            self.in_flight += 1;
            self.counts.behind = now.at - at;
            return Some(Job { id, target: watched.target.clone() });
        }
        None
    }

    /// Takes the outcome of a check, which took so long.
    pub fn done(&mut self, now: Moment, id: u64, outcome: Outcome, took: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.counts.outcomes[outcome.index()] += 1;
        self.counts.count(now.at);
        // Whoever was removed, or is checked in another way by now, has another number.
        let Some(watched) = self.backends.get_mut(&id) else { return };
        watched.running = false;
        watched.checks += 1;
        let check = watched.target.check.clone();
        watched.due = next(&mut self.random, &check, watched.due, now.at);
        self.due.push(Reverse((watched.due, id)));
        let change = match outcome.good() {
            None => {
                // A reason on this host is that of thousands of checks.
                if now.at >= self.counts.complain {
                    self.counts.complain = now.at.plus(COMPLAINTS);
                    tracing::error!(pool = %watched.target.pool, backend = %watched.target.backend, "{outcome}");
                }
                None
            }
            Some(good) => {
                if !good {
                    watched.failed += 1;
                    watched.failure = outcome.to_string();
                }
                let change = if self.leading { watched.machine.outcome(now.at, &check, good) } else { watched.follow(now, good) };
                let slow = watched.machine.deadline(now.at, &check).filter(|_| change == Some(Change::Returned));
                self.steps.extend(slow.map(|next| Reverse((next, id))));
                change
            }
        };
        watched.last = Some(Last { outcome, took, unix: now.unix });
        let pool = watched.target.pool.clone();
        if let Some(change) = change {
            watched.tell(change);
            match change {
                Change::Fell => self.counts.fell += 1,
                Change::Returned => self.counts.returned += 1,
                Change::Seen | Change::Step => {}
            }
            self.refresh(now, &pool);
        }
    }

    /// Acts on time: slow starts go on. Nothing happens before [`Controller::deadline`].
    pub fn expire(&mut self, now: Moment) {
        while let Some(Reverse((at, id))) = self.steps.peek().copied().filter(|Reverse((at, _))| *at <= now.at) {
            self.steps.pop();
            let Some(watched) = self.backends.get_mut(&id) else { continue };
            let check = watched.target.check.clone();
            let before = watched.shown.state;
            let changed = watched.machine.expire(now.at, &check, before);
            if let Some(next) = watched.machine.deadline(now.at, &check).filter(|next| *next > at) {
                self.steps.push(Reverse((next, id)));
            }
            if changed.is_some() {
                let pool = watched.target.pool.clone();
                self.refresh(now, &pool);
            }
        }
    }

    /// When something is to be done next: a check, a step of a slow start, something to publish. `None`: nothing.
    pub fn deadline(&self) -> Option<Time> {
        let head = |queue: &BinaryHeap<Reverse<(Time, u64)>>| queue.peek().map(|Reverse((at, _))| *at);
        let due = head(&self.due).filter(|_| self.in_flight < self.concurrency);
        [due, head(&self.steps), self.publishing_due()].into_iter().flatten().min()
    }

    /// Whether this controller publishes.
    pub fn leading(&self) -> bool {
        self.leading
    }

    /// Backends that are checked.
    pub fn backends(&self) -> usize {
        self.backends.len()
    }

    /// Draws the consequences of a change for a pool: its floor, and what is shown of its backends.
    fn refresh(&mut self, now: Moment, name: &Arc<str>) {
        let Some(pool) = self.pools.get_mut(name) else { return };
        let ids: Vec<u64> = pool.backends.values().copied().collect();
        let member = |id: &u64| {
            let watched = self.backends.get(id)?;
            let down = match watched.machine.phase() {
                Phase::Down(since) => Some(since),
                Phase::Unknown | Phase::Up | Phase::Slow(_) => None,
            };
            Some(Member { down, counts: watched.counts })
        };
        let members: Vec<Member> = ids.iter().filter_map(member).collect();
        // Who does not lead shows what the leader says.
        let kept = if self.leading { floor::kept(&members, pool.check.min_healthy) } else { Vec::new() };
        let before = std::mem::replace(&mut pool.kept, kept.len());
        let (down, of) = (members.iter().filter(|m| m.counts && m.down.is_some()).count(), members.iter().filter(|m| m.counts).count());
        let percent = pool.check.min_healthy;
        if kept.len() > before {
            let said = "so many checks fail that the floor holds backends up; is it the check, or the way to the backends?";
            tracing::error!(pool = %name, failing = down, of, kept = kept.len(), min_healthy = percent, "{said}");
        } else if kept.is_empty() && before > 0 {
            tracing::warn!(pool = %name, failing = down, of, "the floor holds no backend up any more");
        }
        let mut changed = false;
        for (index, id) in ids.iter().enumerate() {
            if let Some(watched) = self.backends.get_mut(id) {
                changed |= watched.show(now, kept.contains(&index), percent);
            }
        }
        self.touch(now, name, changed);
    }
}

impl Counts {
    fn count(&mut self, now: Time) {
        self.ended += 1;
        let (since, ended) = self.mark;
        let passed = now - since;
        let first = since == Time(0);
        if passed >= WINDOW || first && passed >= WINDOW / 5 {
            self.per_second = (self.ended - ended) as f64 / passed.as_secs_f64();
        }
        if passed >= WINDOW {
            self.mark = (now, self.ended);
        }
    }
}

impl Watched {
    /// Counts, and decides nothing.
    fn follow(&mut self, now: Moment, good: bool) -> Option<Change> {
        self.machine.count(now.at, good);
        None
    }

    fn tell(&self, change: Change) {
        let (pool, backend, address) = (&self.target.pool, &self.target.backend, self.target.address);
        match change {
            Change::Fell => tracing::warn!(%pool, %backend, %address, "down: {}", self.failure),
            Change::Returned => tracing::info!(%pool, %backend, %address, "back"),
            Change::Seen | Change::Step => {}
        }
    }

    /// Brings what is shown up to date; says whether directors would see a difference.
    fn show(&mut self, now: Moment, kept: bool, percent: u8) -> bool {
        let state = if kept { Observation::Up } else { self.machine.observation(now.at, &self.target.check) };
        let (before, was_kept) = (self.shown.state, std::mem::replace(&mut self.kept, kept));
        let stepped = matches!((before, state), (Observation::Slow { .. }, Observation::Slow { .. }));
        if (state != before && !stepped) || kept != was_kept || self.shown.why.is_empty() {
            let label = self.target.check.probe.label();
            self.shown.since = now.unix;
            self.shown.why = match state {
                _ if kept => format!("kept by min_healthy = {percent}, though it fails: {}", self.failure),
                Observation::Down => self.failure.clone(),
                Observation::Slow { .. } => format!("back, gets its weight in steps: {label} is good"),
                Observation::Up if self.machine.phase() == Phase::Unknown => String::new(),
                Observation::Up => format!("{label} is good"),
            };
        }
        self.shown.state = state;
        state != before
    }
}

/// When a check follows one that was due at `due`: an interval later, give or take the jitter. Whoever is late keeps its place in the interval,
/// so that a pause of the controller does not bring all checks together.
fn next(random: &mut fastrand::Rng, check: &Check, due: Time, now: Time) -> Time {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let interval = nanos(check.interval).max(1);
    let missed = nanos(now - due) / interval;
    let spread = nanos(check.interval * u32::from(check.jitter) / 100);
    let moved = random.u64(0..=spread.saturating_mul(2));
    let at = due.0.saturating_add(interval.saturating_mul(missed + 1)).saturating_add(moved).saturating_sub(spread);
    Time(at).max(now)
}
