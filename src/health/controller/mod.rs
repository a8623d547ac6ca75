//! The controller of all pools, without I/O: decides which check is due, what follows from a result, and what to publish when.
//!
//! One queue, ordered by time, holds all backends. A backend costs a few hundred bytes and no thread, task or timer. Checks start spread
//! over the interval and keep their rhythm: a late check does not delay later ones.

mod pending;
mod publish;
mod status;
mod suspicion;
mod update;

#[cfg(test)]
mod tests;

use super::floor::{self, Member};
use super::outcome::Outcome;
use super::probe::Target;
use super::state_machine::{BackendMachine, Change, Phase};
use guideway_config::{Check, Intent};
use guideway_packet::time::Time;
use guideway_store::{Health, Observation, Observed, Stale};
use pending::Pending;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The current time by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time for intervals.
    pub at: Time,
    /// Seconds since 1970-01-01 UTC, for operators.
    pub unix: u64,
}

/// A check that must be made now.
#[derive(Clone, Debug)]
pub struct Job {
    /// Must be returned with the result.
    pub id: u64,
    /// The target of the check.
    pub target: Target,
}

/// The state of a controller.
#[derive(Debug)]
pub struct Controller {
    pools: BTreeMap<Arc<str>, Pool>,
    /// Backends by an id that is never reused for another backend or another check.
    backends: HashMap<u64, CheckedBackend>,
    next_id: u64,
    /// Times at which checks and slow start steps are due. Outdated entries are skipped.
    due: BinaryHeap<Reverse<(Time, u64)>>,
    steps: BinaryHeap<Reverse<(Time, u64)>>,
    in_flight: usize,
    concurrency: usize,
    leading: bool,
    intent: Option<Arc<Intent>>,
    /// The health in the store.
    published: Health,
    generation: u64,
    stale: Option<Stale>,
    pending: BTreeMap<Arc<str>, Pending>,
    counts: Counts,
    random: fastrand::Rng,
}

/// A checked pool.
#[derive(Debug)]
struct Pool {
    check: Arc<Check>,
    vip: Option<IpAddr>,
    /// Its backends by name.
    backends: BTreeMap<Arc<str>, u64>,
    /// Number of backends that are down but held up by the floor.
    held_up: usize,
}

/// A checked backend.
#[derive(Debug)]
struct CheckedBackend {
    target: Target,
    /// Whether it takes new flows when it is up.
    takes_new_flows: bool,
    machine: BackendMachine,
    due: Time,
    running: bool,
    /// Time of its last early check because of a suspicion.
    expedited: Option<Time>,
    last: Option<LastCheck>,
    /// The last failure.
    failure: String,
    /// Checks in a row that could not be made.
    not_run: u32,
    shown: Observed,
    /// Down, but published as up because of the pool's floor.
    held_up: bool,
    checks: u64,
    failed: u64,
}

/// The last check of a backend.
#[derive(Clone, Debug)]
struct LastCheck {
    outcome: Outcome,
    took: Duration,
    unix: u64,
}

/// Counters over all backends.
#[derive(Clone, Debug, Default)]
struct Counts {
    /// By the index in [`Outcome::NAMES`].
    outcomes: [u64; Outcome::NAMES.len()],
    went_down: u64,
    came_up: u64,
    published: u64,
    refused: u64,
    /// Early checks because of a suspicion.
    expedited: u64,
    /// Number of finished checks, and the time of the last reading.
    ended: u64,
    mark: (Time, u64),
    per_second: f64,
    /// Earliest time of the next log message about a check that could not be made.
    next_log: Time,
    /// Delay of the last check.
    behind: Duration,
}

/// Minimum time between log messages about checks that could not be made.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Time over which checks per second are measured.
const RATE_WINDOW: Duration = Duration::from_secs(5);

