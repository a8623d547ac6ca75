//! What `guideway tftpd` says of transfers to programs: lines of JSON, metrics, and the result of reloads.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const GUIDEWAY: &str = env!("CARGO_BIN_EXE_guideway");
const TIMEOUT: Duration = Duration::from_secs(20);

/// A running server; it ends with this.
struct Server {
    child: Child,
    address: String,
    log: Receiver<String>,
}

impl Server {
    fn start(config: &Path) -> Server {
        let mut command = Command::new(GUIDEWAY);
        command.args(["tftpd", "--listen", "127.0.0.1:0", "--config"]).arg(config);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let mut server = Server { child, address: String::new(), log };
        server.address = server.logged("requests at ").split_once("requests at ").unwrap().1.to_owned();
        server
    }

    /// Waits for a line of the log.
    fn logged(&self, part: &str) -> String {
        let mut seen = String::new();
        loop {
            let line = self.log.recv_timeout(TIMEOUT).unwrap_or_else(|_| panic!("no {part:?} in {seen}"));
            if line.contains(part) {
                return line;
            }
            seen += &(line + "\n");
        }
    }

    fn get(&self, file: &str) -> Output {
        Command::new(GUIDEWAY).args(["tftp", "get", "-o", "-"]).arg(format!("tftp://{}/{file}", self.address)).output().unwrap()
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _collected = self.child.wait();
    }
}

/// Repeats until the condition holds.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A service that answers with these statuses, one after the other, and then with 204; it passes bodies on.
fn service(statuses: &'static [u16]) -> (String, Receiver<(u16, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/reports", listener.local_addr().unwrap());
    let (sender, bodies) = channel();
    std::thread::spawn(move || {
        let mut statuses = statuses.iter();
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = BufReader::new(stream);
            // One request of a connection: the client opens another one.
            let (mut line, mut length, mut head) = (String::new(), 0, String::new());
            while stream.read_line(&mut line).is_ok_and(|count| count > 2) {
                head += &line.to_ascii_lowercase();
                line.clear();
            }
            assert!(head.starts_with("post /reports ") && head.contains("content-type: application/x-ndjson"), "{head}");
            for line in head.lines() {
                length = line.strip_prefix("content-length: ").map_or(length, |length| length.parse().unwrap());
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let status = *statuses.next().unwrap_or(&204);
            write!(stream.get_mut(), "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
            if sender.send((status, String::from_utf8(body).unwrap())).is_err() {
                return;
            }
        }
    });
    (url, bodies)
}

fn http_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn reports_reach_a_file_that_is_rotated_a_socket_and_a_service_that_fails_at_first() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("f"), vec![7; 100_000]).unwrap();
    let (url, bodies) = service(&[503]);
    let collector = UnixDatagram::bind(at("collector")).unwrap();
    collector.set_read_timeout(Some(TIMEOUT)).unwrap();
    let text = format!(
        "[server]\nname = \"t1\"\nsocket = \"{0}/t1.sock\"\nmetrics = \"127.0.0.1:0\"\n\
         [[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{0}\"\n\
         [reports]\nfile = \"{0}/log\"\nsocket = \"{0}/collector\"\nurl = \"{url}\"\ninterval = \"0s\"\n",
        directory.path().display()
    );
    std::fs::write(at("t1.toml"), text).unwrap();
    let mut server = Server::start(&at("t1.toml"));
    assert_eq!(server.get("f").stdout.len(), 100_000);
    let mut datagram = vec![0; 65_536];
    let mut received = || {
        let length = collector.recv(&mut datagram).unwrap();
        serde_json::from_slice::<Value>(&datagram[..length]).unwrap()
    };
    let report = received();
    for (field, value) in [
        ("server", "t1".into()),
        ("operation", "read".into()),
        ("client", "127.0.0.1".into()),
        ("file", "f".into()),
        ("handler", "files".into()),
        ("outcome", "done".into()),
        ("reason", Value::Null),
        ("size", 100_000.into()),
        ("bytes_sent", 100_000.into()),
        ("packets_retransmitted", 0.into()),
        ("taken_over", false.into()),
    ] {
        assert_eq!(report[field], value, "{field}: {report}");
    }
    assert_eq!(report["options"]["blksize"].as_str().unwrap(), report["blksize"].to_string());
    let since_start = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - report["started"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&since_start) && report["duration_seconds"].as_f64().unwrap() < 60.0, "{report}");
    let (status, refused) = bodies.recv_timeout(TIMEOUT).unwrap();
    assert_eq!((status, serde_json::from_str::<Value>(&refused).unwrap()), (503, report.clone()));
    assert_eq!(bodies.recv_timeout(TIMEOUT).unwrap(), (204, refused), "sent again");

    let lines = |name: &str| {
        std::fs::read_to_string(at(name)).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    wait_until("the file has the report", || lines("log") == [report.clone()]);
    std::fs::rename(at("log"), at("log.1")).unwrap();
    assert_eq!(server.get("missing").status.code(), Some(1));
    let missing = received();
    assert_eq!((&missing["reason"], &missing["error_code"]), (&"not_found".into(), &1.into()), "{missing}");
    wait_until("the file is opened anew", || at("log").exists() && lines("log").len() == 1);
    assert_eq!((lines("log")[0].clone(), lines("log.1").len()), (missing, 1));
    // As logrotate and its `postrotate` do, with a file of errors in the meantime.
    std::fs::rename(at("log"), at("log.2")).unwrap();
    std::fs::write(at("t1.toml"), "[[handler]]\n").unwrap();
    server.signal(nix::sys::signal::Signal::SIGHUP);
    wait_until("a signal opens the file anew", || at("log").exists());
    // The last report arrives although the server ends.
    server.get("f");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(server.child.wait().unwrap().success());
    assert_eq!(lines("log").len(), 1);
    assert_eq!(bodies.try_iter().map(|(_, body)| body.lines().count()).sum::<usize>(), 2);
}

