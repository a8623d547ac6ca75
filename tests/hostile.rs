//! A hostile afternoon: garbage, floods of requests from very many addresses, readers that crawl and readers that fall silent, while honest
//! clients fetch files from the same server all the time.
//!
//! `GUIDEWAY_GARBAGE` says how many datagrams of garbage there are; the other numbers follow from it. The enemies and the honest share two
//! processors or so with the server, so what is shown is that nobody is forgotten, not how fast it goes.
#![allow(clippy::unwrap_used, clippy::panic)] // A test fails by panicking, in its helpers too.

mod netns_fixture;

use guideway_tftp::packet::{ErrorCode, Packet, put_ack, put_error, put_request};
use netns_fixture::{GUIDEWAY, Tftpd, ip, program};
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use serde_json::Value;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 69);
const LISTEN: SocketAddrV4 = SocketAddrV4::new(SERVER, 69);
/// Where its answers come from.
const TID: SocketAddrV4 = SocketAddrV4::new(SERVER, 20_001);
/// How many read at a crawl, and how many say nothing after their first ACK.
const SLOW: u8 = 200;
const UNRESPONSIVE: u8 = 200;
/// The pause of a slow reader between two windows.
const SLOW_PAUSE: Duration = Duration::from_millis(100);
/// Default limit of the server's concurrent transfers.
const MAX_TRANSFERS: usize = 100_000;
/// Pauses of the enemies, so that their garbage lasts 8 seconds and their flood 4, or longer when there is more than the machine can send.
const PAUSE: Duration = Duration::from_millis(5);
const GARBAGE_PAUSES: usize = 1600;
const FLOOD_PAUSES: usize = 800;
/// A window goes out twice, then half of it, and so on until single blocks that are repeated for the rest of the server's patience.
const UNANSWERED_WINDOWS: u64 = 4;
/// Transfers of the server that is filled by forged requests, how many come in each pause, and for how many pauses: 8 seconds, so that a
/// server is full all the time although it keeps each for a third of a second only.
const SMALL: usize = 500;
const FORGED: usize = 25;
const FILL_PAUSES: usize = 1600;
/// No honest transfer may take longer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Who fetches, how long each waits before it repeats its request, and what a busy machine may add: the
/// kernel drops what the server has no time to take.
const HONEST: [&str; 2] = ["curl", GUIDEWAY];
const RETRIES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(1)];
const SLACK: Duration = Duration::from_secs(4);

/// Memory that the server may have at any time, in KiB: what it needs anyway in a debug build, and what a request takes that nobody follows up.
fn bound(requests: usize) -> u64 {
    48 * 1024 + requests.min(MAX_TRANSFERS) as u64 * 2
}

fn garbage_wanted() -> usize {
    std::env::var("GUIDEWAY_GARBAGE").map_or(100_000, |count| count.parse().unwrap())
}

/// Sends from whatever address it likes: all of 10.0.0.0/8 is local here.
struct Attacker {
    socket: UdpSocket,
    random: fastrand::Rng,
}

impl Attacker {
    fn new(seed: u64) -> Attacker {
        Attacker { socket: UdpSocket::bind("0.0.0.0:0").unwrap(), random: fastrand::Rng::with_seed(seed) }
    }

