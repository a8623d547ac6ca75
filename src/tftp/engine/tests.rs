//! Tests of the engine with the real kernel, in separate network namespaces.

mod borrowed;
mod connected_socket;
#[cfg(feature = "handlers")]
mod hostile;
#[cfg(feature = "handlers")]
mod isolation;
#[cfg(feature = "handlers")]
mod limits;
mod loops;
mod ports;
mod repeated_requests;
mod takeover;
mod tunnel;
mod uploads;

use super::*;
use crate::content::{Bytes, Content, Source, Version};
use crate::directory::{Directory, DirectoryOptions};
use crate::handler::{Handler, Refusal, SharedHandler, handler_fn};
use crate::options::Limits;
use crate::packet::{ErrorCode, Packet, put_ack, put_error, put_request};
use crate::report::{Counter, Outcome, TransferReport};
use crate::request::Request;
use nix::sched::{CloneFlags, unshare};
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Runs `body` in a new network namespace with only a loopback interface. Skipped without root; in CI that is a failure.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "needs root");
        println!("SKIPPED: needs root");
        return;
    }
    let inside = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        body();
    };
    if let Err(panic) = std::thread::spawn(inside).join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new("timeout").arg("30").arg(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Collects the outcomes of transfers.
#[derive(Default)]
struct Outcomes(Mutex<Vec<Outcome>>);

impl Observer for Outcomes {
    fn finished(&self, report: &TransferReport) {
        self.0.lock().unwrap().push(report.outcome.clone());
    }
}

impl Outcomes {
    /// Expects these outcomes, in this order. They are reported on another thread.
    fn expect(&self, expected: &[Outcome]) {
        let since = std::time::Instant::now();
        while *self.0.lock().unwrap() != expected {
            assert!(since.elapsed() < Duration::from_secs(10), "{:?} instead of {expected:?}", self.0.lock().unwrap());
            std::thread::yield_now();
        }
    }
}

fn serve(config: Config, handler: impl Handler + 'static) -> (Running, Arc<Outcomes>) {
    let outcomes = Arc::new(Outcomes::default());
    (Server::bind(config, handler, outcomes.clone()).unwrap().start().unwrap(), outcomes)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A client that sends exactly the packets that a test specifies.
struct Client(UdpSocket);

impl Client {
    fn new(server: SocketAddr) -> (Client, SocketAddr) {
        let socket = UdpSocket::bind(local(0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (Client(socket), server)
    }

    fn ask(server: SocketAddr, file: &str, options: &[(&str, &str)]) -> Client {
        let (client, server) = Client::new(server);
        client.request(server, file, options);
        client
    }

    fn request(&self, server: SocketAddr, file: &str, options: &[(&str, &str)]) {
        let mut bytes = Vec::new();
        put_request(&mut bytes, false, file.as_bytes(), b"octet", options.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        self.0.send_to(&bytes, server).unwrap();
    }

    fn ack(&self, tid: SocketAddr, block: u16) {
        let mut bytes = Vec::new();
        put_ack(&mut bytes, block);
        self.0.send_to(&bytes, tid).unwrap();
    }

    fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = vec![0; 65536];
        let (len, from) = self.0.recv_from(&mut bytes).unwrap();
        bytes.truncate(len);
        (bytes, from)
    }

    /// Expects this block as the next packet; returns its sender.
    fn data(&self, block: u16, data: &[u8]) -> SocketAddr {
        let (bytes, from) = self.receive();
        assert_eq!(Packet::parse(&bytes), Ok(Packet::Data { block, data }));
        from
    }

    fn error(&self, code: ErrorCode) {
        let (bytes, _) = self.receive();
        assert!(matches!(Packet::parse(&bytes), Ok(Packet::Error { code: got, .. }) if got == code), "{bytes:?}");
    }
}

/// Waits until the counters meet a condition; the server has its own thread.
fn until(running: &Running, what: &str, holds: impl Fn(&crate::report::Totals) -> bool) {
    let since = std::time::Instant::now();
    while !holds(&running.statistics().totals()) {
        assert!(since.elapsed() < Duration::from_secs(10), "{what}: {:?}", running.statistics().totals());
        std::thread::yield_now();
    }
}

/// Waits until an IPv6 address is local. The kernel adds the route to its prefix at once, but the local route by a work queue, even with
/// `nodad`; a packet in between gets "no route" (Ip6OutNoRoutes).
fn until_local(address: &str) {
    let since = std::time::Instant::now();
    let local = || Command::new("ip").args(["-6", "route", "show", "table", "local", address]).output().unwrap();
    while local().stdout.is_empty() {
        assert!(since.elapsed() < Duration::from_secs(10), "{address} is not local");
    }
}

#[test]
fn real_clients_get_their_files() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, len: usize| {
            let bytes: Vec<u8> = (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            std::fs::write(dir.path().join(name), &bytes).unwrap();
        };
        let same = |name: &str| {
            let got = dir.path().join("got");
            assert!(std::fs::read(dir.path().join(name)).unwrap() == std::fs::read(&got).unwrap(), "{name} differs");
            std::fs::remove_file(got).unwrap();
        };
        let sizes = [("empty", 0), ("one", 1), ("exact", 8192 * 3), ("many", 300_001)];
        sizes.iter().for_each(|(name, len)| file(name, *len));
        file("wraps", 8 * 65_600);
        let got = dir.path().join("got");
        let got = got.to_str().unwrap();
        let config = Config { loops: 2, ..Config::listen("[::]:69".parse().unwrap()) };
        let (running, outcomes) = serve(config, Directory::new(dir.path(), DirectoryOptions::default()).unwrap());
        let mut transfers = 0;
        for (name, len) in sizes {
            for host in ["127.0.0.1", "[::1]"] {
                let url = format!("tftp://{host}/{name}");
                for blksize in ["512", "1428", "8192", "65464"] {
                    // curl takes a tsize of 0 for the end of the file and stops.
                    let options: &[&str] = if len == 0 { &["--tftp-no-options"] } else { &["--tftp-blksize", blksize] };
                    run("curl", &[&["-q", "-gsS", "-o", got], options, &[&url]].concat());
                    same(name);
                    transfers += 1;
                }
            }
            for (blksize, window) in [("512", "1"), ("1428", "16"), ("8192", "64"), ("65464", "4")] {
                let options = [format!("blksize {blksize}"), format!("windowsize {window}")];
                run("atftp", &["--option", &options[0], "--option", &options[1], "--get", "-r", name, "-l", got, "127.0.0.1", "69"]);
                same(name);
                transfers += 1;
            }
            run("tftp", &["-m", "binary", "127.0.0.1", "-c", "get", name, got]);
            same(name);
            run("busybox", &["tftp", "-g", "-b", "1428", "-r", name, "-l", got, "127.0.0.1", "69"]);
            same(name);
            transfers += 2;
        }
        // More than 65535 blocks: the numbers wrap.
        for window in ["1", "64"] {
            let window = format!("windowsize {window}");
            run("atftp", &["--option", "blksize 8", "--option", &window, "--get", "-r", "wraps", "-l", got, "127.0.0.1", "69"]);
            same("wraps");
            transfers += 1;
        }
        until(&running, "all transfers end", |totals| totals.open() == 0);
        let since = std::time::Instant::now();
        while outcomes.0.lock().unwrap().len() < transfers {
            assert!(since.elapsed() < Duration::from_secs(10));
        }
        let outcomes = outcomes.0.lock().unwrap();
        assert_eq!((outcomes.len(), outcomes.iter().filter(|o| **o == Outcome::Done).count()), (transfers, transfers), "{outcomes:?}");
    });
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    in_namespace(|| {
        run("ip", &["address", "add", "192.0.2.69/32", "dev", "lo"]);
        run("ip", &["address", "add", "2001:db8::69/128", "dev", "lo", "nodad"]);
        until_local("2001:db8::69");
        let (running, _) = serve(Config::listen("[::]:69".parse().unwrap()), handler_fn(|_| Ok(Content::bytes(*b"hello"))));
        for (vip, bind) in [("192.0.2.69:69", "127.0.0.1:0"), ("[2001:db8::69]:69", "[::1]:0")] {
            let client = Client(UdpSocket::bind(bind).unwrap());
            client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let vip: SocketAddr = vip.parse().unwrap();
            client.request(vip, "f", &[]);
            let from = client.data(1, b"hello");
            assert_eq!(from.ip(), vip.ip());
            assert_ne!(from.port(), 69);
            client.ack(from, 1);
        }
        until(&running, "both end", |totals| totals.get(Counter::Done) == 2);
    });
}

#[test]
fn blocks_are_limited_by_the_mtu_or_fragmented() {
    in_namespace(|| {
        run("ip", &["link", "set", "lo", "mtu", "1500"]);
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 253) as u8).collect();
        std::fs::write(dir.path().join("f"), &bytes).unwrap();
        let got = dir.path().join("got");
        for (by_mtu, port, granted) in [(true, 69, "1468"), (false, 70, "8192")] {
            let limits = Limits { blksize_by_mtu: by_mtu, ..Limits::default() };
            let (running, _) =
                serve(Config { limits, ..Config::listen(local(port)) }, Directory::new(dir.path(), DirectoryOptions::default()).unwrap());
            let client = Client::ask(local(port), "f", &[("blksize", "8192")]);
            assert_eq!(client.receive().0, [b"\0\x06blksize\0", granted.as_bytes(), b"\0"].concat());
            // The kernel cannot segment a window into datagrams beyond the MTU; the blocks are sent one by one then.
            let (port, got) = (port.to_string(), got.to_str().unwrap());
            run("atftp", &["--option", "blksize 8192", "--option", "windowsize 16", "--get", "-r", "f", "-l", got, "127.0.0.1", &port]);
            assert!(std::fs::read(got).unwrap() == bytes);
            until(&running, "it ends", |totals| totals.get(Counter::Done) == 1);
            assert_eq!(running.statistics().totals().get(Counter::SendErrors), 0);
        }
    });
}