impl Controller {
    /// Creates a controller without pools. At most `concurrency` checks run at a time; `seed` spreads them.
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
            stale: None,
            pending: BTreeMap::new(),
            counts: Counts::default(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Returns the next due check, if there is room for it. Must be called until it returns `None`.
    pub fn due(&mut self, now: Moment) -> Option<Job> {
        while self.in_flight < self.concurrency {
            let Reverse((at, id)) = *self.due.peek().filter(|Reverse((at, _))| *at <= now.at)?;
            self.due.pop();
            let Some(checked_backend) =
                self.backends.get_mut(&id).filter(|checked_backend| checked_backend.due == at && !checked_backend.running)
            else {
                continue;
            };
            checked_backend.running = true;
            self.in_flight += 1;
            self.counts.behind = now.at - at;
            return Some(Job { id, target: checked_backend.target.clone() });
        }
        None
    }

    /// Takes the result of a check and its duration.
    pub fn done(&mut self, now: Moment, id: u64, outcome: Outcome, took: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.counts.outcomes[outcome.index()] += 1;
        self.counts.count(now.at);
        // A removed backend, or one with a new check, has another id.
        let Some(checked_backend) = self.backends.get_mut(&id) else { return };
        checked_backend.running = false;
        checked_backend.checks += 1;
        let check = checked_backend.target.check.clone();
        checked_backend.due = next(&mut self.random, &check, checked_backend.due, now.at);
        self.due.push(Reverse((checked_backend.due, id)));
        let was_unknown = checked_backend.is_unknown();
        let change = match outcome.passed() {
            None => {
                checked_backend.not_run = checked_backend.not_run.saturating_add(1);
                // A failure on this host affects thousands of checks.
                if now.at >= self.counts.next_log {
                    self.counts.next_log = now.at.plus(LOG_INTERVAL);
                    tracing::error!(pool = %checked_backend.target.pool, backend = %checked_backend.target.backend, "{outcome}");
                }
                None
            }
            Some(passed) => {
                checked_backend.not_run = 0;
                if !passed {
                    checked_backend.failed += 1;
                    checked_backend.failure = outcome.to_string();
                }
                let change = if self.leading {
                    checked_backend.machine.outcome(now.at, &check, passed)
                } else {
                    checked_backend.count_only(now, passed)
                };
                let slow = checked_backend.machine.deadline(now.at, &check).filter(|_| change == Some(Change::CameUp));
                self.steps.extend(slow.map(|next| Reverse((next, id))));
                change
            }
        };
        checked_backend.last = Some(LastCheck { outcome, took, unix: now.unix });
        let pool = checked_backend.target.pool.clone();
        let unknown_changed = self.leading && was_unknown != checked_backend.is_unknown();
        if let Some(change) = change {
            checked_backend.log_change(change);
            match change {
                Change::WentDown => self.counts.went_down += 1,
                Change::CameUp => self.counts.came_up += 1,
                Change::FirstGood | Change::WeightStep => {}
            }
        }
        if change.is_some() || unknown_changed {
            self.refresh(now, &pool);
        }
    }

    /// Acts on time: continues slow starts. Nothing happens before [`Controller::deadline`].
    pub fn expire(&mut self, now: Moment) {
        while let Some(Reverse((at, id))) = self.steps.peek().copied().filter(|Reverse((at, _))| *at <= now.at) {
            self.steps.pop();
            let Some(checked_backend) = self.backends.get_mut(&id) else { continue };
            let check = checked_backend.target.check.clone();
            let before = checked_backend.shown.state;
            let changed = checked_backend.machine.expire(now.at, &check, before);
            if let Some(next) = checked_backend.machine.deadline(now.at, &check).filter(|next| *next > at) {
                self.steps.push(Reverse((next, id)));
            }
            if changed.is_some() {
                let pool = checked_backend.target.pool.clone();
                self.refresh(now, &pool);
            }
        }
    }

    /// Returns the time of the next action: a check, a step of a slow start, a publication. `None`: there is none.
    pub fn deadline(&self) -> Option<Time> {
        let head = |queue: &BinaryHeap<Reverse<(Time, u64)>>| queue.peek().map(|Reverse((at, _))| *at);
        let due = head(&self.due).filter(|_| self.in_flight < self.concurrency);
        [due, head(&self.steps), self.next_publish()].into_iter().flatten().min()
    }

    /// Returns whether this controller publishes.
    pub fn leading(&self) -> bool {
        self.leading
    }

    /// Returns the number of checked backends.
    pub fn backends(&self) -> usize {
        self.backends.len()
    }

    /// Updates a pool after a change: its floor and the published states of its backends.
    fn refresh(&mut self, now: Moment, name: &Arc<str>) {
        let Some(pool) = self.pools.get_mut(name) else { return };
        let ids: Vec<u64> = pool.backends.values().copied().collect();
        let member = |id: &u64| {
            let checked_backend = self.backends.get(id)?;
            let down = match checked_backend.machine.phase() {
                Phase::Down(since) => Some(since),
                Phase::Unknown | Phase::Up | Phase::Slow(_) => None,
            };
            Some(Member { down, takes_new_flows: checked_backend.takes_new_flows })
        };
        let members: Vec<Member> = ids.iter().filter_map(member).collect();
        // A standby shows the health that the leader publishes.
        let held_up = if self.leading { floor::held_up(&members, pool.check.min_healthy) } else { Vec::new() };
        let before = std::mem::replace(&mut pool.held_up, held_up.len());
        let (down, of) = (
            members.iter().filter(|m| m.takes_new_flows && m.down.is_some()).count(),
            members.iter().filter(|m| m.takes_new_flows).count(),
        );
        let percent = pool.check.min_healthy;
        if held_up.len() > before {
            let message = "floor holds failing backends up; verify the check and the path to the backends";
            tracing::error!(pool = %name, failing = down, of, held_up = held_up.len(), min_healthy = percent, "{message}");
        } else if held_up.is_empty() && before > 0 {
            tracing::warn!(pool = %name, failing = down, of, "floor holds no backend up any more");
        }
        let mut changed = false;
        for (index, id) in ids.iter().enumerate() {
            if let Some(checked_backend) = self.backends.get_mut(id) {
                changed |= checked_backend.update_shown(now, held_up.contains(&index), percent, self.leading);
            }
        }
        self.schedule_publish(now, name, changed);
    }
}

impl Counts {
    fn count(&mut self, now: Time) {
        self.ended += 1;
        let (since, ended) = self.mark;
        let passed = now - since;
        let first = since == Time(0);
        if passed >= RATE_WINDOW || first && passed >= RATE_WINDOW / 5 {
            self.per_second = (self.ended - ended) as f64 / passed.as_secs_f64();
        }
        if passed >= RATE_WINDOW {
            self.mark = (now, self.ended);
        }
    }
}

impl CheckedBackend {
    /// Counts a change; decides nothing.
    fn count_only(&mut self, now: Moment, passed: bool) -> Option<Change> {
        self.machine.count(now.at, passed);
        None
    }

