//! Who gets the packets of a backend that is down: its heirs, where servers go on with one another's transfers.

use super::*;
use guideway_dataplane::path::explain::explain;
use guideway_dataplane::path::select::By;
use guideway_hash::FleetKey;
use guideway_hash::heirs::Heirs;
use std::net::SocketAddr;

const T4: (&str, &str, u16, u16) = ("t4", "10.0.2.24", 23_000, 100);
const NAMES: [&str; 4] = ["t1", "t2", "t3", "t4"];

fn down(names: &[&str]) -> Health {
    let observed = |name: &&str| ((*name).to_owned(), Observed { state: Observation::Down, since: 1, why: "test".into() });
    Health::from([("boot".into(), Arc::new(PoolHealth { backends: names.iter().map(observed).collect() }))])
}

fn with_takeover(backends: &[(&str, &str, u16, u16)]) -> Config {
    let mut config = config(backends);
    config.pools[0].takeover = true;
    config
}

/// Who gets an acknowledgement from 198.51.100.7:`port` to this TID, and by what.
fn who(snapshot: &Snapshot, port: u16, tid: u16) -> (String, By) {
    let client = SocketAddr::from(([198, 51, 100, 7], port));
    let explained = explain(snapshot, UDP, client, SocketAddr::from(([192, 0, 2, 69], tid))).unwrap();
    (explained.backend.name.to_string(), explained.by)
}

/// The heirs by the contract.
fn heirs(key: FleetKey, names: &[&str], port: u16, owner: &str) -> Vec<String> {
    let place = names.iter().position(|name| *name == owner).unwrap_or(usize::MAX);
    let told = Heirs::new(key, names.iter().copied()).of([192, 0, 2, 69].into(), [198, 51, 100, 7].into(), port, place);
    told.into_iter().flatten().map(|at| names[at].to_owned()).collect()
}

#[test]
fn the_packets_of_a_dead_owner_go_to_its_best_heir_that_is_up() {
    let mut writer = Writer::new();
    let config = with_takeover(&[T3, T1, T4, T2]);
    let key = config.director.key;
    let mut set = |names: &[&str]| writer.apply_set(&config, 1, &down(names), &hops(&[]), at(0)).unwrap();
    let (all, one) = (set(&[]), set(&["t1"]));
    for port in 2000..2100 {
        let heirs = heirs(key, &NAMES, port, "t1");
        assert_eq!(who(&all, port, 20_500), ("t1".into(), By::TidRange));
        assert_eq!(who(&one, port, 20_500), (heirs[0].clone(), By::Heir));
        assert_eq!(who(&one, port, 21_500), ("t2".into(), By::TidRange), "others keep what they have");
        let two = set(&["t1", &heirs[0]]);
        assert_eq!(who(&two, port, 20_500), (heirs[1].clone(), By::Heir));
        let three = set(&["t1", &heirs[0], &heirs[1]]);
        assert_eq!(who(&three, port, 20_500), ("t1".into(), By::TidRange), "nobody else knows of the transfer");
        assert_eq!(who(&set(&[]), port, 20_500), ("t1".into(), By::TidRange), "it came back");
    }
}

#[test]
fn without_takeover_the_owner_keeps_its_packets_dead_or_alive() {
    let mut writer = Writer::new();
    let snapshot = writer.apply_set(&config(&[T1, T2]), 1, &down(&["t1"]), &hops(&[]), at(0)).unwrap();
    assert_eq!(who(&snapshot, 2000, 20_500), ("t1".into(), By::TidRange));
}

#[test]
fn one_that_is_drained_or_has_left_the_file_keeps_its_transfers_while_it_lives() {
    let mut writer = Writer::new();
    let mut config = with_takeover(&[T1, T2, T3, T4]);
    let key = config.director.key;
    config.pools[0].backends[0].drain = true;
    let mut set = |config: &Config, names: &[&str], seconds| writer.apply_set(config, 1, &down(names), &hops(&[]), at(seconds)).unwrap();
    assert_eq!(who(&set(&config, &[], 0), 2000, 20_500), ("t1".into(), By::TidRange), "drained");
    let heir = heirs(key, &NAMES, 2000, "t1").remove(0);
    assert_eq!(who(&set(&config, &["t1"], 0), 2000, 20_500), (heir.clone(), By::Heir), "drained and dead");
    let fewer = with_takeover(&[T2, T3, T4]);
    let heir = heirs(key, &NAMES[1..], 2000, "t1").remove(0);
    assert_eq!(who(&set(&fewer, &[], 1), 2000, 20_500), (heir.clone(), By::Heir), "it was dead when it left");
    assert_eq!(who(&set(&config, &[], 2), 2000, 20_500), ("t1".into(), By::TidRange), "back and alive");
    assert_eq!(who(&set(&fewer, &[], 3), 2000, 20_500), ("t1".into(), By::TidRange), "it was alive when it left");
    assert_eq!(who(&set(&fewer, &["t1"], 4), 2000, 20_500), (heir.clone(), By::Heir), "and was then seen to die");
    let gone = set(&fewer, &[], 5 + RETIRE.as_secs());
    assert_eq!(who(&gone, 2000, 20_500), (heir, By::Heir), "its range is nobody's now");
}

#[test]
fn a_heirs_drain_and_weight_are_no_matter() {
    let mut writer = Writer::new();
    let mut config = with_takeover(&[T1, T2, T3, T4]);
    config.pools[0].backends.iter_mut().for_each(|backend| backend.weight = 0);
    let snapshot = writer.apply_set(&config, 1, &down(&["t1"]), &hops(&[]), at(0)).unwrap();
    let heir = heirs(config.director.key, &NAMES, 2000, "t1").remove(0);
    assert_eq!(who(&snapshot, 2000, 20_500), (heir, By::Heir));
}

#[test]
fn a_death_rebuilds_only_what_it_changes() {
    let mut writer = Writer::new();
    let config = with_takeover(&[T1, T2, T3, T4]);
    let mut set = |names: &[&str]| writer.apply_set(&config, 1, &down(names), &hops(&[]), at(0)).unwrap().services[0].pool.clone();
    let (one, same, two) = (set(&["t1"]), set(&["t1"]), set(&["t2"]));
    assert!(Arc::ptr_eq(&one, &same));
    assert!(!Arc::ptr_eq(&one.succession, &two.succession));
    assert_eq!((one.tid.as_ref().unwrap().owner(20_500), one.succession.orphaned(20_500)), (None, Some(one.members[0])));
    assert_eq!((two.tid.as_ref().unwrap().owner(20_500), two.succession.orphaned(20_500)), (Some(two.members[0]), None));
}
