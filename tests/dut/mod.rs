//! A director under test in a network namespace of its own, and the wire at whose other end router and backends are.
#![allow(dead_code)] // Each test uses its part.

use guideway_daemon::client::{Client, Error};
use guideway_io::af_packet::AfPacket;
use guideway_packet::io::Io;
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub const GUIDEWAY: &str = env!("CARGO_BIN_EXE_guideway");
pub const TIMEOUT: Duration = Duration::from_secs(20);
pub const DIRECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x11];
/// Router and backends are addresses of the far end of the veth.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

pub fn ip(command: &str) {
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn no_ipv6() {
    for which in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").unwrap();
    }
}

/// Runs `test` in a network namespace of its own with `dut0`; what is at its other end is handed over.
pub fn in_namespaces(test: impl FnOnce(AfPacket) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promised it");
        println!("SKIPPED: needs root");
        return;
    }
    let here = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        no_ipv6();
        let (tid, far_tid) = channel();
        let (made, pair_made) = channel::<()>();
        let (wire, far_wire) = channel();
        let (end, ended) = channel::<()>();
        let far = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            no_ipv6();
            tid.send(nix::unistd::gettid()).unwrap();
            pair_made.recv().unwrap();
            ip("link set far0 address 02:00:00:00:01:01 up");
            for last in [1, 21, 22, 23, 24] {
                ip(&format!("addr add 10.0.1.{last}/24 dev far0"));
            }
            wire.send(AfPacket::open("far0", 1).unwrap().remove(0)).unwrap();
            // The namespace lives for as long as a thread is in it.
            let _ = ended.recv();
        });
        let tid = far_tid.recv().unwrap();
        ip(&format!("link add dut0 address 02:00:00:00:01:11 type veth peer name far0 netns {tid}"));
        ip("link set dut0 up");
        ip("link set lo up");
        ip("addr add 10.0.1.11/24 dev dut0");
        made.send(()).unwrap();
        test(far_wire.recv().unwrap());
        drop(end);
        far.join().unwrap();
    });
    if let Err(panic) = here.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A running director; killed when the test fails.
pub struct Director {
    pub child: Child,
    log: Mutex<Receiver<String>>,
    pub directory: tempfile::TempDir,
}

impl Director {
    /// With a file that serves `intent`, and has `more` sections.
    pub fn start(io: &str, intent: &str, more: &str) -> Director {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), io, intent, &more.replace("DIRECTORY", &directory.path().display().to_string()));
        Director::start_in(directory)
    }

    /// With the file `d1.toml` of this directory.
    pub fn start_in(directory: tempfile::TempDir) -> Director {
        let mut child = Command::new(GUIDEWAY)
            .args(["director", "--log-format", "json", "--config"])
            .arg(directory.path().join("d1.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                println!("{line}");
                let _ = sender.send(line);
            }
        });
        let director = Director { child, log: Mutex::new(log), directory };
        director.logged("\"ready\"");
        director
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("run/d1.sock")
    }

    pub fn client(&self) -> Client {
        Client::Socket(self.socket())
    }

    /// Waits for a line of the log.
    pub fn logged(&self, part: &str) -> String {
        loop {
            let line = self.log.lock().unwrap().recv_timeout(TIMEOUT).unwrap_or_else(|e| panic!("no {part} in the log: {e}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    pub fn get(&self, path: &str) -> Value {
        self.client().get(path).unwrap()
    }

    pub fn status(&self) -> Value {
        self.get("/v1/status")
    }

    /// Waits for a status; every question is a round trip through the director.
    pub fn until(&self, mut condition: impl FnMut(&Value) -> bool) -> Value {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let status = self.status();
            if condition(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "still {status:#}");
        }
    }

    /// A change that must be made; its plan.
    pub fn change(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.client().change(method, path, body.as_ref()).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// A change that must be refused: the status code and the document.
    pub fn expect_error(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        match self.client().change::<Value>(method, path, body.as_ref()) {
            Err(Error::Refused { status, document, .. }) => (status, *document),
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    /// Runs a command of the program with this director's socket.
    pub fn command(&self, arguments: &str) -> Output {
        Command::new(GUIDEWAY).args(arguments.split_whitespace()).arg("--socket").arg(self.socket()).output().unwrap()
    }

    /// What must not differ when nothing has changed.
    pub fn state(&self) -> (Value, Value, Value) {
        let status = self.get("/v1/status");
        (status["generation"].clone(), status["vips"].clone(), self.get("/v1/intent"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes `d1.toml`.
pub fn write(directory: &Path, io: &str, intent: &str, more: &str) {
    let text = format!(
        r#"
        [director]
        name = "d1"
        address = "10.0.1.11"
        key = "000102030405060708090a0b0c0d0e0f"
        io = {{ kind = "{io}", interface = "dut0" }}
        routers = ["10.0.1.1/32"]
        socket = "{}/run/d1.sock"
        flows = 1024
        {more}
        {intent}
        "#,
        directory.display(),
    );
    std::fs::write(directory.join("d1.toml"), text).unwrap();
}

/// What a client sends to a VIP: a read request to port 69, else an acknowledgement.
pub fn to_vip(client: &str, vip: &str, port: u16) -> build::Packet {
    let client: SocketAddr = client.parse().unwrap();
    let payload: &[u8] = if port == 69 { b"\0\x01pxelinux.0\0octet\0" } else { b"\0\x04\0\x01" };
    build::udp(client, SocketAddr::new(vip.parse().unwrap(), port), payload)
}

/// Sends `inner` in GRE as the router, and gives the last byte of the address of the backend that the director sends it to.
pub fn backend_for(wire: &mut AfPacket, inner: &build::Packet) -> u8 {
    frame_for(wire, inner, |frame| frame[38..].starts_with(inner.bytes()))[33]
}

/// The frame in which the router sends `inner` to a director with this MAC address.
pub fn from_router(inner: &build::Packet, director_mac: [u8; 6]) -> Vec<u8> {
    let (router, director): (IpAddr, IpAddr) = ("10.0.1.1".parse().unwrap(), "10.0.1.11".parse().unwrap());
    inner.gre(router, director).frame(PEER_MAC, director_mac)
}

/// Sends `inner` in GRE as the router, and gives the first frame in GRE from the director that is `wanted`.
pub fn frame_for(wire: &mut AfPacket, inner: &build::Packet, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    frame_by(wire, inner, DIRECTOR_MAC, wanted)
}

/// The same for a director with another MAC address.
pub fn frame_by(wire: &mut AfPacket, inner: &build::Packet, director_mac: [u8; 6], wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    assert!(wire.send(&from_router(inner, director_mac)).unwrap());
    let deadline = Instant::now() + TIMEOUT;
    let mut found = None;
    while found.is_none() {
        assert!(Instant::now() < deadline, "nothing came out of the director");
        wire.poll(Duration::from_millis(100), &mut |_, frames| {
            for frame in frames {
                frame.verdict = Verdict::ToHost;
                let bytes = frame.bytes();
                // Not ARP, and not what the host itself sends.
                let in_gre = bytes.len() > 38 && bytes[6..12] == director_mac && bytes[12..14] == [8, 0] && bytes[23] == 47;
                if in_gre && wanted(bytes) {
                    found = Some(bytes.to_vec());
                }
            }
        })
        .unwrap();
    }
    found.unwrap()
}
