//! `guideway tftpd` with a configuration, as users run it: over loopback, with `guideway tftp get` as the client.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const GUIDEWAY: &str = env!("CARGO_BIN_EXE_guideway");

/// A running server; it ends with this.
struct Server {
    child: Child,
    address: String,
    /// What it logged until it took requests.
    log: String,
}

impl Server {
    fn start(config: &Path) -> Server {
        Server::with(config, &["--listen", "127.0.0.1:0"])
    }

    fn with(config: &Path, flags: &[&str]) -> Server {
        let mut command = Command::new(GUIDEWAY);
        command.arg("tftpd").args(flags).arg("--config").arg(config);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let said = lines.find_map(|line| {
            let line = line.unwrap();
            log += &format!("{line}\n");
            line.split_once("requests at ").map(|(_, address)| address.to_owned())
        });
        // Whatever it logs later must not stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address: said.unwrap_or_else(|| panic!("{log}")), log }
    }

    fn get(&self, file: &str) -> Output {
        Command::new(GUIDEWAY).args(["tftp", "get", "-o", "-"]).arg(format!("tftp://{}/{file}", self.address)).output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _collected = self.child.wait();
    }
}

#[test]
fn handlers_and_rules_of_a_file_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("root")).unwrap();
    std::fs::create_dir(at("templates")).unwrap();
    let content: Vec<u8> = (0..50_000u32).flat_map(u32::to_be_bytes).collect();
    std::fs::write(at("root/image"), &content).unwrap();
    std::fs::write(at("root/secret.key"), "not for you").unwrap();
    std::fs::write(at("templates/grub.j2"), "set machine={{ mac }}").unwrap();
    let text = format!(
        r#"
        [[handler]]
        name = "files"
        kind = "directory"
        root = "{0}/root"
        [[handler]]
        name = "grub"
        kind = "template"
        pattern = '^grub\.cfg-(?<mac>[0-9a-f-]+)$'
        directory = "{0}/templates"
        template = "grub.j2"
        [[rule]]
        file = "*.key"
        deny = true
        [[rule]]
        use = ["grub", "files"]
        "#,
        directory.path().display()
    );
    std::fs::write(at("tftpd.toml"), text).unwrap();
    let server = Server::start(&at("tftpd.toml"));
    assert_eq!(server.get("image").stdout, content);
    assert_eq!(server.get("grub.cfg-02-00-5e").stdout, b"set machine=02-00-5e");
    for (file, said) in [("secret.key", "access denied"), ("nothing", "file not found")] {
        let output = server.get(file);
        assert_eq!(output.status.code(), Some(1), "{file}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(said), "{file}: {error}");
    }
}

