//! The real kernel: the same conformance test over pipes, VALE ports and a veth pair, where `/dev/netmap` is. The module is not promised
//! anywhere, so that its absence is said, and no failure.

use super::conformance::connected;
use crate::{Events, OpenError, Options, Port, PortName, Rings, RxRing, TxRing};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether there is a netmap to test; says so when not.
fn netmap(test: &str) -> bool {
    let there = std::path::Path::new("/dev/netmap").exists();
    if !there {
        println!("{test}: not run against a kernel, there is no /dev/netmap");
    }
    there && !cfg!(miri)
}

fn ip(arguments: &str) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split_whitespace()).output().expect("it runs");
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `body` on a thread in a network namespace of its own, which goes away with the thread.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promised it");
        println!("SKIPPED: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        for which in ["all", "default"] {
            // A kernel without IPv6 has nothing to switch off.
            let _none = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
        }
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn without_the_module_that_is_what_is_said() {
    if !cfg!(miri) && !std::path::Path::new("/dev/netmap").exists() {
        assert!(matches!(Port::open("netmap:lo"), Err(OpenError::NoModule)));
    }
}

#[test]
fn pipes() {
    if netmap("pipes") {
        let (mut a, mut b) = (Port::open("netmap:gw{7").unwrap(), Port::open("netmap:gw}7").unwrap());
        assert!(Arc::ptr_eq(a.region(), b.region()), "mapped once");
        connected(&mut a, &mut b, true);
        assert!(matches!(Port::open("netmap:gw{7"), Err(OpenError::Busy { .. })));
    }
}

#[test]
fn switch_ports() {
    if netmap("switch_ports") {
        let (mut a, mut b) = (Port::open("valegw:1").unwrap(), Port::open("valegw:2").unwrap());
        assert!(!Arc::ptr_eq(a.region(), b.region()), "every switch port has a region of its own");
        connected(&mut a, &mut b, false);
    }
}

/// A pair whose ends netmap can take.
fn veth() {
    ip("link add nm0 type veth peer name nm1");
    for end in ["nm0", "nm1"] {
        run("ethtool", &format!("-K {end} tx off rx off sg off tso off gso off gro off rxvlan off txvlan off"));
        ip(&format!("link set {end} up"));
    }
}

#[test]
fn both_ends_of_a_veth_pair() {
    if netmap("both_ends_of_a_veth_pair") {
        in_namespace(|| {
            veth();
            let (mut a, mut b) = (Port::open("netmap:nm0").unwrap(), Port::open("netmap:nm1").unwrap());
            // Emulated adapters hand frames over through the kernel's backlog, which drops what is beyond 1,000 (net.core.netdev_max_backlog): a full
            // ring of 1,023 is more.
            connected(&mut a, &mut b, false);
        });
    }
}

fn all_arrive(from: &mut RxRing, to: &mut TxRing, count: &mut usize) {
    let mut batch = from.batch(64).unwrap();
    for frame in 0..batch.len() {
        let len = batch.bytes(frame).unwrap().len();
        *count += usize::from(batch.send(frame, to, len).unwrap());
    }
}

/// Marks every frame for the kernel to pass up.
fn all_forwarded(from: &mut RxRing, count: &mut usize) {
    let mut batch = from.batch(64).unwrap();
    for frame in 0..batch.len() {
        batch.forward(frame).unwrap();
        *count += 1;
    }
}

#[test]
fn an_interface_keeps_its_address_through_the_host_rings() {
    keeps_its_address("an_interface_keeps_its_address_through_the_host_rings", false);
}

#[test]
fn an_interface_keeps_its_address_when_the_kernel_forwards() {
    keeps_its_address("an_interface_keeps_its_address_when_the_kernel_forwards", true);
}

fn keeps_its_address(test: &str, forward: bool) {
    if netmap(test) {
        in_namespace(move || {
            veth();
            ip("address add 192.0.2.1/24 dev nm0");
            let (mut card, mut host) = (Port::open("netmap:nm0-0").unwrap(), Port::open("netmap:nm0^").unwrap());
            assert!(Arc::ptr_eq(card.region(), host.region()));
            card.rings().rx[0].set_forwarding(forward);
            // The far end is another host, without netmap.
            let mut far = Command::new("unshare").args(["--net", "sleep", "60"]).spawn().expect("it runs");
            let end = Instant::now() + Duration::from_secs(10);
            let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            while std::fs::read_link(format!("/proc/{}/ns/net", far.id())).is_ok_and(|theirs| theirs == own) && Instant::now() < end {
                std::thread::yield_now();
            }
            ip(&format!("link set nm1 netns {}", far.id()));
            let there = |what: &str| format!("--target {} --net {what}", far.id());
            run("nsenter", &there("ip address add 192.0.2.2/24 dev nm1"));
            run("nsenter", &there("ip link set nm1 up"));
            let mut ping = Command::new("nsenter").args(there("ping -c 5 -i 0.2 -W 5 192.0.2.1").split(' ')).spawn().expect("ping runs");
            let (mut up, mut down) = (0, 0);
            let end = Instant::now() + Duration::from_secs(30);
            let status = loop {
                if let Some(status) = ping.try_wait().unwrap() {
                    break status;
                }
                assert!(Instant::now() < end, "{up} frames up, {down} down");
                Port::wait(&[&card, &host], Events::Receive, Duration::from_millis(20)).unwrap();
                let (card_rings, host_rings) = (card.rings(), host.rings());
                if forward {
                    all_forwarded(&mut card_rings.rx[0], &mut up);
                } else {
                    all_arrive(&mut card_rings.rx[0], &mut host_rings.host_tx[0], &mut up);
                }
                all_arrive(&mut host_rings.host_rx[0], &mut card_rings.tx[0], &mut down);
                card.sync_tx().unwrap();
                host.sync_tx().unwrap();
            };
            far.kill().unwrap();
            far.wait().unwrap();
            assert!(status.success() && up >= 5 && down >= 5, "{status}: {up} frames up, {down} down");
        });
    }
}

#[test]
fn each_failure_to_open_has_its_own_error() {
    if netmap("each_failure_to_open_has_its_own_error") {
        in_namespace(|| {
            assert!(matches!(Port::open("netmap:no-such-if"), Err(OpenError::NoInterface { .. })));
            ip("link add nm0 type veth peer name nm1");
            let error = Port::open("netmap:nm0").unwrap_err().to_string();
            assert!(error.contains("ethtool -K nm0 tx off"), "{error}");
            let ignored = PortName::interface("nm0", Rings::All).unwrap();
            assert!(Port::open_with(&ignored, Options { ignore_offloads: true }).is_ok());
            run("ethtool", "-K nm0 tx off rx off sg off tso off gso off gro off rxvlan off txvlan off");
            assert!(matches!(Port::open("netmap:nm0-7"), Err(OpenError::NoRing { ring: 7, .. })));
            let first = Port::open("netmap:nm0").unwrap();
            assert!(matches!(Port::open("netmap:nm0"), Err(OpenError::Busy { .. })));
            drop(first);
            assert!(Port::open("netmap:nm0").is_ok(), "free again");
        });
    }
}
