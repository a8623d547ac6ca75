//! `pkt-gen` over real veth pairs, through captures and memory, and through a director; leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use guideway_host::netlink::Netlink;
use guideway_host::netns::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const A: &str = "02:00:00:00:00:0a";
const B: &str = "02:00:00:00:00:0b";

fn root() -> bool {
    if !geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promised it");
        println!("SKIPPED: needs root");
    }
    geteuid().is_root()
}

fn pkt_gen(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkt-gen"));
    command.args(arguments.split_whitespace()).arg("--json");
    command
}

fn result(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {errors}"))
}

/// A directory that is removed again.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("pkt-gen-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Two namespaces with the ends of a veth pair: `a0` and `b0`.
struct Wire {
    a: Namespace,
    b: Namespace,
}

impl Wire {
    fn new() -> Wire {
        let wire = Wire { a: Namespace::new("a").unwrap(), b: Namespace::new("b").unwrap() };
        for namespace in [&wire.a, &wire.b] {
            ["all", "default"].iter().for_each(|which| namespace.sysctl(&format!("ipv6/conf/{which}/disable_ipv6"), "1").unwrap());
        }
        let b = wire.b.clone();
        Netlink::in_namespace(&wire.a, |n| n.add_veth("a0", "b0").and_then(|()| n.move_to_namespace("b0", &b, "b0"))).unwrap();
        for (namespace, name, last) in [(&wire.a, "a0", 0x0a), (&wire.b, "b0", 0x0b)] {
            Netlink::in_namespace(namespace, |n| n.set_mac(name, [2, 0, 0, 0, 0, last]).and_then(|()| n.set_up(name, true))).unwrap();
        }
        wire
    }

    fn on_a(&self, arguments: &str) -> Value {
        let child = self.a.spawn(pkt_gen(arguments).stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
        result(&child.wait_with_output().unwrap())
    }

    /// Starts a program in the other namespace and waits until it takes packets.
    fn on_b(&self, arguments: &str) -> Running {
        let mut child = self.b.spawn(pkt_gen(arguments).stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first == "receiving" || first == "answering", "{first}");
        // What it says later must find a reader.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| println!("{line}")));
        Running(child)
    }
}

/// Killed when the test fails.
struct Running(Child);

impl Running {
    fn result(mut self) -> Value {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.0.wait().unwrap().success());
        serde_json::from_str(&text).unwrap()
    }