    fn send(&self, from: Ipv4Addr, to: SocketAddrV4, bytes: &[u8]) {
        let source = in_addr { s_addr: u32::from(from).to_be() };
        let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: in_addr { s_addr: 0 } };
        let (slices, control) = ([IoSlice::new(bytes)], [ControlMessage::Ipv4PacketInfo(&info)]);
        let to = SockaddrIn::from(to);
        let sent = sendmsg(self.socket.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&to)).unwrap();
        assert_eq!(sent, bytes.len());
    }

    fn random_source(&mut self) -> Ipv4Addr {
        Ipv4Addr::from(0x0A00_0000 | self.random.u32(..1 << 24))
    }

    /// Bytes that are no TFTP, nearly TFTP, or TFTP at the wrong place.
    fn garbage(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let mut bytes = Vec::new();
        match random.u8(..8) {
            0 => bytes.resize(random.usize(..40), 0),
            1 => {
                bytes.resize(random.usize(..1500), 0);
                random.fill(&mut bytes);
            }
            2 => {
                // Any opcode, then anything.
                bytes.extend([0, random.u8(..9)]);
                bytes.resize(2 + random.usize(..60), 0);
                random.fill(&mut bytes[2..]);
            }
            3 => put_ack(&mut bytes, random.u16(..)),
            4 => put_request(&mut bytes, true, b"upload", b"octet", [(&b"tsize"[..], &b"99999999999"[..])]),
            5 => {
                let names: [&[u8]; 5] = [b"../../../etc/passwd", b"/etc/passwd", b"", b"big\xff\xfe", &[b'x'; 900]];
                put_request(&mut bytes, false, names[random.usize(..names.len())], b"octet", NONE);
            }
            _ => {
                let values: [&[u8]; 8] = [b"0", b"-1", b"65536", b"99999999999999999999", b"", b"abc", b"8", b"65464"];
                let mut value = || values[random.usize(..values.len())];
                let options = [(&b"blksize"[..], value()), (b"windowsize", value()), (b"timeout", value()), (b"tsize", value())];
                put_request(&mut bytes, false, b"nothing", b"netascii", options);
                // Cut short or bent.
                let at = random.usize(..bytes.len());
                if random.bool() { bytes.truncate(at) } else { bytes[at] ^= 1 << random.u8(..8) }
            }
        }
        bytes
    }
}

const NONE: [(&[u8], &[u8]); 0] = [];

/// A client that begins properly, at an address of its own.
fn begin(number: u8, net: u8, window: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::new(10, net, 0, number), 0)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut bytes = Vec::new();
    put_request(&mut bytes, false, b"big", b"octet", [(&b"blksize"[..], &b"1428"[..]), (b"windowsize", window.as_bytes())]);
    socket.send_to(&bytes, LISTEN).unwrap();
    let mut answer = [0; 1500];
    let (length, tid) = socket.recv_from(&mut answer).unwrap();
    assert!(matches!(Packet::parse(&answer[..length]), Ok(Packet::Oack(_))), "{:?}", &answer[..length]);
    acknowledge(&socket, tid, 0);
    (socket, tid)
}

fn acknowledge(socket: &UdpSocket, tid: SocketAddr, block: u16) {
    let mut ack = Vec::new();
    put_ack(&mut ack, block);
    socket.send_to(&ack, tid).unwrap();
}

/// Takes a window after each pause, on all sockets, until it is over and they give up; how many blocks the slowest got.
fn crawl(clients: &[(UdpSocket, SocketAddr)], over: &AtomicBool) -> u16 {
    clients.iter().for_each(|(socket, _)| socket.set_nonblocking(true).unwrap());
    let mut blocks = vec![0; clients.len()];
    let mut bytes = [0; 1500];
    while !over.load(Ordering::Relaxed) {
        for ((socket, tid), block) in clients.iter().zip(&mut blocks) {
            while let Ok(length) = socket.recv(&mut bytes) {
                let next = *block + 1;
                *block += u16::from(matches!(Packet::parse(&bytes[..length]), Ok(Packet::Data { block, .. }) if block == next));
            }
            acknowledge(socket, *tid, *block);
        }
        pause(SLOW_PAUSE);
    }
    let mut error = Vec::new();
    put_error(&mut error, ErrorCode::NOT_DEFINED, b"that takes too long");
    clients.iter().for_each(|(socket, tid)| drop(socket.send_to(&error, tid)));
    blocks.into_iter().min().unwrap()
}

/// Paces those who are slow by nature, and those whose rate is to be such that a machine with two processors has time for others.
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// How honest clients fared.
#[derive(Debug)]
struct HonestResult {
    fetched: usize,
    slowest: Duration,
}

