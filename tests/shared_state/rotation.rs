//! A new hash key for a fleet, while clients fetch: all directors switch at one generation, and what was announced is what moves.

use crate::fleet::{Fleet, FleetOptions};
use crate::netns_fixture::hosts::{content, program_on, until};
use crate::netns_fixture::{self, GUIDEWAY};
use guideway_testbed::servers::Server;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients that are under way at the switch.
const CLIENTS: u32 = 24;
/// Source ports whose backend is asked for before and after.
const PROBED_PORTS: u16 = 300;

fn options(ranges: bool) -> FleetOptions {
    let check = "interval = \"1s\", timeout = \"500ms\", slow_start = \"0s\"".to_owned();
    FleetOptions { directors: 3, controllers: 1, servers: &[Server::InTftpd], ranges, etcd: true, check }
}

/// Clients that fetch one file after the other, block by block.
struct FetchLoop {
    stop: Arc<AtomicBool>,
    /// Transfers that were begun.
    begun: Arc<AtomicU32>,
    threads: Vec<JoinHandle<Vec<Fetch>>>,
}

/// One transfer.
struct Fetch {
    began: Instant,
    ended: Instant,
    verified: bool,
}

impl FetchLoop {
    fn start(fleet: &Fleet) -> FetchLoop {
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let one = |number| {
            let (host, vip, stop, begun) = (fleet.topology.client.clone(), fleet.plan.vip, stop.clone(), begun.clone());
            let to = fleet.directory.path().join(format!("fetched-{number}"));
            std::thread::spawn(move || {
                let (expected, mut all) = (content(), Vec::new());
                while all.is_empty() || !stop.load(Relaxed) {
                    let mut get = program_on(&host, GUIDEWAY);
                    get.args(["tftp", "get", "--quiet", "--force", "--blksize", "512", "--retries", "3", "--output"]).arg(&to);
                    let began = Instant::now();
                    begun.fetch_add(1, Relaxed);
                    let done = get.arg(format!("tftp://{vip}/kernel")).output().unwrap().status.success();
                    assert!(!done || std::fs::read(&to).unwrap() == expected, "a transfer brought other bytes");
                    all.push(Fetch { began, ended: Instant::now(), verified: done });
                }
                all
            })
        };
        FetchLoop { threads: (0..CLIENTS).map(one).collect(), stop, begun }
    }

    /// Waits until so many more transfers have begun.
    fn after(&self, more: u32) {
        let before = self.begun.load(Relaxed);
        until("transfers begin", || {
            let now = self.begun.load(Relaxed);
            (now >= before + more).then_some(()).ok_or_else(|| format!("{now}"))
        });
    }

    fn end(self) -> Vec<Fetch> {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// Runs a `guideway set intent` with this key at the first director; the plan.
fn set_key(fleet: &Fleet, id: &str, dry_run: bool) -> Result<Value, String> {
    let file = fleet.directory.path().join("rotated.toml");
    std::fs::write(&file, format!("active_key = \"{id}\"\n{}", fleet.intent(100))).unwrap();
    let mut command = Command::new(GUIDEWAY);
    command.args(["set", "intent"]).arg(file).args(["--json", "--socket"]).arg(fleet.socket("d1"));
    let output = if dry_run { command.arg("--dry-run") } else { &mut command }.output().unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into())
    }
}

/// The key in use, and the other one that is known.
fn keys(fleet: &Fleet, director: usize) -> (String, String) {
    let key = fleet.status(director)["key"].clone();
    let active = key["active"].as_str().unwrap().to_owned();
    let other = key["known"].as_array().unwrap().iter().find(|known| **known != active).unwrap().as_str().unwrap().to_owned();
    (active, other)
}

