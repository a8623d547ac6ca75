use super::registry::ID_QUARANTINE;

use super::*;
use crate::{Link, Unresolved};
use guideway_config as config;
use guideway_config::{Director, Io};
use guideway_dataplane::tables::NextHop;
use guideway_dataplane::tables::{Addresses, Echo, HashKey, Unmatched};
use guideway_store::{Observation, Observed, PoolHealth};
use std::sync::Arc;
use std::time::Duration;

mod takeover;

const RETIRE: Duration = Duration::from_secs(600);
const HOP: NextHop = NextHop { mac: [2, 0, 0, 0, 2, 0x21], mtu: 1500, output: None };

fn at(seconds: u64) -> Time {
    Time::default().plus(Duration::from_secs(seconds))
}

/// `name address first-port weight`; ranges have 1000 ports; port 0 means no range.
fn config(backends: &[(&str, &str, u16, u16)]) -> Config {
    let backends = backends.iter().map(|(name, address, first, weight)| config::Backend {
        name: (*name).into(),
        address: address.parse().unwrap(),
        weight: *weight,
        tid_range: (*first > 0).then_some((*first, first.saturating_add(999))),
        drain: false,
    });
    Config {
        director: Director {
            name: "d1".into(),
            address: Addresses { v4: Some([10, 0, 1, 11].into()), v6: None },
            source_prefix: None,
            key: FleetKey::new([7; 16]),
            next_key: None,
            io: Io::Pcap { mac: [2; 6], mtu: 1500 },
            routers: vec!["10.0.0.0/24".parse().unwrap()],
            remote_site: Vec::new(),
            fleet: Vec::new(),
            socket: "/nowhere".into(),
            metrics: None,
            unmatched: Unmatched::Host,
            icmp_echo: Echo::Forward,
            flows: 1024,
            retire: RETIRE,
            steering: 0,
            mark: None,
        },
        active_key: None,
        vips: vec![
            vip("192.0.2.69", config::Service::Tftp { key: HashKey::Flow }),
            vip("192.0.2.53", config::Service::Udp { ports: vec![(53, 53), (8000, 8100)] }),
            vip("192.0.2.53", config::Service::Tcp { ports: vec![(53, 53)] }),
        ],
        pools: vec![config::Pool { name: "boot".into(), table_size: 1009, takeover: false, check: None, backends: backends.collect() }],
        neighbours: Vec::new(),
        announce: None,
        store: None,
        api: None,
    }
}

fn vip(address: &str, service: config::Service) -> Vip {
    Vip {
        address: address.parse().unwrap(),
        service,
        pool: "boot".into(),
        idle: Duration::from_secs(60),
        paused: false,
        request_policy: config::RequestPolicy::default(),
    }
}

fn hops(resolved: &[&str]) -> NextHops {
    let hops = resolved.iter().map(|a| (a.parse().unwrap(), Ok(HOP))).collect();
    NextHops { link: Link { mac: [2; 6], mtu: 1500 }, hops, missing_addresses: Vec::new(), refused: None }
}

const T1: (&str, &str, u16, u16) = ("t1", "10.0.2.21", 20_000, 100);
const T2: (&str, &str, u16, u16) = ("t2", "10.0.2.22", 21_000, 100);
const T3: (&str, &str, u16, u16) = ("t3", "10.0.2.23", 22_000, 100);

fn owner(snapshot: &Snapshot, port: u16) -> Option<BackendId> {
    snapshot.services[0].pool.tid.as_ref().unwrap().owner(port)
}

fn known(writer: &Writer, name: &str) -> (BackendId, BackendState) {
    writer.backends().find(|k| &*k.name == name).map(|k| (k.id, k.state)).unwrap()
}

#[test]
fn a_configuration_becomes_a_snapshot() {
    let mut writer = Writer::new();
    let snapshot = writer.apply(&config(&[T2, T1]), &hops(&["10.0.2.21"]), at(0)).unwrap();
    assert_eq!(snapshot.generation, 1);
    let labels: Vec<_> = snapshot.services.iter().map(|s| (s.label.as_str(), s.kind, s.idle)).collect();
    assert_eq!(
        labels,
        [("tftp", ServiceKind::Tftp(HashKey::Flow), 60), ("udp/53,8000-8100", ServiceKind::Flow, 60), ("tcp/53", ServiceKind::Flow, 60)]
    );
    let vip = snapshot.vips.get("192.0.2.53".parse().unwrap()).unwrap();
    assert_eq!((vip.service(UDP, 8100), vip.service(TCP, 53), vip.service(TCP, 54)), (Some(1), Some(2), None));
    let pool = &snapshot.services[0].pool;
    let members: Vec<_> = pool.members.iter().map(|id| &*snapshot.backend(*id).unwrap().name).collect();
    assert_eq!(members, ["t1", "t2"], "members stand in the order of their names, whatever the order in the file");
    assert_eq!(snapshot.backend(pool.members[0]).unwrap().next_hop(), Some(HOP));
    assert_eq!(snapshot.backend(pool.members[1]).unwrap().next_hop(), None);
    assert_eq!(owner(&snapshot, 20_999), Some(pool.members[0]));
    assert_eq!(owner(&snapshot, 22_000), None);
    assert!(Arc::ptr_eq(&snapshot.services[1].pool, pool));
}

