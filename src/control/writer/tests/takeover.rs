//! Packets of a backend that is down go to its successors in a pool with takeover.

use super::*;
use guideway_dataplane::path::SelectedBy;
use guideway_dataplane::path::explain::explain;
use guideway_hash::FleetKey;
use guideway_hash::successors::SuccessorRanking;
use std::net::SocketAddr;

const T4: (&str, &str, u16, u16) = ("t4", "10.0.2.24", 23_000, 100);
const NAMES: [&str; 4] = ["t1", "t2", "t3", "t4"];

fn down(names: &[&str]) -> Health {
    let observed = |name: &&str| ((*name).to_owned(), Observed { state: Observation::Down, since: 1, why: "test".into(), unknown: false });
    Health::from([("boot".into(), Arc::new(PoolHealth { backends: names.iter().map(observed).collect() }))])
}

fn with_takeover(backends: &[(&str, &str, u16, u16)]) -> Config {
    let mut config = config(backends);
    config.pools[0].takeover = true;
    config
}

/// Returns the backend of an acknowledgement from 198.51.100.7:`port` to this TID, and what selected it.
fn who(snapshot: &Snapshot, port: u16, tid: u16) -> (String, SelectedBy) {
    let client = SocketAddr::from(([198, 51, 100, 7], port));
    let explain = explain(snapshot, UDP, client, SocketAddr::from(([192, 0, 2, 69], tid))).unwrap();
    (explain.backend.name.to_string(), explain.by)
}

/// The successors by the contract.
fn successors(key: FleetKey, names: &[&str], port: u16, owner: &str) -> Vec<String> {
    let place = names.iter().position(|name| *name == owner).unwrap_or(usize::MAX);
    let ranked =
        SuccessorRanking::new(key, names.iter().copied()).for_transfer([192, 0, 2, 69].into(), [198, 51, 100, 7].into(), port, place);
    ranked.into_iter().flatten().map(|at| names[at].to_owned()).collect()
}

#[test]
fn the_packets_of_a_dead_owner_go_to_its_best_successor_that_is_up() {
    let mut writer = Writer::new();
    let config = with_takeover(&[T3, T1, T4, T2]);
    let key = config.director.key;
    let mut set = |names: &[&str]| writer.apply_state(&config, 1, &down(names), &hops(&[]), at(0)).unwrap();
    let (all, one) = (set(&[]), set(&["t1"]));
    for port in 2000..2100 {
        let successors = successors(key, &NAMES, port, "t1");
        assert_eq!(who(&all, port, 20_500), ("t1".into(), SelectedBy::TidRange));
        assert_eq!(who(&one, port, 20_500), (successors[0].clone(), SelectedBy::Successor));
        assert_eq!(who(&one, port, 21_500), ("t2".into(), SelectedBy::TidRange), "others keep what they have");
        let two = set(&["t1", &successors[0]]);
        assert_eq!(who(&two, port, 20_500), (successors[1].clone(), SelectedBy::Successor));
        let three = set(&["t1", &successors[0], &successors[1]]);
        assert_eq!(who(&three, port, 20_500), ("t1".into(), SelectedBy::TidRange), "nobody else knows of the transfer");
        assert_eq!(who(&set(&[]), port, 20_500), ("t1".into(), SelectedBy::TidRange), "it came back");
    }
}

#[test]
fn without_takeover_the_owner_keeps_its_packets_dead_or_alive() {
    let mut writer = Writer::new();
    let snapshot = writer.apply_state(&config(&[T1, T2]), 1, &down(&["t1"]), &hops(&[]), at(0)).unwrap();
    assert_eq!(who(&snapshot, 2000, 20_500), ("t1".into(), SelectedBy::TidRange));
}

#[test]
fn one_that_is_drained_or_has_left_the_file_keeps_its_transfers_while_it_lives() {
    let mut writer = Writer::new();
    let mut config = with_takeover(&[T1, T2, T3, T4]);
    let key = config.director.key;
    config.pools[0].backends[0].drain = true;
    let mut set = |config: &Config, names: &[&str], seconds| writer.apply_state(config, 1, &down(names), &hops(&[]), at(seconds)).unwrap();
    assert_eq!(who(&set(&config, &[], 0), 2000, 20_500), ("t1".into(), SelectedBy::TidRange), "drained");
    let successor = successors(key, &NAMES, 2000, "t1").remove(0);
    assert_eq!(who(&set(&config, &["t1"], 0), 2000, 20_500), (successor.clone(), SelectedBy::Successor), "drained and dead");
    let fewer = with_takeover(&[T2, T3, T4]);
    let successor = successors(key, &NAMES[1..], 2000, "t1").remove(0);
    assert_eq!(who(&set(&fewer, &[], 1), 2000, 20_500), (successor.clone(), SelectedBy::Successor), "it was dead when it left");
    assert_eq!(who(&set(&config, &[], 2), 2000, 20_500), ("t1".into(), SelectedBy::TidRange), "back and alive");
    assert_eq!(who(&set(&fewer, &[], 3), 2000, 20_500), ("t1".into(), SelectedBy::TidRange), "it was alive when it left");
    assert_eq!(who(&set(&fewer, &["t1"], 4), 2000, 20_500), (successor.clone(), SelectedBy::Successor), "and was then seen to die");
    let gone = set(&fewer, &[], 5 + RETIRE.as_secs());
    assert_eq!(who(&gone, 2000, 20_500), (successor, SelectedBy::Successor), "its range is nobody's now");
}

#[test]
fn a_successors_drain_and_weight_are_no_matter() {
    let mut writer = Writer::new();
    let mut config = with_takeover(&[T1, T2, T3, T4]);
    config.pools[0].backends.iter_mut().for_each(|backend| backend.weight = 0);
    let snapshot = writer.apply_state(&config, 1, &down(&["t1"]), &hops(&[]), at(0)).unwrap();
    let successor = successors(config.director.key, &NAMES, 2000, "t1").remove(0);
    assert_eq!(who(&snapshot, 2000, 20_500), (successor, SelectedBy::Successor));
}

#[test]
fn a_death_rebuilds_only_what_it_changes() {
    let mut writer = Writer::new();
    let config = with_takeover(&[T1, T2, T3, T4]);
    let mut set = |names: &[&str]| writer.apply_state(&config, 1, &down(names), &hops(&[]), at(0)).unwrap().services[0].pool.clone();
    let (one, same, two) = (set(&["t1"]), set(&["t1"]), set(&["t2"]));
    assert!(Arc::ptr_eq(&one, &same));
    assert!(!Arc::ptr_eq(&one.successors, &two.successors));
    assert_eq!((one.tid.as_ref().unwrap().owner(20_500), one.successors.orphaned(20_500)), (None, Some(one.members[0])));
    assert_eq!((two.tid.as_ref().unwrap().owner(20_500), two.successors.orphaned(20_500)), (Some(two.members[0]), None));
}
