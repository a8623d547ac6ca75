//! `guideway health` as users run it: real servers behind GRE in namespaces of their own, the check's host apart and without the VIP.
#![allow(clippy::unwrap_used, clippy::panic)] // A test fails by panicking, in its helpers too.

mod netns_fixture;

use guideway_daemon::client as control_client;
use guideway_host::netlink::Netlink;
use guideway_host::netns::Namespace;
use netns_fixture::{GUIDEWAY, Running, in_namespace, ip, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(30);
const CANARY: &[u8] = &[0x5a; 3000];
/// Where checks come from.
const SOURCES: [&str; 2] = ["10.0.0.9", "fd00::9"];

/// Lines of a program, as they come.
fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            println!("{line}");
            let _over = sender.send(line);
        }
    });
    receiver
}

fn wait_for(lines: &Receiver<String>, part: &str) -> String {
    loop {
        let line = lines.recv_timeout(TIMEOUT).unwrap_or_else(|e| panic!("no {part}: {e}"));
        if line.contains(part) {
            return line;
        }
    }
}

fn signal(program: &Running, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(program.0.id()).unwrap()), signal).unwrap();
}

/// A backend on a host of its own, beyond a link of its own. The namespace that the test is in is the host of the checks.
struct Backend {
    namespace: Namespace,
    address: IpAddr,
    root: tempfile::TempDir,
    running: Vec<Running>,
}