#[test]
fn an_unknown_tid_gets_an_error_and_disturbs_nothing() {
    in_namespace(|| {
        let (running, _) = serve(Config::listen(local(69)), handler_fn(|_| Ok(Content::bytes(vec![7; 600]))));
        let client = Client::ask(local(69), "f", &[]);
        let tid = client.data(1, &[7; 512]);
        let (unknown_tid, _) = Client::new(tid);
        unknown_tid.ack(tid, 1);
        unknown_tid.error(ErrorCode::UNKNOWN_TID);
        client.ack(tid, 1);
        client.data(2, &[7; 88]);
        client.ack(tid, 2);
        until(&running, "it ends", |totals| totals.get(Counter::Done) == 1);
        // A repeated last ACK of a transfer that has just ended is not an unknown TID.
        client.ack(tid, 2);
        until(&running, "the late ACK is ignored", |totals| totals.get(Counter::AcksIgnored) == 1);
        assert_eq!(running.statistics().totals().get(Counter::UnknownTids), 1);
    });
}

#[test]
fn a_size_probe_is_not_a_failure_and_its_error_is_not_answered() {
    in_namespace(|| {
        let (running, outcomes) = serve(Config::listen(local(69)), handler_fn(|_| Ok(Content::bytes(vec![7; 600]))));
        let client = Client::ask(local(69), "f", &[("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")]);
        let (oack, tid) = client.receive();
        assert_eq!(oack, b"\0\x06tsize\x00600\0blksize\x001468\0windowsize\x004\0");
        let mut error = Vec::new();
        put_error(&mut error, ErrorCode::OPTIONS, b"User aborted the transfer");
        client.0.send_to(&error, tid).unwrap();
        until(&running, "it ends", |totals| totals.get(Counter::Probed) == 1);
        client.0.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert!(client.0.recv_from(&mut [0; 100]).is_err(), "nothing more is sent");
        outcomes.expect(&[Outcome::Probed]);
    });
}