/// Fetches again and again until it is over, at least once.
fn honest(client: &str, directory: &Path, over: &AtomicBool) -> HonestResult {
    let got = directory.join(client.rsplit('/').next().unwrap());
    let file = got.to_str().unwrap();
    let url = format!("tftp://{SERVER}/honest");
    let served = std::fs::read(directory.join("root/honest")).unwrap();
    let mut fared = HonestResult { fetched: 0, slowest: Duration::ZERO };
    while fared.fetched == 0 || !over.load(Ordering::Relaxed) {
        let since = Instant::now();
        let mut command = program(client);
        match client {
            "curl" => command.args(["-q", "-gsS", "--tftp-blksize", "1428", "-o", file, &url]),
            _ => command.args(["tftp", "get", "--quiet", "--force", "-o", file, &url]),
        };
        let output = command.output().unwrap();
        assert!(output.status.success(), "{client} after {:?}: {}", since.elapsed(), String::from_utf8_lossy(&output.stderr));
        assert!(std::fs::read(&got).unwrap() == served, "{client} got other bytes");
        fared.fetched += 1;
        fared.slowest = fared.slowest.max(since.elapsed());
    }
    fared
}

/// Says that it is over, also when a test fails: others wait for that.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `evil` while honest clients fetch, [`HONEST`] in their order.
fn fetch_during(what: &str, tftpd: &Tftpd, directory: &Path, attack_fn: impl FnOnce()) -> Vec<HonestResult> {
    let over = AtomicBool::new(false);
    let since = Instant::now();
    let fared: Vec<HonestResult> = std::thread::scope(|scope| {
        let end = End(&over);
        let over = &over;
        let clients = HONEST.map(|client| scope.spawn(move || honest(client, directory, over)));
        attack_fn();
        drop(end);
        clients.map(joined).into_iter().collect()
    });
    let (open, memory, pss) = (tftpd.counters()["open"].clone(), tftpd.memory("status", "VmRSS"), tftpd.memory("smaps_rollup", "Pss"));
    println!("{what}: {:?}, honest {fared:?}, open {open}, resident {memory} KiB, proportional {pss} KiB", since.elapsed());
    assert!(fared.iter().all(|f| f.slowest < TIMEOUT), "{what}: {fared:?}");
    fared
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The namespace's addresses, and a directory with files to serve.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Fixture {
        ip(&format!("address add {SERVER}/32 dev lo"));
        ip("route add local 10.0.0.0/8 dev lo");
        let site = Fixture(tempfile::tempdir().unwrap());
        std::fs::create_dir(site.root()).unwrap();
        for (name, length) in [("honest", 100_000), ("big", 50_000_000)] {
            let mut content = vec![0; length];
            fastrand::Rng::with_seed(7).fill(&mut content);
            std::fs::write(site.root().join(name), content).unwrap();
        }
        site
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }
}

#[test]
fn honest_clients_are_served_among_hostile_ones() {
    netns_fixture::in_namespace(&[("curl", "curl")], || {
        let site = Fixture::new();
        let (garbage, flood) = (garbage_wanted(), garbage_wanted() / 4);
        let tftpd = Tftpd::start(&site.root(), &format!("--listen {LISTEN} --tid-port {}", TID.port()), "info");
        // A server that has served once has all descriptors of its own.
        assert_eq!(served(&tftpd), "done");
        // The socket of a client that was alone is closed a moment after its transfer.
        std::thread::sleep(Duration::from_millis(200));
        let descriptors = tftpd.descriptors();
        println!("at first: resident {} KiB", tftpd.memory("status", "VmRSS"));
        attack(&tftpd, site.0.path(), garbage, flood);
        // Three files at most were open at once, however many clients requested them.
        let now = tftpd.descriptors();
        assert!(now.len() <= descriptors.len() + 3, "{now:?}, before {descriptors:?}");
        let counters = tftpd.idle(Duration::from_secs(60));
        let peak = tftpd.memory("status", "VmHWM");
        assert!(peak <= bound(flood), "{peak} KiB at most, more than {}", bound(flood));
        // The end of a transfer is counted a moment before its file is closed.
        let since = Instant::now();
        while tftpd.descriptors() != descriptors {
            assert!(since.elapsed() < TIMEOUT, "{:?}, before {descriptors:?}: files stay open", tftpd.descriptors());
            std::thread::yield_now();
        }
        let count = |name: &str| counters[name].as_u64().unwrap();
        println!("{peak} KiB at most; {counters:#}");
        for name in ["malformed", "writes", "unknown_tids", "refused", "half_open", "timed_out", "aborted"] {
            assert!(count(name) > 0, "no {name}: {counters:#}");
        }
        // Requests are shed only where the server is full.
        assert!(count("shed") == 0 || flood + usize::from(SLOW) + usize::from(UNRESPONSIVE) > MAX_TRANSFERS, "{counters:#}");
        assert_eq!(served(&tftpd), "done");
        let (_, log) = tftpd.stop();
        let silent = log.iter().filter(|line| line["outcome"] == "timed_out");
        let silent = silent.filter(|line| line["client"].as_str().is_some_and(|client| client.starts_with("10.202.0.")));
        let most = silent.map(|line| line["bytes"].as_u64().unwrap()).max().unwrap();
        println!("a client that fell silent was sent {most} bytes at most");
        assert!(most <= UNANSWERED_WINDOWS * 64 * 1428, "{most} bytes to a client that fell silent");
    });
}