#[test]
fn targets_that_cannot_work_are_refused_and_those_that_are_gone_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("f"), "content").unwrap();
    let write = |reports: &str| {
        let text = format!(
            "[server]\nname = \"t1\"\nsocket = \"{0}/t1.sock\"\nmetrics = \"127.0.0.1:0\"\n[[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{0}\"\n[reports]\n{reports}\n",
            directory.path().display()
        );
        std::fs::write(at("t1.toml"), text).unwrap();
    };
    for (reports, said) in [
        ("", "reports: names no target"),
        ("file = \"/proc/none\"", "reports.file: /proc/none: "),
        ("file = \"/tmp\"", "reports.file: /tmp: "),
        ("socket = \"/x\"\nbatch = 7", "reports.batch = 7: requires url"),
        ("url = \"ftp://x/\"", "not an http or https URL"),
    ] {
        write(reports);
        let output = Command::new(GUIDEWAY).args(["tftpd", "--listen", "127.0.0.1:0", "--config"]).arg(at("t1.toml")).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(said), "{reports}: {error}");
    }
    let (url, bodies) = service(&[400, 503, 503]);
    write(&format!("socket = \"{}/nobody\"\nurl = \"{url}\"\nretries = 0\ninterval = \"0s\"", directory.path().display()));
    let server = Server::start(&at("t1.toml"));
    for expected in [400, 503] {
        server.get("f");
        assert_eq!(bodies.recv_timeout(TIMEOUT).unwrap().0, expected);
    }
    server.logged("reports of transfers are not delivered");
    let status = |json: bool| {
        let mut command = Command::new(GUIDEWAY);
        let output = command.args(["status", "--socket"]).arg(at("t1.sock")).args(json.then_some("--json")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // A reload that asks for a target that cannot be opened changes nothing; one with another port names it.
    let reload = || Command::new(GUIDEWAY).args(["reload", "--socket"]).arg(at("t1.sock")).output().unwrap();
    write("file = \"/proc/none\"");
    assert!(String::from_utf8_lossy(&reload().stderr).contains("reports.file: /proc/none"));
    assert!(status(false).contains("0 reload(s), 1 refused, the last one at "), "{}", status(false));
    write(&format!("file = \"{}/log\"", directory.path().display()));
    let text =
        std::fs::read_to_string(at("t1.toml")).unwrap().replace("[server]\n", "[server]\nloops = 2\ngrace = \"7s\"\ntimeout = \"300ms\"\n");
    std::fs::write(at("t1.toml"), text).unwrap();
    assert!(reload().status.success());
    let loops = server.logged("requires a restart");
    assert!(loops.contains(" WARN ") && loops.contains("server.loops: default → 2"), "{loops}");
    let shown = status(false);
    assert!(shown.contains("1 reload(s), 1 refused, the last one at ") && shown.contains(" accepted\n"), "{shown}");
    assert!(
        shown.contains("restart required for server.loops: default → 2\nrestart required for server.timeout: default → 300ms\n"),
        "{shown}"
    );
    assert!(!shown.contains("grace"), "it takes effect: {shown}");
    let document: Value = serde_json::from_str(&status(true)).unwrap();
    assert_eq!((&document["reload"]["accepted"], document["restart_required"].as_array().unwrap().len()), (&1.into(), 2));
    server.get("f");
    wait_until("the new target gets reports", || std::fs::read_to_string(at("log")).is_ok_and(|text| text.lines().count() == 1));
}

#[test]
fn metrics_are_by_handler_and_reason_and_please_promtool() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("f"), vec![7; 100_000]).unwrap();
    let text = format!(
        "[server]\nname = \"t1\"\nsocket = \"{0}/t1.sock\"\nmetrics = \"127.0.0.1:0\"\n[[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{0}\"\n\
         [[handler]]\nname = \"logic\"\nkind = \"exec\"\nprogram = [\"/bin/sh\", \"-c\", \"exit 1\"]\n\
         [[rule]]\nfile = \"logic/*\"\nuse = \"logic\"\n[[rule]]\nfile = \"*.key\"\ndeny = true\n[[rule]]\nuse = \"files\"\n",
        directory.path().display()
    );
    std::fs::write(at("t1.toml"), text).unwrap();
    let mut command = Command::new(GUIDEWAY);
    command.args(["tftpd", "--listen", "127.0.0.1:0", "--config"]).arg(at("t1.toml"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, log) = channel();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    let mut server = Server { child, address: String::new(), log };
    let metrics = server.logged("metrics at http://");
    let metrics = metrics.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    server.address = server.logged("requests at ").split_once("requests at ").unwrap().1.to_owned();
    for file in ["f", "pxelinux.cfg/C0A80001", "pxelinux.cfg/default", "logic/x", "a.key"] {
        server.get(file);
    }
    let page = || http_get(&metrics, "/metrics").split_once("\r\n\r\n").unwrap().1.to_owned();
    wait_until("five requests are counted", || {
        page().contains("guideway_tftpd_handler_requests_total{handler=\"\",outcome=\"refused\"} 1\n")
    });
    let text = page();
    for line in [
        "handler_requests_total{handler=\"files\",outcome=\"done\"} 1",
        "handler_requests_total{handler=\"files\",outcome=\"refused\"} 2",
        "failures_total{handler=\"files\",reason=\"not_found\"} 1",
        "failures_total{handler=\"logic\",reason=\"handler_failed\"} 1",
        "failures_total{handler=\"\",reason=\"access_denied\"} 1",
        "hunting_misses_total{handler=\"files\"} 1",
        "errors_total{code=\"1\",direction=\"sent\"} 2",
        "transfer_duration_seconds_count{handler=\"files\"} 1",
        "transfer_rate_bytes_per_second_bucket{handler=\"files\",le=\"+Inf\"} 1",
        "first_answer_seconds_count{handler=\"files\"} 1",
        "last_reload_successful 1",
    ] {
        assert!(text.contains(&format!("\nguideway_tftpd_{line}\n")), "{line} in {text}");
    }
    guideway_testbed::exposition::parse(&text);
    let Ok(promtool) = guideway_testbed::programs::find("promtool", "prometheus") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs promtool (prometheus), and CI promised it");
        println!("SKIPPED: needs promtool (prometheus)");
        return;
    };
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