#[test]
fn refusals_writes_and_invalid_packets_are_answered() {
    in_namespace(|| {
        let handler = |request: Request| async move {
            match &*request.name() {
                "denied" => Err(Refusal::access()),
                "slow" => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Err(Refusal::new(ErrorCode(3), "no"))
                }
                "broken" => panic!("a handler panics"),
                "never" => std::future::pending().await,
                _ => Err(Refusal::not_found()),
            }
        };
        let config = Config { open_timeout: Duration::from_millis(200), ..Config::listen(local(69)) };
        let (running, _) = serve(config, handler);
        for (file, code) in [("denied", 2), ("slow", 3), ("broken", 0), ("other", 1)] {
            Client::ask(local(69), file, &[]).error(ErrorCode(code));
        }
        let _unanswered = Client::ask(local(69), "never", &[]);
        for (bytes, code) in [
            (&b"\0\x01f\0mail\0"[..], ErrorCode::ILLEGAL),
            (b"\0\x01name", ErrorCode::ILLEGAL),
            (b"\0\x02name\0octet\0", ErrorCode::ACCESS),
        ] {
            let (client, server) = Client::new(local(69));
            client.0.send_to(bytes, server).unwrap();
            client.error(code);
        }
        until(&running, "all end", |totals| totals.open() == 0 && totals.get(Counter::Overloaded) == 1);
        assert_eq!(running.statistics().totals().get(Counter::HandlerPanics), 1);
    });
}