/// Everything at once, in three acts.
fn attack(tftpd: &Tftpd, directory: &Path, garbage: usize, flood: usize) {
    let over = AtomicBool::new(false);
    let slow: Vec<_> = (1..=SLOW).map(|number| begin(number, 201, "4")).collect();
    std::thread::scope(|scope| {
        let end = End(&over);
        let crawling = scope.spawn(|| crawl(&slow, &over));
        let mut silent = Vec::new();
        fetch_during("silent readers", tftpd, directory, || silent = (1..=UNRESPONSIVE).map(|number| begin(number, 202, "64")).collect());
        fetch_during("garbage", tftpd, directory, || {
            let mut enemy = Attacker::new(1);
            for number in 0..garbage {
                if number % (garbage / GARBAGE_PAUSES).max(1) == 0 {
                    pause(PAUSE);
                }
                let (from, bytes) = (enemy.random_source(), enemy.garbage());
                enemy.send(from, if number % 3 == 0 { TID } else { LISTEN }, &bytes);
            }
        });
        fetch_during("flood", tftpd, directory, || forge(flood, (flood / FLOOD_PAUSES).max(1)));
        drop(end);
        let slowest = joined(crawling);
        println!("slow readers: {slowest} blocks each, or more");
        assert!(slowest > 5, "a slow reader got {slowest} blocks only");
    });
}

/// Requests that nobody follows up, so many between two pauses; each from an address of its own, 10.0.0.0 to 10.199.255.255.
fn forge(requests: usize, at_once: usize) {
    let enemy = Attacker::new(2);
    let mut bytes = Vec::new();
    put_request(&mut bytes, false, b"big", b"octet", [(&b"windowsize"[..], &b"64"[..]), (b"blksize", b"1428")]);
    for number in 0..requests {
        if number % at_once == 0 {
            pause(PAUSE);
        }
        enemy.send(Ipv4Addr::from(0x0A00_0000 + (number as u64 * 7919 % (200 << 16)) as u32), LISTEN, &bytes);
    }
}

#[test]
fn forged_requests_that_fill_the_server_keep_nobody_out() {
    netns_fixture::in_namespace(&[("curl", "curl")], || {
        let site = Fixture::new();
        // A shorter first time-out: the rest of the half-open transfers ends sooner.
        let tftpd = Tftpd::start(&site.root(), &format!("--listen {LISTEN} --timeout 300ms --max-transfers {SMALL}"), "info");
        let fared = fetch_during("a full server", &tftpd, site.0.path(), || forge(FORGED * FILL_PAUSES, FORGED));
        for (fared, retry) in fared.iter().zip(RETRIES) {
            assert!(fared.slowest < retry + SLACK, "longer than one retry: {fared:?}");
        }
        let counters = tftpd.idle(TIMEOUT);
        let count = |name: &str| counters[name].as_u64().unwrap();
        assert!(count("evicted") > 10 * SMALL as u64 && count("shed") == 0, "{counters:#}");
        assert_eq!(count("timed_out") + count("aborted") + count("restarted"), 0, "an honest client was cut off: {counters:#}");
    });
}

/// One fetch; how it ended for the server.
fn served(tftpd: &Tftpd) -> &'static str {
    let before = done(&tftpd.counters());
    let output = program("curl").args(["-q", "-gsS", "-o", "/dev/null", &format!("tftp://{SERVER}/honest")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    if done(&tftpd.idle(TIMEOUT)) == before + 1 { "done" } else { "not done" }
}

fn done(counters: &Value) -> u64 {
    counters["done"].as_u64().unwrap()
}
