//! A fleet that shares its set: three directors, one etcd, two health controllers, in.tftpd behind them. One after the other stops, dies, is cut off and
//! comes back, while clients fetch files all the time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "shared_state/fleet.rs"]
mod fleet;
#[path = "shared_state/lost_store.rs"]
mod lost_store;
mod netns_fixture;
#[path = "shared_state/rotation.rs"]
mod rotation;
#[path = "shared_state/suspicion.rs"]
mod suspicion;

use fleet::{Fleet, FleetOptions};
use guideway_testbed::servers::Server;
use netns_fixture::hosts::{Clients, run_on, signal};
use nix::sys::signal::Signal;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(250);
const FALL: u32 = 2;
/// Programs, and the packages of Debian that have them.
const NEEDS: &[(&str, &str)] =
    &[("etcd", "etcd-server"), ("in.tftpd", "tftpd-hpa"), ("nsenter", "util-linux"), ("setpriv", "util-linux"), ("ip", "iproute2")];

#[test]
fn a_fleet_agrees_whatever_stops_dies_or_is_cut_off() {
    netns_fixture::in_namespace(NEEDS, || {
        let check = format!("interval = \"{}ms\", timeout = \"200ms\", rise = 2, fall = {FALL}, slow_start = \"1s\"", INTERVAL.as_millis());
        let mut fleet =
            Fleet::start(FleetOptions { directors: 3, controllers: 2, servers: &[Server::InTftpd], ranges: true, etcd: true, check });
        fleet.agree();
        let clients = Clients::start(&fleet.topology.client, fleet.plan.vip, fleet.directory.path(), 4);
        fleet.leader();

        // A server that hangs is taken out, gets nothing new, and comes back slowly.
        let usual = fleet.status(0)["vips"][0]["fingerprint"].clone();
        fleet.server("t1", Signal::SIGSTOP);
        let took = fleet.wait_state("t1 stopped", "t1", "down");
        assert!(took < 10 * INTERVAL * FALL, "{took:?}");
        assert_eq!((1..=4).filter(|n| fleet.backend(0, &format!("t{n}"), "state") == "down").count(), 1, "nobody else is touched");
        fleet.agree();
        assert_ne!(fleet.status(0)["vips"][0]["fingerprint"], usual);
        fleet.server("t1", Signal::SIGCONT);
        fleet.wait_state("t1 goes on, slowly at first", "t1", "slow");
        fleet.wait_state("t1 has all of its weight again", "t1", "active");

        // The controller that leads dies: the other one had its eyes open.
        let leader = fleet.leader();
        fleet.controllers[leader] = None;
        fleet.server("t2", Signal::SIGSTOP);
        fleet.wait_state("the leading controller killed, t2 stopped", "t2", "down");
        assert_ne!(fleet.leader(), leader);
        fleet.server("t2", Signal::SIGCONT);
        fleet.wait_state("t2 goes on", "t2", "active");
        fleet.controllers[leader] = Some(fleet.controller(leader));

        // etcd dies, and with it nothing else.
        fleet.etcd = None;
        let stale = |fleet: &Fleet, number: usize| fleet.status(number)["store"]["stale"]["why"].is_string();
        fleet.wait_all("etcd killed: the directors know it", &[0, 1, 2], |number| stale(&fleet, number));
        let with_trouble = fleet.status(0)["vips"][0]["fingerprint"].clone();
        assert_eq!(with_trouble, usual, "the last set stands");
        fleet.start_etcd();
        fleet.wait_all("etcd is back: the directors know it", &[0, 1, 2], |number| !stale(&fleet, number));
        fleet.agree();

        // A director that is cut off from etcd keeps what it has, and catches up.
        let etcd = fleet.plan.router.0;
        run_on(&fleet.topology.directors[2], "ip", &format!("route add blackhole {etcd}/32"));
        fleet.wait_all("d3 knows that it is cut off", &[2], |number| stale(&fleet, number));
        fleet.commit(50);
        let has = |weight: u64| move |fleet: &Fleet, number: usize| fleet.backend(number, "t4", "weight") == weight;
        let (half, quarter) = (has(50), has(25));
        fleet.wait_all("a change while d3 is cut off", &[0, 1], |number| half(&fleet, number));
        assert_eq!(fleet.backend(2, "t4", "weight"), 100);
        run_on(&fleet.topology.directors[2], "ip", &format!("route del blackhole {etcd}/32"));
        fleet.wait_all("d3 is cut off no longer", &[2], |number| half(&fleet, number));
        fleet.agree();
        fleet.commit(25);
        fleet.wait_all("one more change", &[0, 1, 2], |number| quarter(&fleet, number));
        fleet.agree();

        let verified = clients.verified();
        println!("{verified} transfers meanwhile, all verified");
        assert!(verified > 20);
        for director in &mut fleet.directors {
            signal(director, Signal::SIGTERM);
            assert!(director.0.wait().unwrap().success());
        }
    });
}