#[test]
fn a_file_with_errors_is_refused_with_all_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.toml");
    std::fs::write(&file, "[[handler]]\nname = \"a\"\nkind = \"directry\"\n[[rule]]\nuse = \"b\"\n").unwrap();
    let output = Command::new(GUIDEWAY).args(["tftpd", "--listen", "127.0.0.1:0", "--config"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["bad.toml:3:", "directry", "bad.toml:5:", "\"b\""] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// What a control socket or a page of metrics says after some transfers.
fn http_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_server_tells_what_it_does() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("file"), vec![7; 100_000]).unwrap();
    let text = format!(
        "[server]\nname = \"t1\"\nsocket = \"{0}/run/t1.sock\"\nlisten = \"127.0.0.1:0\"\nmax_transfers = 50\nmax_window = 4\n\
         [[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{0}\"\n",
        directory.path().display()
    );
    std::fs::write(at("t1.toml"), text).unwrap();
    let server = Server::with(&at("t1.toml"), &["--metrics", "127.0.0.1:0"]);
    assert_eq!(server.get("file").stdout.len(), 100_000);
    assert_eq!(server.get("missing").status.code(), Some(1));

    let socket = at("run/t1.sock");
    let status = |args: &[&str]| {
        let output = Command::new(GUIDEWAY).arg("status").args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = || -> serde_json::Value { serde_json::from_str(&status(&["--json", "--socket", socket.to_str().unwrap()])).unwrap() };
    // The server hears of the last acknowledgement after the client has ended.
    let mut known = json();
    while known["counters"]["open"] != 0 {
        known = json();
    }
    assert_eq!((&known["kind"], &known["name"], &known["capacity"]["limit"]), (&"tftpd".into(), &"t1".into(), &50.into()), "{known:#}");
    assert_eq!((&known["counters"]["done"], &known["counters"]["refused"]), (&1.into(), &1.into()), "{known:#}");
    assert_eq!(known["listen"][0], server.address);
    let shown = status(&["--config", at("t1.toml").to_str().unwrap()]);
    assert!(shown.starts_with("t1 (guideway ") && shown.contains("0 of 50 places taken"), "{shown}");

    let (_, metrics) = server.log.split_once("metrics at http://").unwrap();
    let address = metrics.split('/').next().unwrap();
    let answer = http_get(address, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    for line in ["_transfers_ended_total{outcome=\"done\"} 1\n", "_transfers_open 0\n", "_transfers_limit 50\n", "_requests_total 2\n"] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    let sent = known["counters"]["bytes_sent"].to_string();
    assert!(answer.contains(&format!("guideway_tftpd_sent_bytes_total {sent}\n")), "{sent} in {answer}");
    assert!(http_get(address, "/").starts_with("HTTP/1.1 404"));

    let second = Command::new(GUIDEWAY).args(["tftpd", "--config"]).arg(at("t1.toml")).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another director or server answers"));
}

/// A transfer whose first block has arrived.
struct Transfer {
    socket: UdpSocket,
    bytes: Vec<u8>,
}

impl Transfer {
    /// Requests a file; `None` if no answer comes.
    fn start(address: &str, file: &str, wait: Duration) -> Option<Transfer> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(wait)).unwrap();
        socket.send_to(format!("\0\x01{file}\0octet\0").as_bytes(), address).unwrap();
        let mut transfer = Transfer { socket, bytes: Vec::new() };
        let mut packet = [0; 1024];
        let (len, from) = transfer.socket.recv_from(&mut packet).ok()?;
        transfer.socket.connect(from).unwrap();
        transfer.block(&packet[..len], 1);
        Some(transfer)
    }

    fn block(&mut self, packet: &[u8], number: u16) {
        assert_eq!((&packet[..2], &packet[2..4]), (&[0, 3][..], &number.to_be_bytes()[..]), "{}", packet.escape_ascii());
        self.bytes.extend_from_slice(&packet[4..]);
    }

    /// Fetches the rest.
    fn end(mut self) -> Vec<u8> {
        let mut packet = [0; 1024];
        for number in 1.. {
            let [high, low] = u16::to_be_bytes(number);
            self.socket.send(&[0, 4, high, low]).unwrap();
            if self.bytes.len() < usize::from(number) * 512 {
                break;
            }
            // The server repeats blocks while this client does other things.
            let len = loop {
                let len = self.socket.recv(&mut packet).unwrap();
                if packet[2..4] != number.to_be_bytes() {
                    break len;
                }
            };
            self.block(&packet[..len], number + 1);
        }
        self.bytes
    }
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn reloads_and_a_drain_fail_no_transfer() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let contents = [vec![b'a'; 1500], vec![b'b'; 1600]];
    for (root, content) in ["first", "second"].iter().zip(&contents) {
        std::fs::create_dir(at(root)).unwrap();
        std::fs::write(at(root).join("f"), content).unwrap();
    }
    let write = |root: &str, rest: &str| {
        let text = format!(
            "[server]\nname = \"t1\"\nsocket = \"{0}/t1.sock\"\nlisten = \"127.0.0.1:0\"\n\
             [[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{0}/{root}\"\n{rest}",
            directory.path().display()
        );
        std::fs::write(at("t1.toml"), text).unwrap();
    };
    let reload = || Command::new(GUIDEWAY).args(["reload", "--socket"]).arg(at("t1.sock")).output().unwrap();
    write("first", "");
    let mut server = Server::with(&at("t1.toml"), &[]);
    let start = |server: &Server| (0..200).map(|_| Transfer::start(&server.address, "f", LONG).unwrap()).collect::<Vec<_>>();

    let running = start(&server);
    write("second", "[[rule]]\nfile = \"*.key\"\ndeny = true\n[[rule]]\nuse = \"files\"\n");
    let reloaded = reload();
    assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
    assert!(running.into_iter().all(|transfer| transfer.end() == contents[0]), "they keep their file");
    assert_eq!(server.get("f").stdout, contents[1]);
    assert!(String::from_utf8_lossy(&server.get("x.key").stderr).contains("access denied"));

    write("first", "[[rule]]\nuse = \"filez\"\n");
    let refused = reload();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("t1.toml:10") && said.contains("filez"), "{said}");
    write("missing", "");
    let refused = reload();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/missing: "), "{}", String::from_utf8_lossy(&refused.stderr));
    assert_eq!(server.get("f").stdout, contents[1], "refused files change nothing");

    let running = start(&server);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    // The signal needs a moment.
    while let Some(transfer) = Transfer::start(&server.address, "f", Duration::from_millis(200)) {
        transfer.end();
    }
    assert!(server.child.try_wait().unwrap().is_none(), "transfers run");
    assert!(running.into_iter().all(|transfer| transfer.end() == contents[1]));
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn a_second_signal_and_the_end_of_the_grace_end_a_drain() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("f"), [7; 2000]).unwrap();
    let text = format!("[[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{}\"\n", directory.path().display());
    std::fs::write(at("t1.toml"), text).unwrap();
    for (grace, signals) in [("300ms", 1), ("1h", 2)] {
        let mut server = Server::with(&at("t1.toml"), &["--listen", "127.0.0.1:0", "--grace", grace]);
        let _running = Transfer::start(&server.address, "f", LONG).unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(server.child.id()).unwrap());
        for _ in 0..signals {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            while server.child.try_wait().unwrap().is_none() && Transfer::start(&server.address, "f", Duration::from_millis(200)).is_some()
            {
            }
        }
        assert!(server.child.wait().unwrap().success());
    }
}

