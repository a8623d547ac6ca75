//! The content of `guideway tftpd` by HTTP: curl asks the same handlers as TFTP clients do.
#![allow(clippy::unwrap_used, clippy::panic)]

use guideway_testbed::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const GUIDEWAY: &str = env!("CARGO_BIN_EXE_guideway");
const TIMEOUT: Duration = Duration::from_secs(20);

/// A running server; it ends with this.
struct Server {
    child: Child,
    log: Receiver<Value>,
    tftp: String,
    http: String,
}

impl Server {
    fn start(config: &Path) -> Server {
        let mut command = Command::new(GUIDEWAY);
        command.args(["tftpd", "--log-format", "json", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--config"]).arg(config);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        // When nobody listens any more, the server must be able to go on.
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| drop(sender.send(serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")))))
        });
        let mut server = Server { child, log, tftp: String::new(), http: String::new() };
        let after = |line: &Value, what: &str| Some(line["message"].as_str()?.strip_prefix(what)?.to_owned());
        while server.http.is_empty() {
            let line = server.log.recv_timeout(TIMEOUT).unwrap();
            server.tftp = after(&line, "requests at ").unwrap_or_else(|| server.tftp.clone());
            server.http = after(&line, "HTTP at ").unwrap_or_default();
        }
        server
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn curl(&self, arguments: &[&str], file: &str) -> Command {
        let mut command = Command::new("curl");
        command.args(["-q", "-sS", "--path-as-is", "-m", "20"]).args(arguments).arg(format!("http://{}/{file}", self.http));
        command
    }

    /// What curl says of a request: status and size, as `200 10`.
    fn ask(&self, arguments: &[&str], file: &str) -> String {
        let output = self.curl(&[&["-o", "/dev/null", "-w", "%{http_code} %{size_download}"], arguments].concat(), file).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn get(&self, file: &str) -> Vec<u8> {
        good(self.curl(&["-f"], file).output().unwrap())
    }

    fn get_by_tftp(&self, file: &str) -> Vec<u8> {
        good(Command::new(GUIDEWAY).args(["tftp", "get", "-o", "-"]).arg(format!("tftp://{}/{file}", self.tftp)).output().unwrap())
    }

    /// The next line of the log that `is` wanted.
    fn logged(&self, is: impl Fn(&Value) -> bool) -> Value {
        std::iter::from_fn(|| Some(self.log.recv_timeout(TIMEOUT).unwrap())).find(|line| is(line)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _collected = self.child.wait();
    }
}

fn good(output: Output) -> Vec<u8> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Rules, a directory, a template, and a program that hangs.
fn fixture(directory: &Path) -> std::path::PathBuf {
    let at = |name: &str| directory.join(name);
    std::fs::create_dir_all(at("root/deep")).unwrap();
    std::fs::create_dir_all(at("templates")).unwrap();
    let content: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_be_bytes).collect();
    std::fs::write(at("root/image"), content).unwrap();
    std::fs::write(at("root/deep/a b"), "spaced").unwrap();
    std::fs::write(at("secret"), "outside of the root").unwrap();
    std::fs::write(at("templates/boot"), "hello {{ host }} at {{ client }}\n").unwrap();
    let config = at("tftpd.toml");
    let text = format!(
        "[server]\nsocket = \"{0}/t.sock\"\nopen_timeout = \"500ms\"\ngive_up_after = \"500ms\"\ngrace = \"20s\"\n\
         [[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{0}/root\"\n\
         [[handler]]\nname = \"menus\"\nkind = \"template\"\npattern = \"^menu/(?<host>[a-z0-9]+)$\"\ndirectory = \"{0}/templates\"\n\
         template = \"boot\"\n\
         [[handler]]\nname = \"hangs\"\nkind = \"exec\"\nprogram = [\"/bin/sleep\", \"60\"]\ntimeout = \"60s\"\n\
         [[rule]]\nfile = \"private/**\"\ndeny = true\n\
         [[rule]]\nfile = \"slow/**\"\nuse = \"hangs\"\n\
         [[rule]]\nremap = {{ pattern = \"^old/\", to = \"\" }}\nuse = [\"menus\", \"files\"]\n",
        directory.display()
    );
    std::fs::write(&config, text).unwrap();
    config
}

#[test]
fn the_same_handlers_rules_and_counters() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&fixture(directory.path()));
    for file in ["image", "old/image", "menu/web1"] {
        assert!(server.get(file) == server.get_by_tftp(file), "{file}");
    }
    assert_eq!(server.get("deep/a%20b"), b"spaced");
    let size = "4000000";
    for (arguments, file, expected) in [
        (&["-I"][..], "image", "200 0"),
        (&["-r", "10-19"], "image", "206 10"),
        (&["-r", "-1"], "image", "206 1"),
        (&["-r", "4000000-"], "image", "416 29"),
        (&[], "image?mac=02", &format!("200 {size}")),
        (&["-0"], "deep/../image", &format!("200 {size}")),
        (&[], "nothing", "404 15"),
        (&[], "private/image", "403 14"),
        (&["-X", "DELETE"], "image", "405 32"),
    ] {
        assert_eq!(server.ask(arguments, file), expected, "{file} {arguments:?}");
    }
    // The names of TFTP, percent-decoded once.
    for up in ["../secret", "%2e%2e/secret", "deep/..%2f..%2fsecret", "..%5csecret", "//../secret", "a/../../secret"] {
        assert_eq!(server.ask(&[], up), "403 14", "{up}");
    }
    for absent in ["%252e%252e/secret", &format!("{}/secret", directory.path().display()), ""] {
        assert_eq!(server.ask(&[], absent), "404 15", "{absent}");
    }
    let tag = directory.path().join("tag");
    let [save, compare] = ["--etag-save", "--etag-compare"].map(|flag| [flag, tag.to_str().unwrap()]);
    assert_eq!(server.ask(&save, "image"), format!("200 {size}"));
    assert_eq!(server.ask(&compare, "image"), "304 0");
    std::fs::write(directory.path().join("root/image"), "another").unwrap();
    assert_eq!(server.ask(&compare, "image"), "200 7");

    let line = server.logged(|line| line["protocol"] == "http" && line["outcome"] == "done");
    assert_eq!((line["bytes"].as_u64(), line["file"].as_str()), (Some(4_000_000), Some("image")), "{line}");
    let socket = directory.path().join("t.sock");
    let status = Command::new(GUIDEWAY).args(["status", "--json", "--socket"]).arg(&socket).output().unwrap();
    let status: Value = serde_json::from_slice(&good(status)).unwrap();
    assert_eq!(status["http"], serde_json::json!([server.http]));
    let count = |name: &str| status["counters"][name].as_u64().unwrap();
    assert_eq!(["http_requests", "http_invalid", "requests", "open"].map(count), [25, 1, 3, 0], "{status}");
    assert_eq!(["started", "done", "probed", "refused"].map(count), [27, 14, 1, 12], "{status}");
}

#[test]
fn many_at_once_and_one_that_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&fixture(directory.path()));
    let mut hanging: Vec<Child> = (0..8)
        .map(|n| server.curl(&["-o", "/dev/null", "-D", "-"], &format!("slow/{n}")).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    // A client that takes nothing.
    let mut stopped = server.curl(&["--limit-rate", "1"], "image").stdout(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let globbed = server.curl(&["-f", "-Z", "--parallel-max", "40", "-o", "/dev/null", "-w", "%{http_code}\n"], "image?[1-100]").output();
    assert_eq!(String::from_utf8(good(globbed.unwrap())).unwrap(), "200\n".repeat(100));
    println!("100 transfers of 4 MB at once: {:?}", begun.elapsed());
    assert_eq!(server.get_by_tftp("image").len(), 4_000_000);
    for child in hanging.drain(..) {
        let head = String::from_utf8(good(child.wait_with_output().unwrap())).unwrap();
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: 1\r\n"), "{head}");
    }
    let line = server.logged(|line| line["outcome"] == "aborted");
    assert_eq!(line["protocol"], "http", "{line}");
    stopped.kill().unwrap();
    stopped.wait().unwrap();
}

#[test]
fn reloads_and_drains() {
    let directory = tempfile::tempdir().unwrap();
    let config = fixture(directory.path());
    let mut server = Server::start(&config);
    // More than the kernel buffers.
    const LARGE: u64 = 32 << 20;
    std::fs::File::options().write(true).open(directory.path().join("root/image")).unwrap().set_len(LARGE).unwrap();
    let to = directory.path().join("got");
    let slow = |server: &Server| server.curl(&["-f", "--limit-rate", "16M", "-o", to.to_str().unwrap()], "image").spawn().unwrap();
    let mut running = slow(&server);
    wait_until("the transfer runs", TIMEOUT, || to.exists());
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("^old/", "^older/")).unwrap();
    server.signal(Signal::SIGHUP);
    server.logged(|line| line["message"] == "configuration reloaded");
    assert_eq!(server.ask(&[], "old/image"), "404 15");
    assert_eq!(server.ask(&["-I"], "older/image"), "200 0");
    server.signal(Signal::SIGTERM);
    server.logged(|line| line["message"].as_str().unwrap_or_default().starts_with("draining"));
    wait_until("no new connections", TIMEOUT, || server.ask(&[], "image").starts_with("000"));
    assert!(running.wait().unwrap().success(), "the running transfer ends");
    assert_eq!(std::fs::metadata(&to).unwrap().len(), LARGE);
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn sockets_of_systemd() {
    let directory = tempfile::tempdir().unwrap();
    let config = fixture(directory.path());
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // As systemd does: descriptor 3, and the id of the process that keeps it.
    let start = format!("export LISTEN_PID=$$ LISTEN_FDS=1; exec {GUIDEWAY} tftpd --listen 127.0.0.1:0 --config {} 3<&0", config.display());
    let mut command = Command::new("sh");
    command.args(["-c", &start]).stdin(std::os::fd::OwnedFd::from(socket)).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(&format!("HTTP at {address}"))));
    let got = Command::new("curl").args(["-q", "-sSf", "-m", "20"]).arg(format!("http://{address}/deep/a%20b")).output().unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(good(got), b"spaced");
    assert!(child.wait().unwrap().success());
}
