use super::*;
use crate::outcome::Failure;
use guideway_config::{Intent, read_intent};
use guideway_store::{ClusterState, PoolHealth, StoreView};
use guideway_testbed::exposition::parse;
use proptest::prelude::*;

/// A controller with its store, and a clock that only this fixture moves.
pub(super) struct Fixture {
    pub(super) controller: Controller,
    view: StoreView,
    pub(super) now: Moment,
    /// Names of failing backends.
    pub(super) bad: Vec<&'static str>,
    /// The written health, with times in milliseconds.
    written: Vec<(u64, String, PoolHealth)>,
    store_is_away: bool,
    /// Whether this host has no way to the backends.
    unreachable: bool,
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

impl Fixture {
    pub(super) fn new(intent: Intent, leading: bool) -> Fixture {
        let cluster = ClusterState { generation: 1, intent_generation: 1, intent: Arc::new(intent), ..ClusterState::default() };
        let mut fixture = Fixture {
            controller: Controller::new(100, 7),
            view: StoreView { cluster: Arc::new(cluster), stale: None },
            now: Moment { at: Time(0), unix: 1_000_000 },
            bad: Vec::new(),
            written: Vec::new(),
            store_is_away: false,
            unreachable: false,
            checked: BTreeMap::new(),
        };
        fixture.controller.update_state(fixture.now, &fixture.view);
        fixture.controller.set_leading(fixture.now, leading);
        fixture
    }

    fn milliseconds(&self) -> u64 {
        self.now.at.0 / 1_000_000
    }

