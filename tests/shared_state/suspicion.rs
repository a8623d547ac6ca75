//! Clients notice first that a server is unresponsive: what directors suspect is checked at once.

use crate::fleet::{Fleet, FleetOptions};
use crate::netns_fixture::hosts::{TIMEOUT, content, program_on, run_on};
use crate::netns_fixture::{self, GUIDEWAY, Running};
use guideway_testbed::servers::Server;
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(5);
const FALL: u32 = 3;
const CLIENTS: usize = 16;
/// The third of three checks that fail ends two intervals and a time-out after the first one began.
const BY_INTERVAL: Duration = Duration::from_millis(2 * 5_000 + 500);

/// A suspicion is that of several clients, which are told apart by their addresses.
fn address(number: usize) -> String {
    format!("198.51.100.{}", 20 + number)
}

/// Clients that fetch one file after the other and repeat what is not answered; a transfer may fail, for its server is unresponsive.
struct RetryingClients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u32, u32)>>,
}

impl RetryingClients {
    fn start(fleet: &Fleet, count: usize) -> RetryingClients {
        let stop = Arc::new(AtomicBool::new(false));
        let one = |number: usize| {
            let own = address(number);
            let (host, vip, stop) = (fleet.topology.client.clone(), fleet.plan.vip, stop.clone());
            let to: PathBuf = fleet.directory.path().join(format!("got-{number}"));
            std::thread::spawn(move || {
                let (expected, mut verified, mut failed) = (content(), 0, 0);
                while !stop.load(Relaxed) {
                    let mut get = program_on(&host, GUIDEWAY);
                    get.args(["tftp", "get", "--quiet", "--force", "--bind", &own, "--output"])
                        .arg(&to)
                        .arg(format!("tftp://{vip}/kernel"));
                    if get.output().unwrap().status.success() {
                        assert!(std::fs::read(&to).unwrap() == expected, "a transfer brought other bytes");
                        verified += 1;
                    } else {
                        failed += 1;
                    }
                }
                (verified, failed)
            })
        };
        RetryingClients { threads: (0..count).map(one).collect(), stop }
    }

    /// How many transfers were right, and how many failed.
    fn end(self) -> (u32, u32) {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

/// What `guideway events` says of suspicions from now on, and when.
fn suspicions(fleet: &Fleet) -> (Running, Receiver<(Instant, String)>) {
    let mut command = netns_fixture::program(GUIDEWAY);
    command.args(["events", "--since", "0", "--socket"]).arg(fleet.socket("d1"));
    let mut events = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let out = events.0.stdout.take().unwrap();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok).filter(|line| line.contains("  suspected  ")) {
            // The test is over.
            let _over = sender.send((Instant::now(), line));
        }
    });
    (events, receiver)
}

fn an_unresponsive_server_is_found_by_its_clients(etcd: bool) {
    let check =
        format!("interval = \"{}s\", timeout = \"500ms\", jitter = 0, rise = 2, fall = {FALL}, slow_start = \"0s\"", INTERVAL.as_secs());
    let servers = &[Server::InTftpd, Server::Guideway];
    let fleet = Fleet::start(FleetOptions { directors: 2, controllers: 1, servers, ranges: true, etcd, check });
    fleet.leader();
    // Every backend was seen once, or the very first check would decide alone.
    let known = |name: &str| fleet.health("h0", name, "checks").as_u64() > Some(0);
    crate::netns_fixture::hosts::until("all were checked", || {
        (1..=4).all(|n| known(&format!("t{n}"))).then_some(()).ok_or_else(String::new)
    });
    let (_events, suspected) = suspicions(&fleet);
    for number in 0..CLIENTS {
        run_on(&fleet.topology.client, "ip", &format!("address add {}/32 dev eth0", address(number)));
    }
    let mut clients = RetryingClients::start(&fleet, CLIENTS);
    for unresponsive in ["t1", "t2"] {
        let since = Instant::now();
        fleet.server(unresponsive, Signal::SIGSTOP);
        let took = fleet.wait_state(&format!("{unresponsive} unresponsive, its clients repeat"), unresponsive, "down");
        let named = format!("boot/{unresponsive}");
        let (at, line) = loop {
            let word = suspected.recv_timeout(TIMEOUT).expect("nobody suspected it");
            if word.1.contains(&named) {
                break word;
            }
        };
        println!("{line}: {} ms after it stopped; down after {} ms", (at - since).as_millis(), took.as_millis());
        assert!(at - since < took, "the suspicion came first");
        assert!(took < BY_INTERVAL, "{took:?}: no sooner than by the checks of every {INTERVAL:?} alone");
        let others = (1..=4).filter(|n| fleet.backend(0, &format!("t{n}"), "state") == "down").count();
        assert_eq!(others, 1, "nobody else is down, suspected or not");
        fleet.server(unresponsive, Signal::SIGCONT);
        let (verified, failed) = clients.end();
        println!("{verified} transfers verified, {failed} failed");
        assert!(verified > 16, "the other servers served all along");
        fleet.wait_state(&format!("{unresponsive} answers again"), unresponsive, "active");
        clients = RetryingClients::start(&fleet, CLIENTS);
    }
    clients.end();
    // The same without anybody who repeats: the checks alone.
    fleet.server("t3", Signal::SIGSTOP);
    let alone = fleet.wait_state("t3 unresponsive, no client sends requests to it", "t3", "down");
    fleet.server("t3", Signal::SIGCONT);
    assert!(alone > BY_INTERVAL, "{alone:?}: so soon by checks alone, that this test shows nothing");
}

#[test]
fn clients_find_a_mute_server_sooner_than_its_checks_with_etcd() {
    netns_fixture::in_namespace(crate::NEEDS, || an_unresponsive_server_is_found_by_its_clients(true));
}

#[test]
fn clients_find_a_mute_server_sooner_than_its_checks_with_a_directory() {
    netns_fixture::in_namespace(crate::NEEDS, || an_unresponsive_server_is_found_by_its_clients(false));
}
