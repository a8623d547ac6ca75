use super::*;
use crate::outcome::Failure;
use guideway_config::{Intent, read_intent};
use guideway_store::{PoolHealth, Seen, Set};
use guideway_testbed::exposition::parse;
use proptest::prelude::*;

/// A controller with the store that it writes, and a clock that goes only here.
pub(super) struct World {
    pub(super) controller: Controller,
    seen: Seen,
    pub(super) now: Moment,
    /// Backends that fail, by name.
    pub(super) bad: Vec<&'static str>,
    /// What was written, and when in milliseconds.
    written: Vec<(u64, String, PoolHealth)>,
    store_is_away: bool,
    pub(super) checked: BTreeMap<String, u64>,
}

pub(super) fn intent(check: &str, backends: &[&str]) -> Intent {
    let backend = |(index, text): (usize, &&str)| {
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = if rest.contains("address") { format!(", {rest}") } else { format!(", address = \"10.0.2.{}\" {rest}", index + 1) };
        format!("{{ name = \"{name}\"{rest} }},")
    };
    let backends: String = backends.iter().enumerate().map(backend).collect();
    let text = format!("[[pool]]\nname = \"boot\"\n{check}\nbackends = [{backends}]\n");
    read_intent(&text).config.unwrap_or_else(|| panic!("{text}"))
}

const CHECK: &str = "check = { kind = \"tcp\", port = 80, interval = \"1s\", min_healthy = 0, slow_start = \"9s\" }";

impl World {
    pub(super) fn new(intent: Intent, leading: bool) -> World {
        let set = Set { generation: 1, intent_generation: 1, intent: Arc::new(intent), health: Health::new() };
        let mut world = World {
            controller: Controller::new(100, 7),
            seen: Seen { set: Arc::new(set), trouble: None },
            now: Moment { at: Time(0), unix: 1_000_000 },
            bad: Vec::new(),
            written: Vec::new(),
            store_is_away: false,
            checked: BTreeMap::new(),
        };
        world.controller.set(world.now, &world.seen);
        world.controller.lead(world.now, leading);
        world
    }

    fn milliseconds(&self) -> u64 {
        self.now.at.0 / 1_000_000
    }

    /// Lets time pass, from one thing to do to the next.
    pub(super) fn pass(&mut self, milliseconds: u64) {
        let end = self.now.at.plus(Duration::from_millis(milliseconds));
        loop {
            self.work();
            match self.controller.deadline().filter(|at| *at <= end) {
                Some(at) => {
                    assert!(at > self.now.at, "something is due and not done");
                    self.at(at);
                }
                None => return self.at(end),
            }
        }
    }

    fn at(&mut self, at: Time) {
        self.now = Moment { at, unix: 1_000_000 + at.seconds() };
    }

    fn work(&mut self) {
        self.controller.expire(self.now);
        while let Some(job) = self.controller.due(self.now) {
            *self.checked.entry(job.target.backend.to_string()).or_default() += 1;
            let outcome = match self.bad.iter().any(|bad| *bad == &*job.target.backend) {
                true => Outcome::Failed(Failure::Silent("nothing came".into())),
                false => Outcome::Good,
            };
            self.controller.done(self.now, job.id, outcome, Duration::from_millis(1));
        }
        for (pool, health) in self.controller.publish(self.now) {
            if self.store_is_away {
                self.controller.published(self.now, &pool, health, Err("away".into()));
                continue;
            }
            self.written.push((self.milliseconds(), pool.to_string(), health.clone()));
            let mut set = (*self.seen.set).clone();
            set.generation += 1;
            set.health.insert(pool.to_string(), Arc::new(health.clone()));
            self.seen.set = Arc::new(set);
            self.controller.published(self.now, &pool, health, Ok(()));
            self.controller.set(self.now, &self.seen);
        }
    }

    fn intend(&mut self, intent: Intent) {
        let mut set = (*self.seen.set).clone();
        set.intent = Arc::new(intent);
        self.seen.set = Arc::new(set);
        self.controller.set(self.now, &self.seen);
    }

    /// What the store says of a backend.
    fn stored(&self, backend: &str) -> Option<Observed> {
        self.seen.set.health.get("boot")?.backends.get(backend).cloned()
    }

    pub(super) fn state(&self, backend: &str) -> Observation {
        self.seen.set.health.get("boot").map_or(Observation::Up, |pool| pool.of(backend))
    }

    fn status(&self, backend: &str) -> serde_json::Value {
        let status = self.controller.to_json();
        status["backends"].as_array().unwrap().iter().find(|b| b["name"] == backend).unwrap().clone()
    }
}

