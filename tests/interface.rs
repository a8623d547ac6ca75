//! The interface of a running director changes, or brings more than it can take.
#![allow(clippy::unwrap_used, clippy::panic)] // A test fails by panicking, in its helpers too.

mod dut;

use dut::{DIRECTOR_MAC, Director, in_namespaces, ip};
use guideway_packet::io::Io;
use guideway_packet::wire::build::Packet;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::process::Command;

const INTENT: &str = r#"
    [[vip]]
    address = "192.0.2.69"
    service = "tftp"
    pool = "boot"
    [[pool]]
    name = "boot"
    backends = [{ name = "t1", address = "10.0.1.21", tid_range = "20000-20999" }]
"#;
const KERNEL_IOS: [&str; 2] = ["af_packet", "af_xdp"];

fn acknowledgement() -> Packet {
    dut::to_vip("198.51.100.7:4000", "192.0.2.69", 20_000)
}

#[test]
fn a_changed_mac_address_is_received_and_sent() {
    for io in KERNEL_IOS {
        in_namespaces(move |mut wire| {
            let director = Director::start(io, INTENT, "");
            let inner = acknowledgement();
            dut::frame_for(&mut wire, &inner, |_| true);
            let new = [2, 0, 0, 0, 0x0b, 0x0b];
            ip("link set dut0 address 02:00:00:00:0b:0b");
            if io == "af_xdp" {
                let line = director.logged("io renewed");
                assert!(line.contains("MAC address 02:00:00:00:0b:0b"), "{line}");
            }
            // Plain packets show that the tables know the address, too.
            director.until(|_| {
                assert!(wire.send(&inner.frame(dut::PEER_MAC, new)).unwrap());
                director.status()["counters"]["transmitted"].as_u64() > Some(1)
            });
            let frame = dut::frame_by(&mut wire, &inner, new, |_| true);
            assert_eq!((&frame[6..12], frame[33]), (&new[..], 21));
            assert_eq!(director.status()["io"]["trouble"], Value::Null);
        });
    }
}

#[test]
fn queues_that_are_added_are_opened() {
    in_namespaces(|mut wire| {
        let director = Director::start("af_xdp", INTENT, "");
        assert_eq!(director.status()["workers"], 1);
        let output = Command::new("ethtool").args(["-L", "dut0", "rx", "2"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let line = director.logged("io renewed");
        assert!(line.contains("1 more receive queues"), "{line}");
        dut::frame_for(&mut wire, &acknowledgement(), |_| true);
    });
}

#[test]
fn an_offload_that_is_switched_on_later_is_named_with_what_mends_it() {
    in_namespaces(|_wire| {
        let director = Director::start("af_packet", INTENT, "");
        let output = Command::new("ethtool").args(["-K", "dut0", "gro", "on"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let line = director.logged("dut0 changes packets");
        assert!(line.contains("ethtool -K dut0 gro off"), "{line}");
        let mut lines = 1;
        director.signal(Signal::SIGHUP);
        let reloaded = std::iter::from_fn(|| Some(director.logged(""))).inspect(|line| lines += usize::from(line.contains("gro off")));
        assert!(reloaded.into_iter().any(|line| line.contains("\"reloaded\"")));
        assert_eq!(lines, 1, "it is named once");
    });
}

#[test]
fn what_comes_while_the_director_is_stopped_is_received_or_reported_lost() {
    const SENT: u64 = 20_010;
    for io in KERNEL_IOS {
        in_namespaces(move |mut wire| {
            let director = Director::start(io, INTENT, "metrics = \"127.0.0.1:9068\"");
            director.signal(Signal::SIGSTOP);
            let frame = dut::from_router(&acknowledgement(), DIRECTOR_MAC);
            for _ in 0..SENT {
                assert!(wire.send(&frame).unwrap());
            }
            director.signal(Signal::SIGCONT);
            let sum = |status: &Value| {
                let lost = status["io"]["lost"].as_object().unwrap().values();
                status["counters"]["received"].as_u64().unwrap() + lost.map(|count| count.as_u64().unwrap()).sum::<u64>()
            };
            let status = director.until(|status| sum(status) == SENT);
            assert!(status["io"]["lost"]["ring_full"].as_u64() > Some(1000), "{io}: {status:#}");
            let shown = director.command("status");
            assert!(String::from_utf8_lossy(&shown.stdout).contains("lost before: ring_full"), "{shown:?}");
        });
    }
}