#[test]
fn successes_are_logged_and_hunting_is_two_lines() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("f"), vec![7; 100_000]).unwrap();
    let file = std::fs::File::create(at("log")).unwrap();
    // As systemd connects a unit to the journal.
    let journal = format!("{}:{}", file.metadata().unwrap().dev(), file.metadata().unwrap().ino());
    let mut child = Command::new(GUIDEWAY)
        .args(["tftpd", "--listen", "127.0.0.1:0", "--root"])
        .arg(directory.path())
        .env("JOURNAL_STREAM", &journal)
        .stderr(file)
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(at("log")).unwrap();
    while !log().contains("answers from") {
        std::thread::yield_now();
    }
    let address = log().split_once("requests at ").unwrap().1.lines().next().unwrap().to_owned();
    let get =
        |file: &str| Command::new(GUIDEWAY).args(["tftp", "get", "-o", "-"]).arg(format!("tftp://{address}/{file}")).output().unwrap();
    for name in ["C0000201", "C000020", "C00002", "default"] {
        assert_eq!(get(&format!("pxelinux.cfg/{name}")).status.code(), Some(1));
    }
    assert_eq!(get("f").stdout.len(), 100_000);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    let log = log();
    let done = log.lines().find(|line| line.contains("file=f ")).unwrap_or_else(|| panic!("{log}"));
    for part in [
        "client=127.0.0.1:",
        "handler=\"root\"",
        "outcome=\"done\"",
        "bytes=100000",
        "retransmitted=",
        "seconds=",
        "mbyte_per_second=",
        "blksize=",
    ] {
        assert!(done.contains(part), "{part}: {done}");
    }
    // The last name is general: hunting does not hide that it is missing.
    assert_eq!(log.matches("pxelinux.cfg").count(), 3, "{log}");
    assert!(log.contains("file=pxelinux.cfg/C00002 outcome=\"refused\" more=2") && log.contains("file=pxelinux.cfg/default"), "{log}");
    assert!(log.lines().all(|line| line.starts_with("<6> INFO ")), "{log}");
    // A unit that cannot start says so as an error; one that is not connected to the journal writes no priorities.
    for (file, priority) in [("log", "<3>"), ("other", "")] {
        let mut command = Command::new(GUIDEWAY);
        command.args(["health", "--config", "/missing.toml"]).env("JOURNAL_STREAM", &journal);
        command.stderr(std::fs::File::options().create(true).truncate(true).write(true).open(at(file)).unwrap());
        assert_eq!(command.status().unwrap().code(), Some(2));
        let said = std::fs::read_to_string(at(file)).unwrap();
        assert!(said.starts_with(priority) && said.starts_with('<') == (file == "log"), "{said}");
    }
}