#[test]
fn a_backend_falls_and_comes_back_slowly_and_the_store_is_told() {
    let mut world = World::new(intent(CHECK, &["t1", "t2"]), true);
    world.pass(4000);
    assert_eq!(world.written.len(), 1, "that all are up is told once, together: {:?}", world.written);
    let up = world.stored("t1").unwrap();
    assert_eq!((up.state, up.why.as_str()), (Observation::Up, "tcp 80 is good"));
    world.bad = vec!["t1"];
    world.pass(3500);
    let down = world.stored("t1").unwrap();
    assert_eq!((down.state, down.why.as_str()), (Observation::Down, "silent: nothing came"));
    assert!(down.since >= up.since && world.state("t2") == Observation::Up);
    world.bad.clear();
    world.written.clear();
    world.pass(16_000);
    let seen: Vec<Observation> = world.written.iter().map(|(_, _, health)| health.of("t1")).collect();
    let steps: Vec<Observation> = (1..=9).map(|step| Observation::Slow { percent: 10 * step }).chain([Observation::Up]).collect();
    assert_eq!(seen, steps);
    let since: Vec<u64> = world.written[..9].iter().map(|(_, _, health)| health.backends["t1"].since).collect();
    assert!(since.iter().all(|at| *at == since[0]), "a step is no new beginning: {since:?}");
    let samples = parse(&{
        let mut out = guideway_daemon::metrics::Exposition::default();
        world.controller.metrics(&mut out);
        out.finish()
    });
    assert_eq!((samples["guideway_health_falls_total"], samples["guideway_health_returns_total"]), (1.0, 1.0));
    assert_eq!(samples["guideway_health_backend_share{pool=\"boot\",backend=\"t1\"}"], 1.0);
    assert!(samples["guideway_health_checks_total{outcome=\"silent\"}"] >= 3.0);
}