#[test]
fn a_full_server_evicts_half_open_transfers_and_keeps_the_others() {
    in_namespace(|| {
        let config = Config { max_transfers: 3, ..Config::listen(local(69)) };
        let (running, outcomes) = serve(config, handler_fn(|_| Ok(Content::bytes(vec![7; 1100]))));
        let answers = Client::ask(local(69), "f", &[]);
        let tid = answers.data(1, &[7; 512]);
        answers.ack(tid, 1);
        answers.data(2, &[7; 512]);
        // These clients never answer; the second and third of them stay.
        let forged: Vec<Client> = (0..4).map(|_| Client::ask(local(69), "f", &[])).collect();
        until(&running, "two are evicted", |totals| totals.get(Counter::Evicted) == 2 && totals.open() == 3);
        for late in [&forged[2], &forged[3]] {
            let tid = late.data(1, &[7; 512]);
            late.ack(tid, 1);
        }
        until(&running, "all have answered", |totals| totals.get(Counter::Acks) == 3);
        let _beyond = Client::ask(local(69), "f", &[]);
        until(&running, "none is left to evict", |totals| totals.get(Counter::Shed) == 1);
        answers.ack(tid, 2);
        answers.data(3, &[7; 76]);
        answers.ack(tid, 3);
        until(&running, "it ends", |totals| totals.get(Counter::Done) == 1);
        outcomes.expect(&[Outcome::Evicted, Outcome::Evicted, Outcome::Done]);
    });
}

/// Content that a test supplies in pieces.
struct Stream(Mutex<(Vec<u8>, bool, Option<Waker>)>);

impl Stream {
    fn put(&self, bytes: &[u8], end: bool) {
        let mut state = self.0.lock().unwrap();
        state.0.extend(bytes);
        state.1 |= end;
        if let Some(waker) = state.2.take() {
            waker.wake();
        }
    }
}

impl Source for Arc<Stream> {
    fn size(&self) -> Option<u64> {
        None
    }
    fn version(&self) -> Version {
        Version::of(&[])
    }
    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<std::io::Result<usize>> {
        let mut state = self.0.lock().unwrap();
        let left = &state.0[(offset as usize).min(state.0.len())..];
        let len = left.len().min(buffer.len());
        buffer[..len].copy_from_slice(&left[..len]);
        if len == 0 && !state.1 {
            state.2 = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(len))
    }
}

#[test]
fn pending_content_is_sent_when_it_is_available() {
    in_namespace(|| {
        let stream = Arc::new(Stream(Mutex::default()));
        let served = stream.clone();
        let (running, _) = serve(Config::listen(local(69)), handler_fn(move |_| Ok(Content::from_source(served.clone()))));
        let client = Client::ask(local(69), "f", &[("tsize", "0"), ("blksize", "1000")]);
        until(&running, "it is requested", |totals| totals.get(Counter::Started) == 1);
        assert_eq!(running.statistics().totals().get(Counter::PacketsSent), 0, "no OACK before the first block is available");
        stream.put(&[1; 1500], false);
        let (oack, tid) = client.receive();
        assert_eq!(oack, b"\0\x06blksize\x001000\0", "an unknown size is not acknowledged");
        client.ack(tid, 0);
        client.data(1, &[1; 1000]);
        client.ack(tid, 1);
        stream.put(&[1; 500], true);
        client.data(2, &[1; 1000]);
        client.ack(tid, 2);
        client.data(3, &[]);
        client.ack(tid, 3);
        until(&running, "it ends", |totals| totals.get(Counter::Done) == 1);
    });
}

#[test]
fn a_burst_of_requests_is_not_lost() {
    in_namespace(|| {
        let (running, _) = serve(Config::listen(local(69)), handler_fn(|_| Ok(Content::bytes(*b"hello"))));
        let socket = UdpSocket::bind(local(0)).unwrap();
        let clients: Vec<_> = (0..800).map(|_| UdpSocket::bind(local(0)).unwrap()).collect();
        drop(socket);
        for client in &clients {
            client.send_to(b"\0\x01f\0octet\0", local(69)).unwrap();
        }
        until(&running, "every request is received", |totals| totals.get(Counter::Requests) == 800);
    });
}