    fn log_change(&self, change: Change) {
        let (pool, backend, address) = (&self.target.pool, &self.target.backend, self.target.address);
        match change {
            Change::WentDown => tracing::warn!(%pool, %backend, %address, reason = %self.failure, "backend down"),
            Change::CameUp => tracing::info!(%pool, %backend, %address, "backend up"),
            Change::FirstGood | Change::WeightStep => {}
        }
    }

    /// Returns whether so many checks in a row could not be made that nobody knows whether the backend works.
    fn is_unknown(&self) -> bool {
        self.not_run >= u32::from(self.target.check.fall)
    }

    /// Returns why no check could be made, and the state that stands meanwhile.
    fn unknown_because(&self) -> String {
        let why = self.last.as_ref().map_or_else(|| "not checked yet".to_owned(), |last| last.outcome.to_string());
        match self.machine.phase() {
            Phase::Unknown => why,
            Phase::Up | Phase::Slow(_) => format!("{why}; up when it was last checked"),
            Phase::Down(_) => format!("{why}; down when it was last checked: {}", self.failure),
        }
    }

    /// Updates the published state; returns whether directors would see a difference.
    fn update_shown(&mut self, now: Moment, held_up: bool, percent: u8, leading: bool) -> bool {
        let state = if held_up { Observation::Up } else { self.machine.observation(now.at, &self.target.check) };
        let (before, was_held_up) = (self.shown.state, std::mem::replace(&mut self.held_up, held_up));
        let unknown = if leading { self.is_unknown() } else { self.shown.unknown };
        let unknown_changed = std::mem::replace(&mut self.shown.unknown, unknown) != unknown;
        let stepped = matches!((before, state), (Observation::Slow { .. }, Observation::Slow { .. }));
        if (state != before && !stepped) || held_up != was_held_up || unknown_changed || self.shown.why.is_empty() {
            let label = self.target.check.probe.label();
            self.shown.since = now.unix;
            self.shown.why = match state {
                _ if unknown => self.unknown_because(),
                _ if held_up => format!("held up by min_healthy = {percent}, although it fails: {}", self.failure),
                Observation::Down => self.failure.clone(),
                Observation::Slow { .. } => format!("recovered, in slow start: {label} passes"),
                Observation::Up if self.machine.phase() == Phase::Unknown => String::new(),
                Observation::Up => format!("{label} passes"),
            };
        }
        self.shown.state = state;
        state != before
    }
}

/// Returns the time of the next check after one that was due at `due`: an interval later, plus or minus the jitter. A late check keeps its
/// place in the interval, so that a pause of the controller does not bring all checks together.
fn next(random: &mut fastrand::Rng, check: &Check, due: Time, now: Time) -> Time {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let interval = nanos(check.interval).max(1);
    let missed = nanos(now - due) / interval;
    let spread = nanos(check.interval * u32::from(check.jitter) / 100);
    let moved = random.u64(0..=spread.saturating_mul(2));
    let at = due.0.saturating_add(interval.saturating_mul(missed + 1)).saturating_add(moved).saturating_sub(spread);
    Time(at).max(now)
}
