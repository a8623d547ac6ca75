//! Chaos from a seed: what a fleet must survive, in any order, one trouble after another and never more than one heir can stand.

use super::script::{Event, Head, Moment, Step};
use crate::link::Conditions;
use std::time::Duration;

/// How long a host stays in trouble, in milliseconds: shorter than a detection, and longer.
const TROUBLE: [u64; 4] = [50, 200, 1000, 3000];
/// How long after a trouble the fleet has seen it.
const SEEN: Duration = Duration::from_millis(400);

/// Servers forget when they die. Of a transfer three know: its owner and two heirs; curl asks servers to wait 6 s before they repeat a block, and in this time
/// tells nobody that it is there. So no more than two of them die within it.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Who may die.
struct Deaths<'a> {
    /// Hosts that are never killed: what chaos does to a program that lives on shows.
    kept: &'a [String],
    /// Backends that died, and when.
    recent: Vec<(Duration, String)>,
    /// The time since the beginning at which the next trouble comes.
    now: Duration,
}

impl Deaths<'_> {
    /// Whether this backend may die now; then it counts as dead.
    fn may(&mut self, backend: &str) -> bool {
        self.recent.retain(|(at, other)| *at + FORGOTTEN > self.now && other != backend);
        let may = self.recent.len() < 2 && !self.kept.iter().any(|host| host == backend);
        if may {
            self.recent.push((self.now, backend.to_owned()));
        }
        may
    }
}

/// So many troubles, each with its end. The same seed gives the same ones. Hosts of `kept` are never killed.
pub fn steps(head: &Head, count: u32, seed: u64, kept: &[String]) -> Vec<Step> {
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut deaths = Deaths { kept, recent: Vec::new(), now: Duration::ZERO };
    let mut steps = Vec::new();
    for _ in 0..count {
        let rest = Duration::from_millis(chance.u64(100..1500));
        deaths.now += rest;
        let before = steps.len();
        trouble(head, &mut chance, &mut deaths, rest, &mut steps);
        // The first step came after the rest, which is counted.
        deaths.now += steps[before..].iter().skip(1).map(Step::wait).sum::<Duration>();
    }
    steps
}

fn trouble(head: &Head, chance: &mut fastrand::Rng, deaths: &mut Deaths<'_>, rest: Duration, steps: &mut Vec<Step>) {
    let long = Duration::from_millis(TROUBLE[chance.usize(..TROUBLE.len())]);
    let director = format!("d{}", chance.u8(1..=head.directors));
    let backend = format!("t{}", chance.u8(1..=head.backends));
    let mut then = |after, events| steps.push(Step { at: Moment::After(after), events });
    match chance.u8(0..9) {
        0 if head.directors > 1 && !deaths.kept.contains(&director) => {
            then(rest, vec![Event::Kill(director.clone())]);
            then(SEEN, vec![Event::Down(director.clone()), Event::Reshuffle]);
            then(long, vec![Event::Start(director.clone()), Event::Up(director)]);
        }
        1 if head.takeover && deaths.may(&backend) => {
            then(rest, vec![Event::Kill(backend.clone())]);
            then(SEEN, vec![Event::Down(backend.clone())]);
            then(long, vec![Event::Start(backend.clone()), Event::Up(backend)]);
        }
        2 if head.takeover && deaths.may(&backend) => then(rest, vec![Event::Restart(backend, Duration::from_millis(chance.u64(10..200)))]),
        3 if head.takeover => {
            then(rest, vec![Event::Partition(backend.clone())]);
            then(SEEN, vec![Event::Down(backend.clone())]);
            then(long, vec![Event::Heal(backend.clone()), Event::Up(backend)]);
        }
        4 => {
            then(rest, vec![Event::Stop(backend.clone())]);
            then(long.min(Duration::from_secs(1)), vec![Event::Cont(backend)]);
        }
        5 => then(rest, vec![Event::Weight(backend, chance.u16(1..=300))]),
        6 if head.backends > 1 => {
            then(rest, vec![Event::Drain(backend.clone())]);
            then(long, vec![Event::Add(backend)]);
        }
        7 => {
            let bad = Conditions { loss: 0.03, duplicate: 0.02, reorder: 0.02, ..head.link };
            then(rest, vec![Event::Link(bad)]);
            then(long, vec![Event::Link(head.link)]);
        }
        _ => then(rest, vec![Event::ReloadBroken(director), Event::Reshuffle]),
    }
}