#[test]
fn changes_close_to_one_another_are_written_together() {
    let names: Vec<String> = (0..50).map(|index| format!("t{index}")).collect();
    let names: Vec<&'static str> = names.into_iter().map(|name| &*name.leak()).collect();
    let quick = "check = { kind = \"tcp\", port = 80, interval = \"100ms\", min_healthy = 0, fall = 1, jitter = 0 }";
    let mut world = World::new(intent(quick, &names), true);
    world.pass(5000);
    world.written.clear();
    world.bad = names;
    let since = world.milliseconds();
    world.pass(1000);
    let times: Vec<u64> = world.written.iter().map(|(at, _, _)| at - since).collect();
    assert!((2..=4).contains(&times.len()), "all fall within 100 ms: {times:?}");
    assert!(times[0] <= 10, "the first at once: {times:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 50), "{times:?}");
}

#[test]
fn what_the_store_did_not_take_is_written_when_it_is_back() {
    let mut world = World::new(intent(CHECK, &["t1", "t2"]), true);
    world.store_is_away = true;
    world.bad = vec!["t1"];
    world.pass(60_000);
    let failed = world.controller.to_json()["publishing"]["failed"].as_u64().unwrap();
    assert!((10..40).contains(&failed), "{failed} attempts in a minute");
    world.store_is_away = false;
    world.pass(5001);
    assert_eq!((world.state("t1"), world.state("t2")), (Observation::Down, Observation::Up));
    assert_eq!(world.controller.to_json()["publishing"]["waiting"], 0);
}

#[test]
fn a_leader_mends_what_the_store_says_otherwise() {
    let mut world = World::new(intent(CHECK, &["t1", "t2"]), true);
    world.bad = vec!["t1"];
    world.pass(6000);
    assert_eq!(world.state("t1"), Observation::Down);
    let down = world.seen.set.health["boot"].clone();
    let mut up = (*down).clone();
    up.backends.get_mut("t1").unwrap().state = Observation::Up;
    // A publication that was given up is carried out late; somebody deletes the key; one of a pool that is not checked comes back.
    for (pool, health) in [("boot", Some(Arc::new(up))), ("boot", None), ("gone", Some(down.clone()))] {
        let mut set = (*world.seen.set).clone();
        set.generation += 1;
        match health {
            Some(health) => drop(set.health.insert(pool.to_owned(), health)),
            None => drop(set.health.remove(pool)),
        }
        world.seen.set = Arc::new(set);
        world.written.clear();
        world.controller.set(world.now, &world.seen);
        world.pass(3000);
        assert_eq!((world.written.len(), world.seen.set.health.get("boot")), (1, Some(&down)), "{pool}: {:?}", world.written);
    }
    assert_eq!(*world.seen.set.health["gone"], PoolHealth::default());
}

#[test]
fn who_stays_keeps_its_state_and_who_goes_is_forgotten() {
    let mut world = World::new(intent(CHECK, &["t1", "t2", "t3"]), true);
    world.bad = vec!["t1", "t3"];
    world.pass(5000);
    assert_eq!([world.state("t1"), world.state("t3")], [Observation::Down; 2]);
    let (checks, failed) = (world.status("t1")["checks"].clone(), world.status("t1")["failed_in_a_row"].clone());
    world.intend(intent(CHECK, &["t1", "t2", "t4 address = \"10.0.2.9\""]));
    assert_eq!((&world.status("t1")["checks"], &world.status("t1")["failed_in_a_row"]), (&checks, &failed));
    world.pass(3000);
    assert_eq!((world.state("t1"), world.stored("t3"), world.state("t4")), (Observation::Down, None, Observation::Up));
    assert_eq!(world.controller.backends(), 3);
    // Another check counts anew, and leaves who is down down until it says otherwise.
    world.intend(intent(&CHECK.replace("80", "81"), &["t1", "t2", "t4 address = \"10.0.2.9\""]));
    assert_eq!((&world.status("t1")["failed_in_a_row"], &world.status("t1")["state"]), (&0.into(), &"down".into()));
    // Another address is another machine, judged by its first check.
    world.bad = Vec::new();
    world.intend(intent(&CHECK.replace("80", "81"), &["t1 address = \"10.0.2.99\"", "t2"]));
    world.pass(1200);
    assert_eq!(world.status("t1")["failed"], 0);
    // A pool that is no longer checked has no backend down.
    world.bad = vec!["t1"];
    world.pass(5000);
    assert_eq!(world.state("t1"), Observation::Down);
    world.intend(intent("", &["t1 address = \"10.0.2.99\"", "t2"]));
    world.pass(100);
    assert_eq!(world.controller.backends(), 0);
    assert_eq!(*world.seen.set.health["boot"], PoolHealth::default());
}

#[test]
fn the_floor_holds_those_that_fell_last_and_is_loud() {
    let check = CHECK.replace("min_healthy = 0", "min_healthy = 50");
    let mut world = World::new(intent(&check, &["t1", "t2", "t3", "t4", "t5 , drain = true"]), true);
    world.pass(3000);
    for (name, down) in [("t1", 1), ("t2", 2), ("t3", 2), ("t4", 2)] {
        world.bad.push(name);
        world.pass(5000);
        let count = ["t1", "t2", "t3", "t4"].iter().filter(|name| world.state(name) == Observation::Down).count();
        assert_eq!(count, down, "after {name}");
    }
    assert_eq!([world.state("t3"), world.state("t4")], [Observation::Up; 2]);
    let kept = world.stored("t4").unwrap();
    assert!(kept.why.starts_with("kept by min_healthy = 50, though it fails: silent"), "{kept:?}");
    let pool = world.controller.to_json()["pools"][0].clone();
    assert_eq!((&pool["floor"], &pool["kept"], &pool["failing"]), (&true.into(), &2.into(), &4.into()));
    // One returns in its slow start, and one less is held.
    world.bad.retain(|name| *name != "t1");
    world.pass(3000);
    assert!(matches!(world.state("t1"), Observation::Slow { .. }));
    assert_eq!([world.state("t2"), world.state("t3"), world.state("t4")], [Observation::Down, Observation::Down, Observation::Up]);
}

#[test]
fn a_standby_follows_and_takes_over_without_a_flap() {
    let check = CHECK.replace("min_healthy = 0", "min_healthy = 50");
    let backends = ["t1", "t2", "t3", "t4"];
    let mut leader = World::new(intent(&check, &backends), true);
    let mut standby = World::new(intent(&check, &backends), false);
    let follow = |leader: &World, standby: &mut World| {
        standby.seen = leader.seen.clone();
        standby.controller.set(standby.now, &standby.seen);
    };
    for (bad, time) in [(&[][..], 4000), (&["t2"], 5000), (&["t2", "t3", "t4"], 5000)] {
        (leader.bad, standby.bad) = (bad.to_vec(), bad.to_vec());
        for _ in 0..time / 100 {
            leader.pass(100);
            standby.pass(100);
            follow(&leader, &mut standby);
        }
    }
    assert!(standby.written.is_empty() && standby.checked["t1"] > 10, "it checks, and writes nothing");
    let shown = |world: &World| backends.map(|name| world.state(name));
    let before = shown(&leader);
    assert_eq!(before[..2], [Observation::Up, Observation::Down]);
    assert!(before[2] != before[3], "one of the two that fell last is held: {before:?}");
    standby.controller.lead(standby.now, true);
    standby.pass(20_000);
    assert!(standby.written.iter().all(|(_, _, health)| backends.map(|name| health.of(name)) == before), "{:?}", standby.written);
    // What fell with the old leader is seen by the next check: it was counted all the time.
    let mut late = World::new(intent(&check, &backends), false);
    late.seen = leader.seen.clone();
    late.controller.set(late.now, &late.seen);
    late.bad = vec!["t1", "t2", "t3"];
    late.pass(5000);
    late.controller.lead(late.now, true);
    late.pass(1200);
    assert!(late.state("t1") == Observation::Down || late.status("t1")["kept"] == true, "{:?}", late.status("t1"));
}

#[test]
fn a_restarted_controller_begins_with_what_it_published() {
    let mut first = World::new(intent(CHECK, &["t1", "t2"]), true);
    first.bad = vec!["t1"];
    first.pass(4000);
    let mut second = World::new(Intent::default(), false);
    second.seen = first.seen.clone();
    second.controller.set(second.now, &second.seen);
    second.controller.lead(second.now, true);
    second.bad = vec!["t1"];
    second.pass(10_000);
    assert!(second.written.is_empty(), "{:?}", second.written);
    assert_eq!(second.status("t1")["since"], first.stored("t1").unwrap().since);
}

#[test]
fn checks_are_spread_bounded_and_late_ones_keep_their_place() {
    let names: Vec<String> = (0..200).map(|index| format!("t{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::new(intent(&CHECK.replace("port = 80", "port = 80, jitter = 0"), &names), true);
    world.controller.concurrency = 10;
    world.at(Time(3_000_000_000));
    let jobs: Vec<Job> = std::iter::from_fn(|| world.controller.due(world.now)).collect();
    assert_eq!(jobs.len(), 10);
    assert!(world.controller.publish(world.now).is_empty());
    assert!(world.controller.deadline().is_none_or(|at| at > world.now.at), "full: nothing to be done before an outcome");
    for job in jobs {
        world.controller.done(world.now, job.id, Outcome::Good, Duration::ZERO);
    }
    world.controller.concurrency = 1000;
    world.work();
    // All were late, and are spread over the interval again.
    let mut dues: Vec<u64> = world.controller.backends.values().map(|w| w.due.0 - 3_000_000_000).collect();
    dues.sort_unstable();
    let quarter = |from: u64| dues.iter().filter(|due| (from..from + 250_000_000).contains(*due)).count();
    assert_eq!((0..4).map(|q| quarter(q * 250_000_000)).sum::<usize>(), 200, "within an interval");
    assert!(
        (0..4).all(|q| (25..=75).contains(&quarter(q * 250_000_000))),
        "{:?}",
        (0..4).map(|q| quarter(q * 250_000_000)).collect::<Vec<_>>()
    );
    world.pass(10_000);
    assert!(world.checked.values().all(|count| (10..=12).contains(count)), "{:?}", world.checked.values());
}

#[test]
fn a_check_that_cannot_be_made_counts_for_nothing() {
    let mut world = World::new(intent(CHECK, &["t1"]), true);
    for _ in 0..10 {
        let at = world.controller.deadline().unwrap();
        world.at(at);
        while let Some(job) = world.controller.due(world.now) {
            world.controller.done(world.now, job.id, Outcome::NotMade("too many open files".into()), Duration::ZERO);
        }
    }
    assert_eq!((world.state("t1"), &world.status("t1")["last"]["outcome"]), (Observation::Up, &"not_made".into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_the_store_ends_with_what_the_controller_shows_and_the_floor_holds(
        events in proptest::collection::vec((0u8..7, 0usize..6, 1u64..4000), 1..40),
    ) {
        const NAMES: [&str; 6] = ["t0", "t1", "t2", "t3", "t4", "t5"];
        let check = CHECK.replace("min_healthy = 0", "min_healthy = 50, hold = \"2s\", rise = 1");
        let mut world = World::new(intent(&check, &NAMES), true);
        for (what, which, time) in events {
            match what {
                0 => world.bad.retain(|name| *name != NAMES[which]),
                1 | 2 => world.bad.push(NAMES[which]),
                3 => world.store_is_away = !world.store_is_away,
                4 => world.intend(intent(&check, &NAMES[..=which])),
                5 => world.intend(intent(&check.replace("80", &which.to_string().replace('0', "9")), &NAMES)),
                _ => world.intend(intent(&check, &NAMES)),
            }
            world.pass(time);
            // What it would publish; the store may be away, and learn of it later.
            let (names, health) = (world.seen.set.intent.pools[0].backends.len(), world.controller.health());
            let down = health["boot"].backends.values().filter(|seen| seen.state == Observation::Down).count();
            prop_assert!(2 * down <= names, "{health:?}");
        }
        world.store_is_away = false;
        world.pass(20_000);
        prop_assert_eq!(&world.seen.set.health, &world.controller.health());
        prop_assert_eq!(world.controller.in_flight, 0);
    }
}
