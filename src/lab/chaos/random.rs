//! Chaos from a seed: what a fleet must survive, in any order, one trouble after another and never more than one successor can stand.

use super::script::{Event, ScriptConfig, ScriptStep, Trigger};
use crate::link::LinkConditions;
use std::time::Duration;

/// How long a host stays in trouble, in milliseconds: shorter than a detection, and longer.
const FAULT_DURATIONS_MS: [u64; 4] = [50, 200, 1000, 3000];
/// How long after a trouble the fleet has seen it.
const DETECTION_TIME: Duration = Duration::from_millis(400);

/// Servers forget when they die. Of a transfer three know: its owner and two successors; curl asks servers to wait 6 s before they repeat a block, and in this time
/// tells nobody that it is there. So no more than two of them die within it.
const STATE_LOSS_WINDOW: Duration = Duration::from_secs(10);

/// Who may die.
struct KillBudget<'a> {
    /// Hosts that are never killed: what chaos does to a program that lives on shows.
    protected: &'a [String],
    /// Backends that died, and when.
    recent: Vec<(Duration, String)>,
    /// The time since the beginning at which the next trouble comes.
    now: Duration,
}

impl KillBudget<'_> {
    /// Whether this backend may die now; then it counts as dead.
    fn try_kill(&mut self, backend: &str) -> bool {
        self.recent.retain(|(at, other)| *at + STATE_LOSS_WINDOW > self.now && other != backend);
        let may = self.recent.len() < 2 && !self.protected.iter().any(|host| host == backend);
        if may {
            self.recent.push((self.now, backend.to_owned()));
        }
        may
    }
}

/// So many troubles, each with its end. The same seed gives the same ones. Hosts of `protected` are never killed.
pub fn steps(config: &ScriptConfig, count: u32, seed: u64, protected: &[String]) -> Vec<ScriptStep> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut budget = KillBudget { protected, recent: Vec::new(), now: Duration::ZERO };
    let mut steps = Vec::new();
    for _ in 0..count {
        let rest = Duration::from_millis(rng.u64(100..1500));
        budget.now += rest;
        let before = steps.len();
        add_fault(config, &mut rng, &mut budget, rest, &mut steps);
        // The first step came after the rest, which is counted.
        budget.now += steps[before..].iter().skip(1).map(ScriptStep::wait).sum::<Duration>();
    }
    steps
}

fn add_fault(config: &ScriptConfig, rng: &mut fastrand::Rng, budget: &mut KillBudget<'_>, rest: Duration, steps: &mut Vec<ScriptStep>) {
    let long = Duration::from_millis(FAULT_DURATIONS_MS[rng.usize(..FAULT_DURATIONS_MS.len())]);
    let director = format!("d{}", rng.u8(1..=config.directors));
    let backend = format!("t{}", rng.u8(1..=config.backends));
    let mut then = |after, events| steps.push(ScriptStep { at: Trigger::After(after), events });
    match rng.u8(0..9) {
        0 if config.directors > 1 && !budget.protected.contains(&director) => {
            then(rest, vec![Event::Kill(director.clone())]);
            then(DETECTION_TIME, vec![Event::Down(director.clone()), Event::Reshuffle]);
            then(long, vec![Event::Start(director.clone()), Event::Up(director)]);
        }
        1 if config.takeover && budget.try_kill(&backend) => {
            then(rest, vec![Event::Kill(backend.clone())]);
            then(DETECTION_TIME, vec![Event::Down(backend.clone())]);
            then(long, vec![Event::Start(backend.clone()), Event::Up(backend)]);
        }
        2 if config.takeover && budget.try_kill(&backend) => {
            then(rest, vec![Event::Restart(backend, Duration::from_millis(rng.u64(10..200)))])
        }
        3 if config.takeover => {
            then(rest, vec![Event::Partition(backend.clone())]);
            then(DETECTION_TIME, vec![Event::Down(backend.clone())]);
            then(long, vec![Event::Heal(backend.clone()), Event::Up(backend)]);
        }
        4 => {
            then(rest, vec![Event::Stop(backend.clone())]);
            then(long.min(Duration::from_secs(1)), vec![Event::Cont(backend)]);
        }
        5 => then(rest, vec![Event::Weight(backend, rng.u16(1..=300))]),
        6 if config.backends > 1 => {
            then(rest, vec![Event::Drain(backend.clone())]);
            then(long, vec![Event::Add(backend)]);
        }
        7 => {
            let bad = LinkConditions { loss: 0.03, duplicate: 0.02, reorder: 0.02, ..config.link };
            then(rest, vec![Event::Link(bad)]);
            then(long, vec![Event::Link(config.link)]);
        }
        _ => then(rest, vec![Event::ReloadBroken(director), Event::Reshuffle]),
    }
}
