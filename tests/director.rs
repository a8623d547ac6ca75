//! The built program as a daemon: packets in and out over a veth, reloads, refusals, and its end.
#![allow(clippy::unwrap_used, clippy::panic)] // A test fails by panicking, in its helpers too.

mod dut;

use dut::{Director, PEER_MAC, TIMEOUT, in_namespaces, ip};
use guideway_io::af_packet::AfPacket;
use guideway_packet::wire::build;
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const BOTH: &[(&str, &str)] = &[("t1", "20000-20999"), ("t2", "21000-21999")];
const THREE: &[(&str, &str)] = &[("t1", "20000-20999"), ("t2", "21000-21999"), ("t3", "22000-22999")];

/// `io` is a kind, or a kind and a number of workers that it is steered to: `af_xdp/2`.
fn write_config(directory: &Path, io: &str, backends: &[(&str, &str)]) {
    let (io, steering) = io.split_once('/').map_or((io, String::new()), |(io, workers)| (io, format!("steering = {workers}")));
    let backends: Vec<String> = backends
        .iter()
        .map(|(name, range)| format!("{{ name = \"{name}\", address = \"10.0.1.2{}\", tid_range = \"{range}\" }}", &name[1..]))
        .collect();
    let intent = format!(
        "[[vip]]\naddress = \"192.0.2.69\"\nservice = \"tftp\"\npool = \"boot\"\n[[pool]]\nname = \"boot\"\nbackends = [{}]\n",
        backends.join(", ")
    );
    dut::write(directory, io, &intent, &format!("metrics = \"127.0.0.1:9068\"\n{steering}"));
}

/// A director with [`BOTH`].
fn start(io: &str) -> Director {
    let directory = tempfile::tempdir().unwrap();
    write_config(directory.path(), io, BOTH);
    Director::start_in(directory)
}

/// The director's metrics; it must be in this thread's namespace.
fn metrics() -> String {
    let mut stream = std::net::TcpStream::connect("127.0.0.1:9068").unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: d1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// What a client sends to the first VIP at `port`.
fn from_client(port: u16) -> build::Packet {
    dut::to_vip("198.51.100.7:4000", "192.0.2.69", port)
}

/// Sends `inner` in GRE as the router, and gives the frame that the director makes of it.
fn backend_for(wire: &mut AfPacket, inner: &build::Packet) -> Vec<u8> {
    dut::frame_for(wire, inner, |_| true)
}

/// The last byte of the backend's address, from a frame that must be GRE to it around `inner`.
fn backend_of(frame: &[u8], inner: &build::Packet) -> u8 {
    assert_eq!(frame[..6], PEER_MAC);
    assert_eq!(frame[26..30], [10, 0, 1, 11]);
    assert_eq!(frame[30..33], [10, 0, 1]);
    assert_eq!(frame[34..38], [0, 0, 8, 0]);
    assert_eq!(&frame[38..38 + inner.bytes().len()], inner.bytes(), "the inner packet is not touched");
    frame[33]
}

fn a_day_of_a_director(io: &'static str) {
    in_namespaces(move |mut wire| {
        let mut director = start(io);
        let status = director.status();
        let (kind, workers) = io.split_once('/').map_or((io, 1), |(kind, workers)| (kind, workers.parse().unwrap()));
        assert_eq!((&status["name"], &status["ready"], &status["io"]["kind"]), (&"d1".into(), &true.into(), &kind.into()), "{status:#}");
        assert_eq!((&status["workers"], status["steering"].is_object()), (&workers.into(), workers > 1), "{status:#}");
        assert_eq!(status["vips"][0]["fingerprint"].as_str().unwrap().len(), 16);
        let first = status["generation"].as_u64().unwrap();

        // Packets to the backends that the TID range names, and a request to one of them.
        for (port, expected) in [(20_000, 21), (21_999, 22)] {
            let inner = from_client(port);
            assert_eq!(backend_of(&backend_for(&mut wire, &inner), &inner), expected, "port {port}");
        }
        let request = from_client(69);
        assert!([21, 22].contains(&backend_of(&backend_for(&mut wire, &request), &request)));
        let status = director.until(|s| s["counters"]["transmitted"].as_u64() >= Some(3));
        assert_eq!(status["counters"]["dropped"], serde_json::json!({}));
        assert!(status["backends"].as_array().unwrap().iter().all(|b| b["neighbour"] == "02:00:00:00:01:01"), "{status:#}");

        let scraped = metrics();
        for line in ["guideway_director_packets_transmitted_total 3\n", "_total{reason=\"not_tftp\"} 0\n", "_neighbours_unresolved 0\n"] {
            assert!(scraped.contains(line), "{line} in {scraped}");
        }

        // A file with one backend more.
        write_config(director.directory.path(), io, THREE);
        director.signal(Signal::SIGHUP);
        director.logged("\"reloaded\"");
        let status = director.status();
        assert!(status["generation"].as_u64() > Some(first));
        assert_eq!((&status["reload"]["accepted"], status["backends"].as_array().unwrap().len()), (&1.into(), 3));
        let inner = from_client(22_500);
        assert_eq!(backend_of(&backend_for(&mut wire, &inner), &inner), 23);

        // And with one VIP more, which a filter in the kernel has to let in.
        let file = director.directory.path().join("d1.toml");
        let more = std::fs::read_to_string(&file).unwrap() + "\n[[vip]]\naddress = \"192.0.2.70\"\nservice = \"tftp\"\npool = \"boot\"\n";
        std::fs::write(&file, more).unwrap();
        director.signal(Signal::SIGHUP);
        director.logged("\"reloaded\"");
        let inner = dut::to_vip("198.51.100.7:4000", "192.0.2.70", 20_001);
        assert_eq!(backend_of(&backend_for(&mut wire, &inner), &inner), 21);

        // A file that is broken, one that needs a restart, and one that gives a running transfer's range away.
        let generation = director.status()["generation"].clone();
        let good = std::fs::read_to_string(&file).unwrap();
        let rename = good.replace("name = \"d1\"", "name = \"d9\"");
        let stolen = good.replace("name = \"t3\", address = \"10.0.1.23\"", "name = \"t9\", address = \"10.0.1.29\"");
        for (refused, (text, reason)) in
            [("[director", "d1.toml:1"), (&rename, "restart"), (&stolen, "22000-22999")].into_iter().enumerate()
        {
            std::fs::write(&file, text).unwrap();
            director.signal(Signal::SIGHUP);
            director.logged("tables unchanged");
            let status = director.until(|s| s["reload"]["refused"] == refused + 1);
            assert!(status["reload"]["last_error"].as_str().unwrap().contains(reason), "{status:#}");
            assert_eq!(status["generation"], generation);
        }
        let inner = from_client(22_999);
        assert_eq!(backend_of(&backend_for(&mut wire, &inner), &inner), 23, "refused files change nothing");

        // Nobody takes the place of a running director.
        std::fs::write(&file, good).unwrap();
        let second = Command::new(env!("CARGO_BIN_EXE_guideway")).args(["director", "--config"]).arg(&file).output().unwrap();
        assert_eq!(second.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&second.stderr).contains("another director or server answers"));
        let shown = Command::new(env!("CARGO_BIN_EXE_guideway")).args(["status", "--config"]).arg(&file).output().unwrap();
        assert!(shown.status.success());
        assert!(String::from_utf8_lossy(&shown.stdout).contains("t3       boot"), "{}", String::from_utf8_lossy(&shown.stdout));

        director.signal(Signal::SIGTERM);
        let ended = director.logged("\"ended\"");
        assert!(ended.contains("transmitted"));
        assert_eq!(director.child.wait().unwrap().code(), Some(0));
        assert!(!director.socket().exists());
    });
}