#[test]
fn health_and_drain_leave_the_intent_its_weights() {
    let mut writer = Writer::new();
    let observed = |state| Observed { state, since: 1, why: "test".into(), unknown: false };
    let health = |t1, t2| {
        Health::from([(
            "boot".into(),
            Arc::new(PoolHealth { backends: [("t1".into(), observed(t1)), ("t2".into(), observed(t2))].into() }),
        )])
    };
    let shares = |snapshot: &Snapshot| snapshot.services[0].pool.maglev.entries();
    let (up, down) = (Observation::Up, Observation::Down);
    let mut config = config(&[T1, T2, T3]);
    let mut set = |config: &Config, generation, health: &Health| writer.apply_state(config, generation, health, &hops(&[]), at(0)).unwrap();
    let first = set(&config, 7, &Health::default());
    assert_eq!((first.generation, shares(&first)), (7, vec![337, 336, 336]));
    let second = set(&config, 9, &health(down, Observation::Slow { percent: 50 }));
    assert_eq!(second.generation, 9);
    let [none, half, whole] = shares(&second)[..] else { panic!("three backends") };
    assert_eq!(none, 0);
    assert!((335..=338).contains(&half) && half + whole == 1009, "{half} {whole}");
    assert_eq!(second.backends.iter().flatten().map(|b| b.down).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(owner(&second, 20_500), second.services[0].pool.members.first().copied(), "transfers stay even with one that is down");
    config.pools[0].backends[1].drain = true;
    let third = set(&config, 10, &health(up, Observation::Slow { percent: 50 }));
    assert_eq!(shares(&third)[1], 0);
    assert!(Arc::ptr_eq(&second.services[0].pool.tid.clone().unwrap(), &third.services[0].pool.tid.clone().unwrap()));
    assert_eq!(
        (known(&writer, "t1").1, known(&writer, "t2").1, known(&writer, "t3").1),
        (BackendState::Active, BackendState::Drained, BackendState::Active)
    );
    assert_eq!(writer.backends().map(|known| known.weight).collect::<Vec<_>>(), [100, 100, 100]);
}

#[test]
fn a_change_of_neighbours_rebuilds_no_table() {
    let mut writer = Writer::new();
    let config = config(&[T1, T2]);
    let first = writer.apply(&config, &hops(&[]), at(0)).unwrap();
    let second = writer.apply(&config, &hops(&["10.0.2.22"]), at(1)).unwrap();
    assert_eq!(second.generation, 2);
    assert!(Arc::ptr_eq(&first.services[0].pool, &second.services[0].pool));
    let mut resized = config.clone();
    resized.pools[0].table_size = 2003;
    let third = writer.apply(&resized, &hops(&[]), at(2)).unwrap();
    assert_eq!(third.services[0].pool.maglev.size(), 2003);
    assert!(Arc::ptr_eq(second.services[0].pool.tid.as_ref().unwrap(), third.services[0].pool.tid.as_ref().unwrap()));
}

#[test]
fn a_new_range_keeps_the_maglev_table_and_a_new_weight_keeps_the_ranges() {
    let mut writer = Writer::new();
    let first = writer.apply(&config(&[T1, T2]), &hops(&[]), at(0)).unwrap();
    let second = writer.apply(&config(&[T1, ("t2", "10.0.2.22", 30_000, 100)]), &hops(&[]), at(1)).unwrap();
    assert!(Arc::ptr_eq(&first.services[0].pool.maglev, &second.services[0].pool.maglev));
    let t2 = known(&writer, "t2").0;
    assert_eq!((owner(&second, 30_000), owner(&second, 21_000)), (Some(t2), Some(t2)), "the old range still has transfers");
    let third = writer.apply(&config(&[T1, ("t2", "10.0.2.22", 30_000, 200)]), &hops(&[]), at(2)).unwrap();
    assert!(!Arc::ptr_eq(&second.services[0].pool.maglev, &third.services[0].pool.maglev));
    assert!(Arc::ptr_eq(second.services[0].pool.tid.as_ref().unwrap(), third.services[0].pool.tid.as_ref().unwrap()));
    let later = writer.apply(&config(&[T1, ("t2", "10.0.2.22", 30_000, 200)]), &hops(&[]), at(601)).unwrap();
    assert_eq!((owner(&later, 30_000), owner(&later, 21_000)), (Some(t2), None));
}

#[test]
fn a_removed_backend_retires_and_is_forgotten_in_the_end() {
    let mut writer = Writer::new();
    writer.apply(&config(&[T1, T2]), &hops(&[]), at(0)).unwrap();
    assert_eq!(writer.expiry(), None);
    let t1 = known(&writer, "t1").0;
    let less = config(&[T2]);
    let retired = writer.apply(&less, &hops(&["10.0.2.21"]), at(100)).unwrap();
    assert_eq!(known(&writer, "t1"), (t1, BackendState::Retired));
    assert_eq!(owner(&retired, 20_500), Some(t1), "its transfers go on");
    assert!(retired.backend(t1).unwrap().next_hop().is_some());
    assert!(!retired.services[0].pool.members.contains(&t1), "it gets nothing new");
    assert!(writer.addresses().contains(&"10.0.2.21".parse().unwrap()), "its neighbour is still needed");
    assert_eq!(writer.expiry(), Some(at(700)));
    writer.apply(&less, &hops(&[]), at(699)).unwrap();
    assert_eq!(known(&writer, "t1").1, BackendState::Retired, "another snapshot does not prolong it");
    let gone = writer.apply(&less, &hops(&[]), at(700)).unwrap();
    assert!(writer.backends().all(|k| &*k.name != "t1"));
    assert!(gone.backend(t1).is_none());
    assert_eq!(owner(&gone, 20_500), None);
    assert_eq!(writer.expiry(), None);
}

#[test]
fn the_last_backend_of_a_pool_keeps_its_transfers_as_well() {
    let mut writer = Writer::new();
    writer.apply(&config(&[T1]), &hops(&[]), at(0)).unwrap();
    let t1 = known(&writer, "t1").0;
    let empty = writer.apply(&config(&[]), &hops(&["10.0.2.21"]), at(1)).unwrap();
    assert_eq!((owner(&empty, 20_500), owner(&empty, 21_000)), (Some(t1), None));
    let gone = writer.apply(&config(&[]), &hops(&[]), at(601)).unwrap();
    assert!(gone.services[0].pool.tid.is_none());
    for backends in [&[T1][..], &[("t1", "10.0.2.21", 0, 100)], &[]] {
        let without = writer.apply(&config(backends), &hops(&[]), at(602)).unwrap();
        assert_eq!(without.services[0].pool.tid.is_some(), backends == [T1], "its last one had no range");
    }
}

#[test]
fn a_backend_that_comes_back_has_its_number_again() {
    let mut writer = Writer::new();
    writer.apply(&config(&[T1, T2]), &hops(&[]), at(0)).unwrap();
    let t1 = known(&writer, "t1").0;
    writer.apply(&config(&[T2]), &hops(&[]), at(1)).unwrap();
    writer.apply(&config(&[T1, T2, T3]), &hops(&[]), at(2)).unwrap();
    assert_eq!(known(&writer, "t1"), (t1, BackendState::Active));
    assert_eq!(writer.expiry(), None);
    let moved = ("t1", "10.0.2.99", 25_000, 100);
    writer.apply(&config(&[moved, T2, T3]), &hops(&[]), at(3)).unwrap();
    let ids: Vec<_> = writer.backends().filter(|k| &*k.name == "t1").map(|k| (k.id, k.state)).collect();
    assert_eq!(ids.len(), 2, "another address is another backend");
    assert!(ids.contains(&(t1, BackendState::Retired)));
}

#[test]
fn a_number_is_not_given_to_another_before_no_flow_table_can_hold_it() {
    let mut writer = Writer::new();
    writer.apply(&config(&[T1, T2]), &hops(&[]), at(0)).unwrap();
    let t1 = known(&writer, "t1").0;
    writer.apply(&config(&[T2]), &hops(&[]), at(0)).unwrap();
    writer.apply(&config(&[T2]), &hops(&[]), at(600)).unwrap();
    writer.apply(&config(&[T2, T3]), &hops(&[]), at(600 + ID_QUARANTINE.as_secs() - 1)).unwrap();
    assert_ne!(known(&writer, "t3").0, t1);
    writer.apply(&config(&[T2, T3, ("t4", "10.0.2.24", 23_000, 0)]), &hops(&[]), at(600 + ID_QUARANTINE.as_secs())).unwrap();
    assert_eq!(known(&writer, "t4"), (t1, BackendState::Drained));
}

#[test]
fn a_retired_range_is_not_given_away_and_the_refusal_says_what_to_do() {
    let mut writer = Writer::new();
    let first = writer.apply(&config(&[T1, T2]), &hops(&[]), at(0)).unwrap();
    let thief = config(&[T2, ("t9", "10.0.2.29", 19_500, 100)]);
    writer.apply(&config(&[T2]), &hops(&[]), at(100)).unwrap();
    let refused = writer.apply(&thief, &hops(&[]), at(200)).unwrap_err().to_string();
    for part in ["t9", "19500-20499", "20000-20999", "t1 (10.0.2.21)", "another 500 s", "`retire`", "600 s"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    let after = writer.apply(&config(&[T2]), &hops(&[]), at(201)).unwrap();
    assert_eq!(after.generation, first.generation + 2, "a refusal changes nothing");
    assert!(writer.backends().all(|k| &*k.name != "t9"));
    let mut sooner = thief.clone();
    sooner.director.retire = Duration::from_secs(90);
    let t9 = writer.apply(&sooner, &hops(&[]), at(202)).unwrap();
    assert_eq!(owner(&t9, 20_100), Some(known(&writer, "t9").0));
}

#[test]
fn a_swap_of_ranges_between_two_backends_is_refused() {
    let mut writer = Writer::new();
    writer.apply(&config(&[T1, T2]), &hops(&[]), at(0)).unwrap();
    let swapped = config(&[("t1", "10.0.2.21", 21_000, 100), ("t2", "10.0.2.22", 20_000, 100)]);
    assert!(matches!(writer.apply(&swapped, &hops(&[]), at(1)), Err(ApplyError::RangeHeld(_))));
}

#[test]
fn a_pool_without_ranges_steers_by_none() {
    let mut writer = Writer::new();
    writer.apply(&config(&[T1]), &hops(&[]), at(0)).unwrap();
    let plain = writer.apply(&config(&[("t1", "10.0.2.21", 0, 100)]), &hops(&[]), at(1)).unwrap();
    assert!(plain.services[0].pool.tid.is_none());
}

#[test]
fn what_cannot_be_built_is_refused_in_a_sentence() {
    let mut writer = Writer::new();
    let refused = writer.apply(&config(&[("t1", "2001:db8::21", 0, 100)]), &hops(&[]), at(0)).unwrap_err();
    assert!(refused.to_string().contains("2001:db8::21"));
    let mut poolless = config(&[T1]);
    poolless.vips[0].pool = "nets".into();
    assert!(matches!(writer.apply(&poolless, &hops(&[]), at(0)), Err(ApplyError::Pool { .. })));
    let mut even = config(&[T1]);
    even.pools[0].table_size = 1000;
    let refused = writer.apply(&even, &hops(&[]), at(0)).unwrap_err().to_string();
    assert!(refused.contains("boot") && refused.contains("1000"), "{refused}");
    assert_eq!(writer.backends().count(), 0);
}

#[test]
fn directors_of_other_site_have_numbers_and_are_no_backends() {
    let mut writer = Writer::new();
    let mut config = config(&[T1, T2]);
    config.director.remote_site = ["10.9.1.11", "10.9.1.12"].map(|a| a.parse().unwrap()).to_vec();
    let snapshot = writer.apply(&config, &hops(&["10.9.1.12"]), at(0)).unwrap();
    let remote_site_directors: Vec<_> = snapshot.remote_site_directors.iter().map(|id| snapshot.backend(*id).unwrap()).collect();
    assert_eq!(
        remote_site_directors.iter().map(|s| (&*s.name, s.next_hop())).collect::<Vec<_>>(),
        [("10.9.1.11", None), ("10.9.1.12", Some(HOP))]
    );
    assert!(snapshot.services.iter().all(|service| service.has_remote_site));
    for address in ["10.9.1.11", "10.9.1.12"].map(|a| a.parse().unwrap()) {
        assert!(
            snapshot.routers.contains(address)
                && snapshot.remote_site_addresses.contains(address)
                && snapshot.internal_addresses.contains(address)
        );
        assert!(writer.addresses().contains(&address), "its neighbour is needed");
    }
    assert!(
        snapshot.routers.contains("10.0.0.9".parse().unwrap()) && !snapshot.remote_site_addresses.contains("10.0.0.9".parse().unwrap())
    );
    assert_eq!(writer.backends().count(), 2);
    config.director.remote_site.pop();
    let fewer = writer.apply(&config, &hops(&[]), at(1)).unwrap();
    assert_eq!(fewer.remote_site_directors, snapshot.remote_site_directors[..1]);
    config.director.remote_site.clear();
    let none = writer.apply(&config, &hops(&[]), at(2)).unwrap();
    assert!(none.remote_site_directors.is_empty() && none.services.iter().all(|service| !service.has_remote_site));
    config.director.remote_site = vec!["10.9.1.11".parse().unwrap()];
    assert_eq!(
        writer.apply(&config, &hops(&[]), at(3)).unwrap().remote_site_directors,
        snapshot.remote_site_directors[..1],
        "it has its number again"
    );
}

#[test]
fn directors_of_the_fleet_come_from_the_file_or_the_store() {
    let directors = |addresses: &[&str]| addresses.iter().map(|a| a.parse().unwrap()).collect::<Vec<IpAddr>>();
    let mut writer = Writer::new();
    let mut config = config(&[T1]);
    let others = |snapshot: &Snapshot| snapshot.fleet.others().map(|(address, _)| address).collect::<Vec<_>>();
    assert!(others(&writer.apply(&config, &hops(&[]), at(0)).unwrap()).is_empty());
    assert!(writer.set_present(directors(&["10.0.1.13", "10.0.1.11", "10.0.1.12", "2001:db8::9"]), &config));
    let snapshot = writer.apply(&config, &hops(&["10.0.1.12"]), at(0)).unwrap();
    assert_eq!(others(&snapshot), directors(&["10.0.1.12", "10.0.1.13"]), "those that it can reach");
    for (address, id) in snapshot.fleet.others() {
        assert_eq!(snapshot.backend(id).unwrap().address, address);
        assert!(snapshot.routers.contains(address) && writer.addresses().contains(&address));
    }
    assert_eq!(writer.backends().count(), 1, "they are no backends");
    assert!((0..64u64).any(|n| snapshot.fleet.owner(n << 58).is_some()) && (0..64u64).any(|n| snapshot.fleet.owner(n << 58).is_none()));
    assert!(!writer.set_present(directors(&["10.0.1.11", "10.0.1.12", "10.0.1.13"]), &config), "the same ones");
    config.director.fleet = directors(&["10.0.1.11", "10.0.1.14"]);
    assert_eq!(others(&writer.apply(&config, &hops(&[]), at(1)).unwrap()), directors(&["10.0.1.14"]), "the file wins");
    config.director.fleet.clear();
    assert!(writer.set_present(directors(&["10.0.1.12", "10.0.1.13"]), &config));
    assert!(others(&writer.apply(&config, &hops(&[]), at(2)).unwrap()).is_empty(), "a fleet without this director is not its own");
}

#[test]
fn a_backend_that_cannot_be_reached_is_not_chosen_while_others_can_and_comes_back() {
    let mut writer = Writer::new();
    let config = config(&[T1, T2, T3]);
    let with = |unreachable: &[(&str, Unresolved)], resolved: &[&str]| {
        let mut hops = hops(resolved);
        hops.hops.extend(unreachable.iter().map(|(address, why)| (address.parse().unwrap(), Err(why.clone()))));
        hops
    };
    let (no_route, t2) = (Unresolved::NoRoute, T2.1);
    let shares = |snapshot: &Snapshot| snapshot.services[0].pool.maglev.entries();
    let mut apply = |hops: &NextHops| {
        let snapshot = writer.apply(&config, hops, at(0)).unwrap();
        let t2 = writer.backends().find(|k| &*k.name == "t2").unwrap();
        let backend = snapshot.backend(t2.id).unwrap();
        (shares(&snapshot), t2.state, t2.weight, backend.down, owner(&snapshot, 21_000) == Some(t2.id))
    };
    let all = vec![337, 336, 336];
    let pending = Unresolved::Pending(t2.parse().unwrap());
    let whole = (all.clone(), BackendState::Active, 100, false, true);
    assert_eq!(apply(&with(&[(t2, pending)], &[T1.1, T3.1])), whole, "it may be resolved at any moment");
    let (shares, state, weight, down, owns) = apply(&with(&[(t2, no_route.clone())], &[T1.1, T3.1]));
    assert_eq!((shares[1], shares.iter().sum::<u32>(), state, weight, down, owns), (0, 1009, BackendState::Unreachable, 100, true, true));
    assert_eq!(apply(&with(&[], &[T1.1, T2.1, T3.1])), whole);
    let none = [T1, T2, T3].map(|backend| (backend.1, no_route.clone()));
    assert_eq!(apply(&with(&none, &[])), whole, "nothing is better than what is there");
}