    fn end(self) -> Value {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT).unwrap();
        self.result()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_one_end_of_a_veth_pair_sends_the_other_receives_numbered_and_complete() {
    if !root() {
        return;
    }
    let wire = Wire::new();
    for (tx, rx, more) in [
        ("af_packet:a0", "af_packet:b0", ""),
        ("af_xdp:a0", "af_xdp:b0 --take 192.0.2.69", "--shape tftp --flows 1000 --zipf 1"),
        ("af_packet:a0", "af_xdp:b0 --take 10.0.1.11", "--gre 10.0.0.1,10.0.1.11 -l 200"),
    ] {
        let receiver = wire.on_b(&format!("-i {rx} -f rx -n 5000"));
        // A tenth of what the slowest io does: losses would be a fault.
        let sent = wire.on_a(&format!("-i {tx} -f tx -n 5000 -R 20k -b 16 -S {A} -D {B} {more}"));
        assert_eq!(sent["sent"]["frames"], 5000);
        assert!((0.2..1.5).contains(&sent["sent"]["seconds"].as_f64().unwrap()), "20,000 a second: {sent}");
        let received = &receiver.result()["received"];
        assert_eq!(
            (&received["frames"], &received["lost"], &received["duplicates"], &received["reordered"]),
            (&5000.into(), &0.into(), &0.into(), &0.into())
        );
        let latency = received["latency_ns"]["p50"].as_u64().unwrap();
        assert!(latency > 500 && latency < 1_000_000_000, "{received}");
    }
}

#[test]
fn a_ping_is_answered_over_a_veth_pair() {
    if !root() {
        return;
    }
    let wire = Wire::new();
    let answering = wire.on_b("-i af_packet:b0 -f pong");
    let pinged = wire.on_a(&format!("-i af_packet:a0 -f ping -n 200 -S {A} -D {B} --gre 10.0.0.1,10.0.1.11"));
    assert_eq!((&pinged["sent"]["frames"], &pinged["received"]["frames"], &pinged["unanswered"]), (&200.into(), &200.into(), &0.into()));
    let latency = &pinged["received"]["latency_ns"];
    assert!(latency["min"].as_u64().unwrap() > 1000 && latency["min"].as_u64() <= latency["p50"].as_u64(), "{pinged}");
    assert_eq!(answering.end()["answered"], 200);
    // Nobody is there any more.
    let alone = wire.on_a(&format!("-i af_packet:a0 -f ping -n 1 -S {A} -D {B}"));
    assert_eq!((&alone["unanswered"], &alone["received"]["frames"]), (&1.into(), &0.into()));
}

#[test]
fn captures_are_written_read_and_replayed() {
    let directory = Directory::new("captures");
    let (made, again) = (directory.file("made.pcap"), directory.file("again.pcap"));
    let run = |arguments: &str| result(&pkt_gen(arguments).output().unwrap());
    run(&format!("-i pcap:{made} -f tx -n 300 -R 10k --shape tftp --flows 10 --gre 10.0.0.1,10.0.1.11"));
    assert_eq!(run(&format!("-i pcap:{made} -f rx"))["received"]["frames"], 300);
    // Twice, numbered anew: without that every frame would be there twice.
    let sent = run(&format!("-i pcap:{again} -f tx -P {made} --rounds 2 --number --gre 10.0.0.2,10.0.1.12"));
    assert_eq!(sent["sent"]["frames"], 600);
    let received = &run(&format!("-i pcap:{again} -f rx"))["received"];
    assert_eq!((&received["frames"], &received["duplicates"], &received["lost"]), (&600.into(), &0.into(), &0.into()));
    run(&format!("-i pcap:{again} -f tx -P {made} --rounds 2"));
    assert_eq!(run(&format!("-i pcap:{again} -f rx"))["received"]["duplicates"], 300);
    // At its own times: 300 frames at 10,000 a second last 30 ms; at a tenth of the speed 0.3 s.
    let slow = run(&format!("-i pcap:{again} -f tx -P {made} --speed 0.1"));
    assert!((0.25..2.0).contains(&slow["sent"]["seconds"].as_f64().unwrap()), "{slow}");
}

#[test]
fn the_search_ends_at_the_highest_rate_when_nothing_is_lost() {
    let found = result(&pkt_gen("-i memory -f bisect --start 1k --max-rate 4k --trial 0.2 --tries 20").output().unwrap());
    assert_eq!(found["limit"], "allowed", "{found}");
    assert!(found["trials"].as_array().unwrap().len() >= 3, "1, 2 and 4 thousand: {found}");
    assert!((3500.0..4500.0).contains(&found["loss_free_pps"].as_f64().unwrap()), "{found}");
}

#[test]
fn what_cannot_be_done_is_said_with_the_right_exit_code() {
    for (arguments, code, said) in [
        ("-i memory -f tx -l 20", 2, "at least 56 bytes"),
        ("-i memory -f tx -P /nonexistent.pcap", 2, "/nonexistent.pcap"),
        ("-i af_packet:no-such-if -f rx", 1, "no-such-if"),
        ("-i netmap:x{ -f rx", 2, "is no pipe"),
    ] {
        let output = pkt_gen(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {errors}");
        assert!(errors.contains(said), "{arguments}: {errors}");
    }
}

/// The director that was built with this program.
fn director() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_pkt-gen")).with_file_name("guideway");
    if !program.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--package", "guideway", "--bin", "guideway"]).status().unwrap();
        assert!(built.success() && program.exists());
    }
    program
}

#[test]
fn a_loss_free_rate_through_a_director_is_found_and_its_books_agree() {
    if !root() {
        return;
    }
    let directory = Directory::new("lab");
    let capture = directory.file("acks.pcap");
    let made = format!("-i pcap:{capture} -f tx -n 500 --shape tftp --flows 50 --tids 20000-23999 --gre 10.0.0.1,10.0.1.11");
    result(&pkt_gen(&made).output().unwrap());
    for more in ["--shape tftp --flows 100".to_owned(), "--steering 2 --shape udp --flows 100".to_owned(), format!("-P {capture}")] {
        let run = format!("--lab-bisect --start 2k --max-rate 4k --trial 0.3 --tries 10 --loss 0.01 {more}");
        let found = result(&pkt_gen(&run).arg("--guideway").arg(director()).output().unwrap());
        assert!(found["loss_free_pps"].as_f64().unwrap() > 1500.0, "{found:#}");
        let sum = |key: &str| found["trials"].as_array().unwrap().iter().map(|trial| trial[key].as_u64().unwrap()).sum::<u64>();
        assert!(sum("sent") >= 600 && sum("received") > 0, "{found:#}");
        // What came back is what the director has sent; nobody else is on the wire.
        let (received, transmitted) = (&found["director"]["received"], &found["director"]["transmitted"]);
        assert!(transmitted.as_u64().unwrap() >= sum("received") && received.as_u64().unwrap() <= sum("sent"), "{found:#}");
    }
}