/// Asks for the file from so many ports by a packet each, and sees by the port that answers who has got it.
fn backend_by_port(fleet: &Fleet) -> BTreeMap<u16, String> {
    let (client, vip): (IpAddr, IpAddr) = (fleet.plan.client, fleet.plan.vip);
    let owner = |port: u16| {
        let has = |backend: &&guideway_lab::plan::Backend| backend.tid_range.is_some_and(|(first, last)| (first..=last).contains(&port));
        fleet.plan.backends.iter().find(has).unwrap().name.clone()
    };
    let ask = |port: u16| {
        let socket = UdpSocket::bind((client, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut answer = [0; 600];
        for _ in 0..5 {
            socket.send_to(b"\0\x01kernel\0octet\0", SocketAddr::new(vip, 69)).unwrap();
            if let Ok((_, from)) = socket.recv_from(&mut answer) {
                socket.send_to(b"\0\x05\0\0enough\0", from).unwrap();
                return (port, owner(from.port()));
            }
        }
        panic!("no answer to port {port}");
    };
    fleet.topology.client.run(|| Ok((30_000..30_000 + PROBED_PORTS).map(ask).collect())).unwrap()
}

/// The generations and fingerprints of all directors, when they have this key and agree.
fn switched(fleet: &Fleet, id: &str) -> Duration {
    let took = fleet.wait_all("the new key is in use", &[0, 1, 2], |number| fleet.status(number)["key"]["active"] == *id);
    fleet.agree();
    took
}

fn share(of: usize, all: usize) -> f64 {
    of as f64 / all as f64
}

#[test]
fn with_tid_ranges_no_transfer_fails_when_the_key_changes_and_what_was_announced_moves() {
    netns_fixture::in_namespace(crate::NEEDS, || {
        let fleet = Fleet::start(options(true));
        fleet.agree();
        let (old, new) = keys(&fleet, 0);
        let usual = fleet.status(0)["vips"][0]["fingerprint"].clone();
        let before = backend_by_port(&fleet);
        let clients = FetchLoop::start(&fleet);
        clients.after(2 * CLIENTS);
        let announced = set_key(&fleet, &new, true).unwrap();
        assert_eq!((&announced["changed"], keys(&fleet, 0)), (&Value::from(true), (old.clone(), new.clone())), "nothing is done yet");
        let moved = announced["vips"][0]["moved_share"].as_f64().unwrap();
        assert_eq!(announced["running"][0]["transfers_affected"], 0, "{}", announced["running"]);
        let at = Instant::now();
        let done = set_key(&fleet, &new, false).unwrap();
        assert_eq!((&done["applied"], &done["vips"]), (&Value::from(true), &announced["vips"]));
        switched(&fleet, &new);
        assert_ne!(fleet.status(0)["vips"][0]["fingerprint"], usual);
        clients.after(2 * CLIENTS);
        let all = clients.end();
        let over = all.iter().filter(|one| one.began < at && one.ended > at).count();
        println!("{} transfers, {over} of them over the switch", all.len());
        assert!(over >= usize::try_from(CLIENTS).unwrap() / 2, "{over}");
        assert_eq!(all.iter().filter(|one| !one.verified).count(), 0, "with ranges nothing fails");
        // What was announced are rows of the table; requests spread evenly over them.
        let after = backend_by_port(&fleet);
        let other = before.iter().filter(|(port, backend)| after[port] != **backend).count();
        let real = share(other, before.len());
        println!("announced: {:.1} % of the rows move; moved: {other} of {PROBED_PORTS} clients ({:.1} %)", 100.0 * moved, 100.0 * real);
        // Four standard deviations of a share of so many.
        assert!((real - moved).abs() < 4.0 * (moved * (1.0 - moved) / f64::from(PROBED_PORTS)).sqrt(), "{real} {moved}");
        // And back: the same key gives the same tables.
        set_key(&fleet, &old, false).unwrap();
        switched(&fleet, &old);
        assert_eq!(fleet.status(0)["vips"][0]["fingerprint"], usual);
        assert_eq!(backend_by_port(&fleet), before);
    });
}

#[test]
fn without_tid_ranges_only_what_runs_at_the_switch_may_fail() {
    netns_fixture::in_namespace(crate::NEEDS, || {
        let fleet = Fleet::start(options(false));
        fleet.agree();
        let (_, new) = keys(&fleet, 0);
        let clients = FetchLoop::start(&fleet);
        clients.after(2 * CLIENTS);
        let announced = set_key(&fleet, &new, true).unwrap();
        let moved = announced["vips"][0]["moved_share"].as_f64().unwrap();
        let effect = &announced["running"][0];
        assert!(effect["transfers_affected"].is_null() && effect["effect"].is_string(), "nobody can know: {effect}");
        println!("announced: {:.1} % of the rows move; {}", 100.0 * moved, effect["effect"]);
        let from = Instant::now();
        set_key(&fleet, &new, false).unwrap();
        let until = from + switched(&fleet, &new) + Duration::from_secs(1);
        clients.after(2 * CLIENTS);
        let all = clients.end();
        let over: Vec<&Fetch> = all.iter().filter(|one| one.began < until && one.ended > from).collect();
        let failed = all.iter().filter(|one| !one.verified).count();
        println!("{} transfers, {} about the switch, {failed} failed", all.len(), over.len());
        assert_eq!(over.iter().filter(|one| !one.verified).count(), failed, "before and after it none fails");
        assert!(failed <= CLIENTS as usize, "{failed}");
    });
}

#[test]
fn a_key_that_a_director_does_not_know_is_refused_and_nothing_changes() {
    netns_fixture::in_namespace(crate::NEEDS, || {
        let fleet = Fleet::start(options(true));
        fleet.agree();
        let (old, new) = keys(&fleet, 0);
        // The third one forgets the new key.
        fleet.forget_next_key(2);
        crate::netns_fixture::hosts::signal(&fleet.directors[2], Signal::SIGHUP);
        until("d3 knows one key", || {
            let known = fleet.status(2)["key"]["known"].clone();
            (known.as_array().unwrap().len() == 1).then_some(()).ok_or_else(|| known.to_string())
        });
        until("and has said so", || {
            let refused = set_key(&fleet, &new, true);
            refused.is_err().then_some(()).ok_or_else(|| "not refused".to_owned())
        });
        let refused = set_key(&fleet, &new, false).unwrap_err();
        assert!(refused.contains("d3") && refused.contains(&new), "{refused}");
        assert_eq!((keys(&fleet, 0).0, fleet.status(2)["key"]["active"].clone()), (old.clone(), Value::from(old)));
    });
}