    /// Advances time from one action to the next.
    pub(super) fn pass(&mut self, milliseconds: u64) {
        let end = self.now.at.plus(Duration::from_millis(milliseconds));
        loop {
            self.work();
            match self.controller.deadline().filter(|at| *at <= end) {
                Some(at) => {
                    assert!(at > self.now.at, "an action is due and was not taken");
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
                _ if self.unreachable => Outcome::NotRun("Network is unreachable".into()),
                true => Outcome::Failed(Failure::Timeout("no answer".into())),
                false => Outcome::Passed,
            };
            self.controller.done(self.now, job.id, outcome, Duration::from_millis(1));
        }
        for (pool, health) in self.controller.publish(self.now) {
            if self.store_is_away {
                self.controller.published(self.now, &pool, health, Err("away".into()));
                continue;
            }
            self.written.push((self.milliseconds(), pool.to_string(), health.clone()));
            let mut cluster = (*self.view.cluster).clone();
            cluster.generation += 1;
            cluster.health.insert(pool.to_string(), Arc::new(health.clone()));
            self.view.cluster = Arc::new(cluster);
            self.controller.published(self.now, &pool, health, Ok(()));
            self.controller.update_state(self.now, &self.view);
        }
    }

    fn intend(&mut self, intent: Intent) {
        let mut cluster = (*self.view.cluster).clone();
        cluster.intent = Arc::new(intent);
        self.view.cluster = Arc::new(cluster);
        self.controller.update_state(self.now, &self.view);
    }

    /// Returns the state of a backend in the store.
    fn stored(&self, backend: &str) -> Option<Observed> {
        self.view.cluster.health.get("boot")?.backends.get(backend).cloned()
    }

    pub(super) fn state(&self, backend: &str) -> Observation {
        self.view.cluster.health.get("boot").map_or(Observation::Up, |pool| pool.of(backend))
    }

    fn status(&self, backend: &str) -> serde_json::Value {
        let status = serde_json::to_value(self.controller.document()).unwrap();
        status["backends"].as_array().unwrap().iter().find(|b| b["name"] == backend).unwrap().clone()
    }
}

#[test]
fn a_backend_falls_and_recovers_slowly_and_both_are_published() {
    let mut fixture = Fixture::new(intent(CHECK, &["t1", "t2"]), true);
    fixture.pass(4000);
    assert_eq!(fixture.written.len(), 1, "that all are up is published once, together: {:?}", fixture.written);
    let up = fixture.stored("t1").unwrap();
    assert_eq!((up.state, up.why.as_str()), (Observation::Up, "tcp 80 passes"));
    fixture.bad = vec!["t1"];
    fixture.pass(3500);
    let down = fixture.stored("t1").unwrap();
    assert_eq!((down.state, down.why.as_str()), (Observation::Down, "timeout: no answer"));
    assert!(down.since >= up.since && fixture.state("t2") == Observation::Up);
    fixture.bad.clear();
    fixture.written.clear();
    fixture.pass(16_000);
    let seen: Vec<Observation> = fixture.written.iter().map(|(_, _, health)| health.of("t1")).collect();
    let steps: Vec<Observation> = (1..=9).map(|step| Observation::Slow { percent: 10 * step }).chain([Observation::Up]).collect();
    assert_eq!(seen, steps);
    let since: Vec<u64> = fixture.written[..9].iter().map(|(_, _, health)| health.backends["t1"].since).collect();
    assert!(since.iter().all(|at| *at == since[0]), "a step does not change `since`: {since:?}");
    let samples = parse(&{
        let mut out = guideway_daemon::metrics::Exposition::default();
        fixture.controller.metrics(&mut out);
        out.finish()
    });
    assert_eq!(
        (samples["guideway_health_backend_down_transitions_total"], samples["guideway_health_backend_up_transitions_total"]),
        (1.0, 1.0)
    );
    assert_eq!(samples["guideway_health_backend_weight_ratio{pool=\"boot\",backend=\"t1\"}"], 1.0);
    assert!(samples["guideway_health_checks_total{outcome=\"timeout\"}"] >= 3.0);
}

#[test]
fn changes_close_to_one_another_are_written_together() {
    let names: Vec<String> = (0..50).map(|index| format!("t{index}")).collect();
    let names: Vec<&'static str> = names.into_iter().map(|name| &*name.leak()).collect();
    let quick = "check = { kind = \"tcp\", port = 80, interval = \"100ms\", min_healthy = 0, fall = 1, jitter = 0 }";
    let mut fixture = Fixture::new(intent(quick, &names), true);
    fixture.pass(5000);
    fixture.written.clear();
    fixture.bad = names;
    let since = fixture.milliseconds();
    fixture.pass(1000);
    let times: Vec<u64> = fixture.written.iter().map(|(at, _, _)| at - since).collect();
    assert!((2..=4).contains(&times.len()), "all fall within 100 ms: {times:?}");
    assert!(times[0] <= 10, "the first at once: {times:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 50), "{times:?}");
}

#[test]
fn failed_publications_are_repeated_when_the_store_is_available_again() {
    let mut fixture = Fixture::new(intent(CHECK, &["t1", "t2"]), true);
    fixture.store_is_away = true;
    fixture.bad = vec!["t1"];
    fixture.pass(60_000);
    let failed = fixture.controller.document().publishing.failed;
    assert!((10..40).contains(&failed), "{failed} attempts in a minute");
    fixture.store_is_away = false;
    fixture.pass(5001);
    assert_eq!((fixture.state("t1"), fixture.state("t2")), (Observation::Down, Observation::Up));
    assert_eq!(fixture.controller.document().publishing.waiting, 0);
}

#[test]
fn a_leader_repairs_other_health_in_the_store() {
    let mut fixture = Fixture::new(intent(CHECK, &["t1", "t2"]), true);
    fixture.bad = vec!["t1"];
    fixture.pass(6000);
    assert_eq!(fixture.state("t1"), Observation::Down);
    let down = fixture.view.cluster.health["boot"].clone();
    let mut up = (*down).clone();
    up.backends.get_mut("t1").unwrap().state = Observation::Up;
    // A publication that was given up is executed late; an operator deletes the key; an unchecked pool reappears.
    for (pool, health) in [("boot", Some(Arc::new(up))), ("boot", None), ("gone", Some(down.clone()))] {
        let mut cluster = (*fixture.view.cluster).clone();
        cluster.generation += 1;
        match health {
            Some(health) => drop(cluster.health.insert(pool.to_owned(), health)),
            None => drop(cluster.health.remove(pool)),
        }
        fixture.view.cluster = Arc::new(cluster);
        fixture.written.clear();
        fixture.controller.update_state(fixture.now, &fixture.view);
        fixture.pass(3000);
        assert_eq!((fixture.written.len(), fixture.view.cluster.health.get("boot")), (1, Some(&down)), "{pool}: {:?}", fixture.written);
    }
    assert_eq!(*fixture.view.cluster.health["gone"], PoolHealth::default());
}

#[test]
fn remaining_backends_keep_their_state_and_removed_ones_are_forgotten() {
    let mut fixture = Fixture::new(intent(CHECK, &["t1", "t2", "t3"]), true);
    fixture.bad = vec!["t1", "t3"];
    fixture.pass(5000);
    assert_eq!([fixture.state("t1"), fixture.state("t3")], [Observation::Down; 2]);
    let (checks, failed) = (fixture.status("t1")["checks"].clone(), fixture.status("t1")["failed_in_a_row"].clone());
    fixture.intend(intent(CHECK, &["t1", "t2", "t4 address = \"10.0.2.9\""]));
    assert_eq!((&fixture.status("t1")["checks"], &fixture.status("t1")["failed_in_a_row"]), (&checks, &failed));
    fixture.pass(3000);
    assert_eq!((fixture.state("t1"), fixture.stored("t3"), fixture.state("t4")), (Observation::Down, None, Observation::Up));
    assert_eq!(fixture.controller.backends(), 3);
    // Another check counts anew, and keeps a backend down until it passes.
    fixture.intend(intent(&CHECK.replace("80", "81"), &["t1", "t2", "t4 address = \"10.0.2.9\""]));
    assert_eq!((&fixture.status("t1")["failed_in_a_row"], &fixture.status("t1")["state"]), (&0.into(), &"down".into()));
    // Another address is another machine, judged by its first check.
    fixture.bad = Vec::new();
    fixture.intend(intent(&CHECK.replace("80", "81"), &["t1 address = \"10.0.2.99\"", "t2"]));
    fixture.pass(1200);
    assert_eq!(fixture.status("t1")["failed"], 0);
    // A pool that is no longer checked has no backend down.
    fixture.bad = vec!["t1"];
    fixture.pass(5000);
    assert_eq!(fixture.state("t1"), Observation::Down);
    fixture.intend(intent("", &["t1 address = \"10.0.2.99\"", "t2"]));
    fixture.pass(100);
    assert_eq!(fixture.controller.backends(), 0);
    assert_eq!(*fixture.view.cluster.health["boot"], PoolHealth::default());
}

#[test]
fn the_floor_holds_up_the_backends_that_fell_last_and_reports_it() {
    let check = CHECK.replace("min_healthy = 0", "min_healthy = 50");
    let mut fixture = Fixture::new(intent(&check, &["t1", "t2", "t3", "t4", "t5 , drain = true"]), true);
    fixture.pass(3000);
    for (name, down) in [("t1", 1), ("t2", 2), ("t3", 2), ("t4", 2)] {
        fixture.bad.push(name);
        fixture.pass(5000);
        let count = ["t1", "t2", "t3", "t4"].iter().filter(|name| fixture.state(name) == Observation::Down).count();
        assert_eq!(count, down, "after {name}");
    }
    assert_eq!([fixture.state("t3"), fixture.state("t4")], [Observation::Up; 2]);
    let held_up = fixture.stored("t4").unwrap();
    assert!(held_up.why.starts_with("held up by min_healthy = 50, although it fails: timeout"), "{held_up:?}");
    let pool = fixture.controller.document().pools.remove(0);
    assert_eq!((pool.floor, pool.held_up, pool.failing), (true, 2, 4));
    // One backend recovers in its slow start, and the floor holds one less.
    fixture.bad.retain(|name| *name != "t1");
    fixture.pass(3000);
    assert!(matches!(fixture.state("t1"), Observation::Slow { .. }));
    assert_eq!([fixture.state("t2"), fixture.state("t3"), fixture.state("t4")], [Observation::Down, Observation::Down, Observation::Up]);
}

#[test]
fn a_standby_follows_and_takes_over_without_a_change() {
    let check = CHECK.replace("min_healthy = 0", "min_healthy = 50");
    let backends = ["t1", "t2", "t3", "t4"];
    let mut leader = Fixture::new(intent(&check, &backends), true);
    let mut standby = Fixture::new(intent(&check, &backends), false);
    let follow = |leader: &Fixture, standby: &mut Fixture| {
        standby.view = leader.view.clone();
        standby.controller.update_state(standby.now, &standby.view);
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
    let shown = |fixture: &Fixture| backends.map(|name| fixture.state(name));
    let before = shown(&leader);
    assert_eq!(before[..2], [Observation::Up, Observation::Down]);
    assert!(before[2] != before[3], "one of the two that fell last is held: {before:?}");
    standby.controller.set_leading(standby.now, true);
    standby.pass(20_000);
    assert!(standby.written.iter().all(|(_, _, health)| backends.map(|name| health.of(name)) == before), "{:?}", standby.written);
    // The next check sees a backend that fell with the old leader: the standby has counted all the time.
    let mut late = Fixture::new(intent(&check, &backends), false);
    late.view = leader.view.clone();
    late.controller.update_state(late.now, &late.view);
    late.bad = vec!["t1", "t2", "t3"];
    late.pass(5000);
    late.controller.set_leading(late.now, true);
    late.pass(1200);
    assert!(late.state("t1") == Observation::Down || late.status("t1")["held_up"] == true, "{:?}", late.status("t1"));
}

#[test]
fn a_restarted_controller_starts_from_its_published_health() {
    let mut first = Fixture::new(intent(CHECK, &["t1", "t2"]), true);
    first.bad = vec!["t1"];
    first.pass(4000);
    let mut second = Fixture::new(Intent::default(), false);
    second.view = first.view.clone();
    second.controller.update_state(second.now, &second.view);
    second.controller.set_leading(second.now, true);
    second.bad = vec!["t1"];
    second.pass(10_000);
    assert!(second.written.is_empty(), "{:?}", second.written);
    assert_eq!(second.status("t1")["since"], first.stored("t1").unwrap().since);
}

#[test]
fn checks_are_spread_bounded_and_late_ones_keep_their_place() {
    let names: Vec<String> = (0..200).map(|index| format!("t{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut fixture = Fixture::new(intent(&CHECK.replace("port = 80", "port = 80, jitter = 0"), &names), true);
    fixture.controller.concurrency = 10;
    fixture.at(Time(3_000_000_000));
    let jobs: Vec<Job> = std::iter::from_fn(|| fixture.controller.due(fixture.now)).collect();
    assert_eq!(jobs.len(), 10);
    assert!(fixture.controller.publish(fixture.now).is_empty());
    assert!(fixture.controller.deadline().is_none_or(|at| at > fixture.now.at), "full: no action before a result");
    for job in jobs {
        fixture.controller.done(fixture.now, job.id, Outcome::Passed, Duration::ZERO);
    }
    fixture.controller.concurrency = 1000;
    fixture.work();
    // All were late, and are spread over the interval again.
    let mut dues: Vec<u64> = fixture.controller.backends.values().map(|w| w.due.0 - 3_000_000_000).collect();
    dues.sort_unstable();
    let quarter = |from: u64| dues.iter().filter(|due| (from..from + 250_000_000).contains(*due)).count();
    assert_eq!((0..4).map(|q| quarter(q * 250_000_000)).sum::<usize>(), 200, "within an interval");
    assert!(
        (0..4).all(|q| (25..=75).contains(&quarter(q * 250_000_000))),
        "{:?}",
        (0..4).map(|q| quarter(q * 250_000_000)).collect::<Vec<_>>()
    );
    fixture.pass(10_000);
    assert!(fixture.checked.values().all(|count| (10..=12).contains(count)), "{:?}", fixture.checked.values());
}

#[test]
fn a_check_that_cannot_be_made_counts_for_nothing() {
    let mut fixture = Fixture::new(intent(CHECK, &["t1"]), true);
    for _ in 0..10 {
        let at = fixture.controller.deadline().unwrap();
        fixture.at(at);
        while let Some(job) = fixture.controller.due(fixture.now) {
            fixture.controller.done(fixture.now, job.id, Outcome::NotRun("too many open files".into()), Duration::ZERO);
        }
    }
    assert_eq!((fixture.state("t1"), &fixture.status("t1")["last"]["outcome"]), (Observation::Up, &"not_run".into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_store_converges_to_the_controllers_state_and_the_floor_holds(
        events in proptest::collection::vec((0u8..7, 0usize..6, 1u64..4000), 1..40),
    ) {
        const NAMES: [&str; 6] = ["t0", "t1", "t2", "t3", "t4", "t5"];
        let check = CHECK.replace("min_healthy = 0", "min_healthy = 50, hold_down = \"2s\", rise = 1");
        let mut fixture = Fixture::new(intent(&check, &NAMES), true);
        for (what, which, time) in events {
            match what {
                0 => fixture.bad.retain(|name| *name != NAMES[which]),
                1 | 2 => fixture.bad.push(NAMES[which]),
                3 => fixture.store_is_away = !fixture.store_is_away,
                4 => fixture.intend(intent(&check, &NAMES[..=which])),
                5 => fixture.intend(intent(&check.replace("80", &which.to_string().replace('0', "9")), &NAMES)),
                _ => fixture.intend(intent(&check, &NAMES)),
            }
            fixture.pass(time);
            // The expected publication; the store may be unavailable and get it later.
            let (names, health) = (fixture.view.cluster.intent.pools[0].backends.len(), fixture.controller.health());
            let down = health["boot"].backends.values().filter(|backend| backend.state == Observation::Down).count();
            prop_assert!(2 * down <= names, "{health:?}");
        }
        fixture.store_is_away = false;
        fixture.pass(20_000);
        prop_assert_eq!(&fixture.view.cluster.health, &fixture.controller.health());
        prop_assert_eq!(fixture.controller.in_flight, 0);
    }
}

#[test]
fn what_is_not_known_is_not_up() {
    let mut fixture = Fixture::new(intent(CHECK, &["t1", "t2"]), true);
    fixture.unreachable = true;
    let metric = |fixture: &Fixture, name: &str| {
        let mut out = guideway_daemon::metrics::Exposition::default();
        fixture.controller.metrics(&mut out);
        parse(&out.finish())[&format!("guideway_health_backend_{name}{{pool=\"boot\",backend=\"t1\"}}")]
    };
    let shown = |fixture: &Fixture| (fixture.status("t1")["state"].clone(), fixture.status("t1")["why"].clone());
    assert_eq!(shown(&fixture), ("unknown".into(), "not checked yet".into()));
    fixture.pass(9000);
    assert_eq!(shown(&fixture), ("unknown".into(), "not checked: Network is unreachable".into()));
    assert_eq!((metric(&fixture, "unknown"), metric(&fixture, "check_passed")), (1.0, 0.0));
    let stored = fixture.stored("t1").unwrap();
    assert_eq!((stored.state, stored.unknown), (Observation::Up, true), "directors learn it, and give it new flows all the same");
    // The first check that can be made decides alone.
    (fixture.unreachable, fixture.bad) = (false, vec!["t1"]);
    fixture.pass(4000);
    assert_eq!((shown(&fixture).0, fixture.stored("t1").unwrap().unknown), ("down".into(), false));
    assert_eq!((fixture.status("t2")["state"].clone(), fixture.stored("t2").unwrap().unknown), ("up".into(), false));
    assert_eq!(metric(&fixture, "unknown"), 0.0);
    // The way is lost again: the last state stands, and is not called known.
    fixture.unreachable = true;
    fixture.pass(9000);
    assert_eq!(shown(&fixture).0, "unknown");
    assert_eq!((fixture.state("t1"), fixture.state("t2")), (Observation::Down, Observation::Up));
    let status = serde_json::to_value(fixture.controller.document()).unwrap();
    assert_eq!(status["pools"][0]["unknown"], 2);
}

#[test]
fn another_range_of_ports_is_checked_anew() {
    let ranged = |range: &str| {
        let backend = format!("t1 address = \"10.0.2.1\", tid_range = \"{range}\"");
        intent("check = { kind = \"tcp\", port = 80, interval = \"1s\" }", &[&*backend.leak()])
    };
    let mut fixture = Fixture::new(ranged("20000-20999"), true);
    let id = |fixture: &Fixture| fixture.controller.pools["boot"].backends["t1"];
    let before = id(&fixture);
    fixture.intend(ranged("21000-21999"));
    assert_ne!(id(&fixture), before);
    assert_eq!(fixture.controller.backends[&id(&fixture)].target.tid_range, Some((21000, 21999)));
}
