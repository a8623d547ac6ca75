//! `guideway tftpd` with a configuration, as users run it: over loopback, with `guideway tftp get` as the client.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

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