impl Backend {
    /// The host `number`, without a server.
    fn new(number: usize, v6: bool) -> Backend {
        let namespace = Namespace::new("backend").unwrap();
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0").unwrap();
            namespace.sysctl(&format!("ipv6/conf/{scope}/accept_dad"), "0").unwrap();
        }
        let (here, there, prefix, source) = match v6 {
            false => (format!("10.0.{number}.1"), format!("10.0.{number}.2"), 24, SOURCES[0]),
            true => (format!("fd00:{number}::1"), format!("fd00:{number}::2"), 64, SOURCES[1]),
        };
        let (link, address): (String, IpAddr) = (format!("b{number}"), there.parse().unwrap());
        let netlink = Netlink::open().unwrap();
        netlink.add_veth(&link, "far").unwrap();
        netlink.move_to_namespace("far", &namespace, "eth0").unwrap();
        netlink.add_address(&link, here.parse().unwrap(), prefix).unwrap();
        netlink.set_up(&link, true).unwrap();
        Netlink::in_namespace(&namespace, |n| {
            n.set_up("lo", true)?;
            n.add_address("eth0", address, prefix)?;
            n.set_up("eth0", true)
        })
        .unwrap();
        let mut backend = Backend { namespace, address, root: tempfile::tempdir().unwrap(), running: Vec::new() };
        let status = backend.command_on("ip").args(["route", "add", source, "via", &here]).status().unwrap();
        assert!(status.success());
        backend.write(CANARY);
        std::fs::set_permissions(backend.root.path(), PermissionsExt::from_mode(0o755)).unwrap();
        backend
    }

    fn write(&mut self, content: &[u8]) {
        std::fs::write(self.root.path().join("canary"), content).unwrap();
    }

    /// A program on this host, that ends with the test's thread.
    fn command_on(&self, name: &str) -> Command {
        let mut command = program("nsenter");
        command.arg(format!("--net=/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())).arg(name);
        command
    }

    /// `guideway tftpd` that takes GRE itself.
    fn tunnel(mut self, vip: &str) -> Backend {
        let mut command = self.command_on(GUIDEWAY);
        command.args(["tftpd", "--gre", &self.address.to_string(), "--vip", vip, "--root"]).arg(self.root.path());
        let mut child = Running(command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
        wait_for(&lines(child.0.stderr.take().unwrap()), "answers from");
        self.running.push(child);
        self
    }

    /// in.tftpd behind `guideway decap`.
    fn stock(mut self, vip: &str) -> Backend {
        let mut command = self.command_on(GUIDEWAY);
        command.args(["decap", "--configure", "--local", &self.address.to_string(), "--vip", vip]);
        let mut decap = Running(command.stdout(Stdio::piped()).spawn().unwrap());
        wait_for(&lines(decap.0.stdout.take().unwrap()), "ready");
        let mut command = self.command_on("/usr/sbin/in.tftpd");
        command.args(["--foreground", "--secure", "--user", "root", "--address", &format!("{vip}:69")]).arg(self.root.path());
        let server = Running(command.spawn().unwrap());
        self.running.extend([decap, server]);
        self
    }
}

/// Makes this namespace the host of the checks.
fn host_of_checks() {
    for scope in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter"), "0").unwrap();
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0").unwrap();
    }
    ip(&format!("addr add {}/32 dev lo", SOURCES[0]));
    ip(&format!("addr add {}/128 dev lo nodad", SOURCES[1]));
}

/// A tftp check of a canary like [`CANARY`].
fn canary() -> String {
    let digest: String = Sha256::digest(CANARY).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{{ kind = \"tftp\", file = \"canary\", sha256 = \"{digest}\", size = {}, blksize = 512, interval = \"400ms\", timeout = \"350ms\", \
         slow_start = \"900ms\", min_healthy = 0, hold_down = \"0s\" }}",
        CANARY.len()
    )
}

/// Writes a controller's file.
fn config(directory: &Path, vip: &str, check: &str, backends: &[(&str, IpAddr)]) -> PathBuf {
    let backends: String = backends.iter().map(|(name, address)| format!("{{ name = \"{name}\", address = \"{address}\" }},")).collect();
    let text = format!(
        "[health]\nname = \"h1\"\nsource = [\"{}\", \"{}\"]\nsocket = \"{2}/h1.sock\"\nmetrics = \"127.0.0.1:9069\"\nexec_dirs = [\"{2}\"]\n\
         [[vip]]\naddress = \"{vip}\"\nservice = \"tftp\"\npool = \"boot\"\n[[pool]]\nname = \"boot\"\ncheck = {check}\nbackends = [{backends}]\n",
        SOURCES[0],
        SOURCES[1],
        directory.display()
    );
    std::fs::write(directory.join("health.toml"), text).unwrap();
    directory.join("health.toml")
}

/// A running controller.
struct Controller {
    running: Running,
    log: Receiver<String>,
    socket: PathBuf,
}

impl Controller {
    fn start(config: &Path) -> Controller {
        let mut command = program(GUIDEWAY);
        command.args(["health", "--config"]).arg(config).stderr(Stdio::piped());
        let mut running = Running(command.spawn().unwrap());
        let log = lines(running.0.stderr.take().unwrap());
        wait_for(&log, "ready");
        Controller { running, log, socket: config.with_file_name("h1.sock") }
    }

    /// Waits for a status of a backend; every question is a round trip through the controller.
    fn until(&self, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let status = control_client::get::<serde_json::Value>(&self.socket, "/v1/status").unwrap();
            let backend = status["backends"].as_array().unwrap().iter().find(|backend| backend["name"] == name);
            if let Some(backend) = backend.filter(|backend| condition(backend)) {
                return backend.clone();
            }
            assert!(Instant::now() < deadline, "still {status:#}");
        }
    }
}

/// The outcome of `guideway health --once` for each backend, and the exit code.
fn once(config: &Path) -> (Vec<(String, String)>, Option<i32>) {
    let output = program(GUIDEWAY).args(["health", "--once", "--json", "--config"]).arg(config).output().unwrap();
    let said: Vec<Value> =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (said.iter().map(|each| (text(&each["outcome"]), text(&each["text"]))).collect(), output.status.code())
}

#[test]
fn real_servers_are_taken_out_and_brought_back() {
    in_namespace(&[("in.tftpd", "tftpd-hpa")], || {
        host_of_checks();
        let vip = "192.0.2.69";
        let t1 = Backend::new(1, false).tunnel(vip);
        let mut t2 = Backend::new(2, false).stock(vip);
        let directory = tempfile::tempdir().unwrap();
        let file = config(directory.path(), vip, &canary(), &[("t1", t1.address), ("t2", t2.address)]);
        let controller = Controller::start(&file);
        for name in ["t1", "t2"] {
            controller.until(name, |backend| backend["state"] == "up" && backend["last"]["outcome"] == "passed");
        }
        assert_eq!(once(&file), (vec![("passed".into(), "passed".into()); 2], Some(0)));
        // The same servers under ranges that they were not started with: acknowledgements would reach other backends.
        let ranged = directory.path().join("ranged.toml");
        let text = std::fs::read_to_string(&file)
            .unwrap()
            .replace("address = \"10.0.1.2\"", "address = \"10.0.1.2\", tid_range = \"20000-20999\"");
        let text = text.replace("address = \"10.0.2.2\"", "address = \"10.0.2.2\", tid_range = \"21000-21999\"");
        std::fs::write(&ranged, text).unwrap();
        let (outcomes, code) = once(&ranged);
        assert!(outcomes.iter().all(|(outcome, _)| outcome == "wrong_port") && code == Some(1), "{outcomes:?}");
        assert!(outcomes[1].1.contains("not in its tid_range 21000-21999") && outcomes[1].1.contains("--port-range"), "{outcomes:?}");

        // Silence: down within fall × interval, a time-out and the jitter; the rest is the machine's.
        let stopped = Instant::now();
        signal(&t1.running[0], Signal::SIGSTOP);
        let said = wait_for(&controller.log, "backend down");
        let took = stopped.elapsed();
        assert!(said.contains("timeout: no answer within 350ms") && said.contains("backend=t1"), "{said}");
        println!("down after {took:?}");
        assert!(took < Duration::from_millis(3 * 440 + 350 + 1000), "{took:?}");
        let (outcomes, code) = once(&file);
        assert_eq!((outcomes[0].0.as_str(), outcomes[1].0.as_str(), code), ("timeout", "passed", Some(1)));
        assert_eq!(controller.until("t2", |_| true)["state"], "up", "the other one is untouched");

        // Back with a slow start.
        signal(&t1.running[0], Signal::SIGCONT);
        wait_for(&controller.log, "backend up");
        let slow = controller.until("t1", |backend| backend["state"] == "slow" || backend["state"] == "up");
        assert!(slow["percent"].as_u64().unwrap() >= 10);
        controller.until("t1", |backend| backend["state"] == "up");

        // An error is no silence.
        std::fs::remove_file(t2.root.path().join("canary")).unwrap();
        let said = wait_for(&controller.log, "backend down");
        assert!(said.contains("refused: TFTP error 1 (file not found)") && said.contains("backend=t2"), "{said}");
        t2.write(&[0x5b; 3000]);
        let wrong = controller.until("t2", |backend| backend["last"]["outcome"] == "wrong_content");
        assert!(wrong["last"]["text"].as_str().unwrap().contains("unexpected SHA-256"), "{wrong:#}");
        t2.write(&[0x5a; 3001]);
        controller.until("t2", |backend| backend["last"]["text"].as_str().unwrap().contains("announces 3001 bytes, expected 3000"));
        t2.write(CANARY);
        wait_for(&controller.log, "backend up");

        let mut scrape = TcpStream::connect("127.0.0.1:9069").unwrap();
        scrape.write_all(b"GET /metrics HTTP/1.1\r\nHost: h1\r\nConnection: close\r\n\r\n").unwrap();
        let mut metrics = String::new();
        scrape.read_to_string(&mut metrics).unwrap();
        let value = |name: &str| {
            metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or_else(|| panic!("{metrics}"))
        };
        assert!(
            value("guideway_health_backend_down_transitions_total ") >= 2.0
                && value("guideway_health_backend_up_transitions_total ") >= 2.0,
            "{metrics}"
        );
        assert_eq!(value("guideway_health_pool_backends_held_up{pool=\"boot\"} "), 0.0);

        // Another intent, without a restart; a bad one changes nothing.
        config(directory.path(), vip, &canary(), &[("t2", t2.address)]);
        signal(&controller.running, Signal::SIGHUP);
        wait_for(&controller.log, "intent reloaded");
        let status = control_client::get::<serde_json::Value>(&controller.socket, "/v1/status").unwrap();
        assert_eq!(status["backends"].as_array().unwrap().len(), 1);
        config(directory.path(), vip, "{ kind = \"tftq\" }", &[("t2", t2.address)]);
        let reload = || program(GUIDEWAY).args(["reload", "--socket"]).arg(&controller.socket).output().unwrap();
        let refused = reload();
        assert!(refused.status.code() == Some(1) && String::from_utf8_lossy(&refused.stderr).contains("health.toml:13"), "{refused:?}");
        assert!(wait_for(&controller.log, "reload refused").contains("health.toml:13"));
        let reloads = || control_client::get::<serde_json::Value>(&controller.socket, "/v1/status").unwrap()["reload"].clone();
        assert!(reloads()["last_error"].as_str().unwrap().contains("tftq"), "{}", reloads());
        config(directory.path(), vip, &canary(), &[("t2", t2.address)]);
        assert!(reload().status.success() && reloads()["last_error"].is_null());
        let table = program(GUIDEWAY).args(["status", "--socket"]).arg(&controller.socket).output().unwrap();
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(table.starts_with("h1 (guideway ") && table.contains("tftp canary every 400ms"), "{table}");

        signal(&controller.running, Signal::SIGTERM);
        wait_for(&controller.log, "ended");
        let Controller { mut running, socket, .. } = controller;
        assert!(running.0.wait().unwrap().success() && !socket.exists());
    });
}

#[test]
fn checks_travel_in_gre_over_ipv6() {
    in_namespace(&[], || {
        host_of_checks();
        let vip = "2001:db8::69";
        let t1 = Backend::new(1, true).tunnel(vip);
        let t2 = Backend::new(2, true);
        let directory = tempfile::tempdir().unwrap();
        let file = config(directory.path(), vip, &canary(), &[("t1", t1.address), ("t2", t2.address)]);
        let (outcomes, code) = once(&file);
        assert_eq!((outcomes[0].0.as_str(), outcomes[1].0.as_str(), code), ("passed", "timeout", Some(1)), "{outcomes:?}");
        let controller = Controller::start(&file);
        assert!(wait_for(&controller.log, "backend down").contains("backend=t2"));
        controller.until("t1", |backend| backend["state"] == "up" && backend["checks"].as_u64().unwrap() > 3);
    });
}

/// A pool with one backend at `address` and this check, checked once.
fn outcome(directory: &Path, address: &str, check: &str) -> (String, String) {
    let vip = if address.contains(':') { "2001:db8::69" } else { "192.0.2.69" };
    let (mut outcomes, code) = once(&config(directory, vip, check, &[("x", address.parse().unwrap())]));
    let outcome = outcomes.remove(0);
    assert_eq!(code, Some(i32::from(outcome.0 != "passed")), "{outcome:?}");
    outcome
}

#[track_caller]
fn assert_outcome(directory: &Path, address: &str, check: &str, name: &str, text: &str) {
    let (found, said) = outcome(directory, address, check);
    assert!(found == name && said.contains(text), "{check}: {found}: {said}; expected {name}: {text}");
}

#[test]
fn udp_tcp_and_http() {
    in_namespace(&[], || {
        host_of_checks();
        ip("addr add 10.9.0.1/32 dev lo");
        ip("addr add fd00:9::1/128 dev lo nodad");
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        for address in ["10.9.0.1", "fd00:9::1"] {
            let parsed: IpAddr = address.parse().unwrap();
            let echo = UdpSocket::bind((parsed, 7)).unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 100];
                while let Ok((length, from)) = echo.recv_from(&mut bytes) {
                    let _gone = echo.send_to(&[b"echo ", &bytes[..length]].concat(), from);
                }
            });
            let unresponsive = UdpSocket::bind((parsed, 8)).unwrap();
            let udp =
                |port: u16, rest: &str| format!("{{ kind = \"udp\", port = {port}, send = \"hex:616263\", timeout = \"300ms\"{rest} }}");
            assert_outcome(at, address, &udp(7, ""), "passed", "");
            assert_outcome(at, address, &udp(7, ", expect = \"abc\""), "passed", "");
            assert_outcome(
                at,
                address,
                &udp(7, ", expect = { prefix = \"abc\" }"),
                "wrong_content",
                "the answer \"echo abc\" does not begin with \"abc\"",
            );
            assert_outcome(at, address, &udp(8, ""), "timeout", "no answer within 300ms");
            assert_outcome(at, address, &udp(9, ""), "refused", "refused the connection");
            drop(unresponsive);

            let http = TcpListener::bind((parsed, 80)).unwrap();
            std::thread::spawn(move || {
                for mut stream in http.incoming().map_while(Result::ok) {
                    let mut request = BufReader::new(stream.try_clone().unwrap());
                    let mut line = String::new();
                    let _read = request.read_line(&mut line);
                    let answer = match line.split(' ').nth(1) {
                        Some("/up") => "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nall is well\n",
                        Some("/broken") => "220 mail.example ESMTP\r\n",
                        Some(_) => "HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n",
                        None => continue,
                    };
                    while request.read_line(&mut line).is_ok_and(|count| count > 2) {}
                    let _sent = stream.write_all(answer.as_bytes());
                }
            });
            assert_outcome(at, address, "{ kind = \"tcp\", port = 80 }", "passed", "");
            assert_outcome(at, address, "{ kind = \"tcp\", port = 81 }", "refused", "refused the connection");
            let http = |rest: &str| format!("{{ kind = \"http\"{rest} }}");
            assert_outcome(at, address, &http(", path = \"/up\", expect = \"well\""), "passed", "");
            assert_outcome(at, address, &http(", path = \"/up\", expect = \"ill\""), "wrong_content", "does not contain \"ill\"");
            assert_outcome(at, address, &http(""), "refused", "HTTP status 503, expected 200");
            assert_outcome(at, address, &http(", status = 503"), "passed", "");
            assert_outcome(at, address, &http(", path = \"/broken\""), "other", "does not speak HTTP");
        }
        // Nobody has this address, and there is no way to it: a fault of this host's routes says nothing of the backend.
        assert_outcome(at, "10.8.0.1", "{ kind = \"tcp\", port = 80 }", "not_run", "unreachable");
    });
}