#[test]
fn a_day_of_a_director_on_af_packet() {
    a_day_of_a_director("af_packet");
}

#[test]
fn a_day_of_a_director_that_steers() {
    a_day_of_a_director("af_xdp/2");
    a_day_of_a_director("af_packet/3");
}

#[test]
fn a_day_of_a_director_on_af_xdp() {
    a_day_of_a_director("af_xdp");
}

#[test]
fn a_backend_that_clients_wait_for_is_suspected_and_keeps_its_packets() {
    in_namespaces(|mut wire| {
        let director = start("af_packet");
        // Nobody answers any of them, so they ask again and again.
        let deadline = Instant::now() + TIMEOUT;
        let suspected = loop {
            for client in 1..=12 {
                let client = SocketAddr::from(([198, 51, 100, client], 4000));
                let request = build::udp(client, "192.0.2.69:69".parse().unwrap(), b"\0\x01pxelinux.0\0octet\0");
                backend_for(&mut wire, &request);
            }
            let status = director.status();
            let backends = status["backends"].as_array().unwrap();
            if let Some(backend) = backends.iter().find(|backend| backend["suspected_because"].is_string()) {
                break backend.clone();
            }
            assert!(Instant::now() < deadline, "nobody is suspected: {status:#}");
        };
        assert!(suspected["suspected_because"].as_str().unwrap().contains("clients repeat requests"), "{suspected:#}");
        assert_eq!(suspected["state"], "active", "a suspicion takes nothing from a backend");
        assert!(director.logged("backend suspected").contains("at least 3 clients"));
        let name = suspected["name"].as_str().unwrap();
        let series =
            format!("guideway_director_backend_suspected{{pool=\"boot\",backend=\"{name}\",address=\"10.0.1.2{}\"}} 1\n", &name[1..]);
        assert!(metrics().contains(&series), "{series} in {}", metrics());
    });
}

#[test]
fn a_director_whose_interface_goes_ends_with_an_error() {
    in_namespaces(|_wire| {
        for io in ["af_packet", "af_xdp"] {
            let mut director = start(io);
            ip("link del dut0");
            // Who notices first, the worker or control, is open.
            let said = director.logged("\"ERROR\"");
            assert!(said.contains("worker 0 has ended") || said.contains("`dut0` is gone"), "{said}");
            assert_eq!(director.child.wait().unwrap().code(), Some(1));
            assert!(!director.socket().exists());
            ip("link add dut0 type veth peer name far1");
            ip("link set dut0 up");
        }
    });
}

#[test]
fn what_stops_a_director_from_starting_is_said_with_the_right_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("d1.toml");
    let run = |command: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_guideway")).args([command, "--config"]).arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    std::fs::write(&file, "[director]\nname = 7\n").unwrap();
    let (code, said) = run("director");
    assert_eq!(code, Some(2));
    let (_, checked) = run("check");
    for line in said.lines() {
        assert!(checked.contains(line), "`check` says the same: {line} in {checked}");
    }
    assert!(said.contains("d1.toml:2"));
    write_config(directory.path(), "af_packet", BOTH);
    let (code, said) = run("status");
    assert_eq!(code, Some(1));
    assert!(said.contains("nobody answers"), "{said}");
    let text = std::fs::read_to_string(&file).unwrap().replace("dut0", "no-such-if");
    std::fs::write(&file, text).unwrap();
    let (code, said) = run("director");
    assert_eq!(code, Some(1));
    assert!(said.contains("no-such-if"), "{said}");
}