#[test]
fn icmp_with_and_without_ping_sockets() {
    in_namespace(&[], || {
        host_of_checks();
        let near = Backend::new(1, false);
        let near6 = Backend::new(2, true);
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        for groups in ["1 0", "0 2147483647"] {
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", groups).unwrap();
            for address in [near.address, near6.address] {
                assert_outcome(at, &address.to_string(), "{ kind = \"icmp\" }", "passed", "");
            }
            assert_outcome(at, "10.0.1.77", "{ kind = \"icmp\", timeout = \"300ms\" }", "timeout", "");
            assert_outcome(at, "fd00:2::77", "{ kind = \"icmp\", timeout = \"300ms\" }", "timeout", "");
        }
    });
}

#[test]
fn programs_are_run_when_allowed_and_killed_with_what_they_started() {
    in_namespace(&[], || {
        host_of_checks();
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let script = |name: &str, text: &str| {
            std::fs::write(at.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(at.join(name), PermissionsExt::from_mode(0o755)).unwrap();
            format!("{{ kind = \"exec\", command = [\"{}\", \"10.9.0.1\"], timeout = \"1s\" }}", at.join(name).display())
        };
        let good = script("good", "test \"$1 $GUIDEWAY_ADDRESS $GUIDEWAY_BACKEND $GUIDEWAY_POOL\" = \"10.9.0.1 10.9.0.1 x boot\"");
        assert_outcome(at, "10.9.0.1", &good, "passed", "");
        let bad = script("bad", "echo disk full; exit 3");
        assert_outcome(at, "10.9.0.1", &bad, "refused", "exit status: 3: disk full");
        let hang = script("hang", &format!("sleep 1000 &\necho $! > {}/child\nwait", at.display()));
        assert_outcome(at, "10.9.0.1", &hang, "timeout", "was killed after 1s");
        let child = std::fs::read_to_string(at.join("child")).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        let deadline = Instant::now() + TIMEOUT;
        // Killed, and perhaps not collected yet by whoever adopts it.
        while std::fs::read_to_string(&stat).is_ok_and(|text| !text.rsplit(')').next().unwrap().starts_with(" Z")) {
            assert!(Instant::now() < deadline, "what the program started still runs");
            std::thread::yield_now();
        }
        assert_outcome(at, "10.9.0.1", "{ kind = \"exec\", command = [\"/bin/true\"] }", "not_run", "is not allowed");
        let lost = script("gone", "").replace("/gone", "/nothing");
        assert_outcome(at, "10.9.0.1", &lost, "not_run", "No such file");
    });
}
