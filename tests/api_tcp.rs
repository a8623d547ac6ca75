//! The API over TCP: no token, no access; no certificate, no access; and who knocks without either delays nobody.
#![allow(clippy::unwrap_used, clippy::panic)]

mod dut;

use dut::{Director, GUIDEWAY, TIMEOUT, in_namespaces};
use guideway_daemon::client::{Client, Credentials, Error, Remote};
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const INTENT: &str = r#"
    [[vip]]
    address = "192.0.2.69"
    service = "tftp"
    pool = "boot"
    [[pool]]
    name = "boot"
    backends = [
        { name = "t1", address = "10.0.1.21", tid_range = "20000-20999" },
        { name = "t2", address = "10.0.1.22", tid_range = "21000-21999" },
    ]
"#;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Authorities `NAME.pem`, each with a certificate for 127.0.0.1, `NAME-leaf.pem` and `.key`; and the token.
fn secrets(directory: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["good", "other"] {
        openssl(directory, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}"));
        openssl(directory, &format!("req {key} -keyout {name}-leaf.key -out {name}.csr -subj /CN=leaf"));
        std::fs::write(directory.join("extensions"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        let signed = "-days 2 -CAcreateserial -extfile extensions";
        openssl(directory, &format!("x509 -req -in {name}.csr -CA {name}.pem -CAkey {name}.key -out {name}-leaf.pem {signed}"));
    }
    for name in ["leaf.pem", "leaf.key"] {
        std::fs::copy(directory.join(format!("good-{name}")), directory.join(name)).unwrap();
    }
    token(directory, "current", TOKEN, 0o600);
    token(directory, "token", TOKEN, 0o600);
    token(directory, "wrong", "0123456789abcdef0123456789abcdeF", 0o600);
}

fn token(directory: &Path, name: &str, text: &str, mode: u32) {
    std::fs::write(directory.join(name), text).unwrap();
    std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

fn start(api: &str) -> Director {
    let directory = tempfile::tempdir().unwrap();
    secrets(directory.path());
    dut::write(directory.path(), "af_packet", INTENT, &api.replace("DIRECTORY", &directory.path().display().to_string()));
    Director::start_in(directory)
}

fn client(director: &Director, url: &str, token: Option<&str>, identity: Option<&str>) -> Client {
    let file = |name: &str| director.directory.path().join(name);
    let credentials = Credentials {
        token_file: token.map(file),
        ca: Some(file("good.pem")),
        identity: identity.map(|name| (file(&format!("{name}-leaf.pem")), file(&format!("{name}-leaf.key")))),
    };
    Client::Remote(Box::new(Remote::new(url, &credentials).unwrap()))
}

fn status(outcome: Result<serde_json::Value, Error>) -> u16 {
    match outcome {
        Ok(_) => 200,
        Err(Error::Refused { status, document, .. }) => {
            assert!(document["error"].is_string() && document["problems"].is_array(), "{document}");
            status
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn without_the_token_nothing_is_answered() {
    in_namespaces(|_wire| {
        let director = start("[api]\nlisten = \"127.0.0.1:9443\"\ntoken_file = \"DIRECTORY/token\"\n");
        let before = director.state();
        let url = "http://127.0.0.1:9443";
        let of = |token| client(&director, url, token, None);
        assert_eq!(status(of(Some("token")).get::<serde_json::Value>("/v1/status")), 200);
        for path in ["/v1/status", "/v1/openapi.json", "/nonsense", "/v1/events"] {
            assert_eq!(status(of(None).get(path)), 401, "{path}");
        }
        assert_eq!(status(of(None).change("POST", "/v1/pools/boot/backends/t1/drain", None)), 401);
        assert_eq!(status(of(Some("wrong")).change("POST", "/v1/pools/boot/backends/t1/drain", None)), 401);
        let said = director.logged("a wrong token was shown");
        assert!(said.contains("WARN") && !said.contains("abcdeF"), "{said}");
        assert_eq!(director.state(), before);

        let path = |name: &str| director.directory.path().join(name);
        let drained = Command::new(GUIDEWAY).args(["drain", "t1", "--url", url, "--token-file"]).arg(path("token")).output().unwrap();
        assert!(drained.status.success(), "{drained:?}");
        assert_eq!(director.get("/v1/pools/boot/backends/t1")["state"], "drained");

        let status_of = |flags: &str| {
            let output =
                Command::new(GUIDEWAY).args(["status", "--url", url, "--token-file"]).arg(path("token")).args(flags.split(' ')).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let text = status_of("--state drained");
        assert!(text.contains("2 backends: ") && text.contains("1 drained") && !text.contains("t2  "), "{text}");
        let document: serde_json::Value = serde_json::from_str(&status_of("--pool boot --limit 1 --json")).unwrap();
        assert_eq!(document["backends"].as_array().unwrap().len(), 1, "{document}");

        // Who says nothing, or not all, is left after a while; and meanwhile others are answered.
        let mut silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect("127.0.0.1:9443").unwrap()).collect();
        for stream in &mut silent[10..] {
            stream.write_all(b"GET /v1/status HTTP/1.1\r\nX").unwrap();
        }
        assert_eq!(status(of(Some("token")).get::<serde_json::Value>("/v1/status")), 200);
        let since = Instant::now();
        for stream in &mut silent {
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
        }
        assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());

        // So many wrong ones that only the right one opens to this address; the Unix socket is not concerned.
        for _ in 0..9 {
            assert_eq!(status(of(Some("wrong")).get::<serde_json::Value>("/v1/status")), 401);
        }
        let closed =
            (0..12).map(|_| status(of(Some("wrong")).get::<serde_json::Value>("/v1/status"))).filter(|status| *status == 429).count();
        assert!(
            closed > 0 && status(of(Some("token")).get::<serde_json::Value>("/v1/status")) == 200,
            "the right token opens all the same"
        );
        director.get("/v1/status");
    });
}

/// Holds 64 connections to `address` until `stop`: each sends `bytes` four times a second, and comes back when it is closed.
fn strangers(address: &'static str, bytes: &'static [u8], stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let stranger = move |number: u64, stop: Arc<AtomicBool>| {
        std::thread::sleep(Duration::from_millis(number * 2));
        let mut stream: Option<TcpStream> = None;
        while !stop.load(Relaxed) {
            let mut connected = stream.take().unwrap_or_else(|| TcpStream::connect(address).unwrap());
            let _ = connected.set_read_timeout(Some(Duration::from_millis(250)));
            let kept = match connected.write_all(bytes).and_then(|()| connected.read(&mut [0; 4096])) {
                Ok(length) => length > 0,
                Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            };
            stream = kept.then_some(connected);
        }
    };
    (0..64).map(|number| (number, stop.clone())).map(|(number, stop)| std::thread::spawn(move || stranger(number, stop))).collect()
}

#[test]
fn strangers_do_not_lock_out_who_has_the_token() {
    in_namespaces(|_wire| {
        let director = start("metrics = \"127.0.0.1:9100\"\n[api]\nlisten = \"127.0.0.1:9443\"\ntoken_file = \"DIRECTORY/token\"\n");
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = strangers("127.0.0.1:9443", b"GET /v1/status HTTP/1.1\r\nhost: d1\r\n\r\n", &stop);
        threads.extend(strangers("127.0.0.1:9443", b"G", &stop));
        threads.extend(strangers("127.0.0.1:9100", b"G", &stop));
        let idle: Vec<TcpStream> =
            ["127.0.0.1:9443", "127.0.0.1:9100"].iter().flat_map(|to| (0..100).map(move |_| TcpStream::connect(to).unwrap())).collect();
        let with_token = client(&director, "http://127.0.0.1:9443", Some("token"), None);
        for attempt in 0..8 {
            let began = Instant::now();
            assert_eq!(status(with_token.get::<serde_json::Value>("/v1/status")), 200, "attempt {attempt}");
            let mut scrape = TcpStream::connect("127.0.0.1:9100").unwrap();
            scrape.set_read_timeout(Some(TIMEOUT)).unwrap();
            scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: d1\r\nconnection: close\r\n\r\n").unwrap();
            let mut text = String::new();
            scrape.read_to_string(&mut text).unwrap();
            assert!(text.contains("guideway_director_ready 1"), "{text}");
            assert!(began.elapsed() < Duration::from_secs(2), "attempt {attempt} took {:?}", began.elapsed());
        }
        stop.store(true, Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(idle);
    });
}

#[test]
fn without_a_certificate_of_ours_there_is_no_connection() {
    in_namespaces(|_wire| {
        let director = start(
            "[api]\nlisten = \"0.0.0.0:9443\"\ncert = \"DIRECTORY/good-leaf.pem\"\nkey = \"DIRECTORY/good-leaf.key\"\n\
             client_ca = \"DIRECTORY/good.pem\"\ntoken_file = \"DIRECTORY/token\"\n",
        );
        let url = "https://127.0.0.1:9443";
        assert_eq!(status(client(&director, url, Some("token"), Some("good")).get::<serde_json::Value>("/v1/status")), 200);
        assert_eq!(status(client(&director, url, None, Some("good")).get::<serde_json::Value>("/v1/status")), 401, "both are needed");
        for identity in [None, Some("other")] {
            let refused = client(&director, url, Some("token"), identity).get::<serde_json::Value>("/v1/status");
            assert!(matches!(refused, Err(Error::Connect { .. } | Error::InvalidResponse { .. })), "{identity:?}: {refused:?}");
        }
        let plain = client(&director, "http://127.0.0.1:9443", Some("token"), None).get::<serde_json::Value>("/v1/status");
        assert!(matches!(plain, Err(Error::InvalidResponse { .. })), "{plain:?}");
        let path = |name: &str| -> PathBuf { director.directory.path().join(name) };
        let mut shown = Command::new(GUIDEWAY);
        shown.args(["backends", "--url", url]);
        for (flag, name) in [("--token-file", "token"), ("--ca", "good.pem"), ("--cert", "good-leaf.pem"), ("--key", "good-leaf.key")] {
            shown.arg(flag).arg(path(name));
        }
        let shown = shown.output().unwrap();
        assert!(String::from_utf8_lossy(&shown.stdout).contains("t2"), "{shown:?}");
        // A change of this section needs a restart.
        let file = path("d1.toml");
        let text = std::fs::read_to_string(&file).unwrap().replace("0.0.0.0:9443", "0.0.0.0:9444");
        std::fs::write(&file, text).unwrap();
        director.signal(Signal::SIGHUP);
        assert!(director.logged("reload refused").contains("api"));
    });
}

#[test]
fn a_file_that_cannot_be_used_stops_the_director_and_is_named() {
    in_namespaces(|_wire| {
        let directory = tempfile::tempdir().unwrap();
        secrets(directory.path());
        token(directory.path(), "open", TOKEN, 0o644);
        let key = std::fs::read_to_string(directory.path().join("good-leaf.key")).unwrap();
        token(directory.path(), "good-open.key", &key, 0o644);
        let home = directory.path().display().to_string();
        let tls = "cert = \"DIRECTORY/good-leaf.pem\"\nkey = \"DIRECTORY/good-leaf.key\"\n";
        for (api, part) in [
            ("token_file = \"DIRECTORY/open\"\n".to_owned(), "mode 644"),
            ("token_file = \"DIRECTORY/none\"\n".to_owned(), "api.token_file"),
            (format!("{tls}client_ca = \"DIRECTORY/token\"\n"), "has no certificate"),
            (format!("{}client_ca = \"DIRECTORY/good.pem\"\n", tls.replace("leaf.key", "open.key")), "mode 644"),
            (
                "cert = \"DIRECTORY/good-leaf.pem\"\nkey = \"DIRECTORY/other-leaf.key\"\nclient_ca = \"DIRECTORY/good.pem\"\n".to_owned(),
                "does not go with the key",
            ),
        ] {
            let api = format!("[api]\nlisten = \"127.0.0.1:9443\"\n{}", api.replace("DIRECTORY", &home));
            dut::write(directory.path(), "af_packet", INTENT, &api);
            let output = Command::new(GUIDEWAY).args(["director", "--config"]).arg(directory.path().join("d1.toml")).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && said.contains(part), "{part} in {said}");
        }
    });
}

#[test]
fn a_reload_takes_a_new_token_and_a_new_certificate() {
    in_namespaces(|_wire| {
        let director = start(
            "[api]\nlisten = \"127.0.0.1:9443\"\ncert = \"DIRECTORY/leaf.pem\"\nkey = \"DIRECTORY/leaf.key\"\ntoken_file = \"DIRECTORY/current\"\n",
        );
        let path = |name: &str| director.directory.path().join(name);
        let ask = |token: &str, ca: &str| {
            let credentials = Credentials { token_file: Some(path(token)), ca: Some(path(ca)), identity: None };
            Client::Remote(Box::new(Remote::new("https://127.0.0.1:9443", &credentials).unwrap())).get::<serde_json::Value>("/v1/status")
        };
        assert_eq!(status(ask("token", "good.pem")), 200);
        // A pair that does not go together is refused as a whole.
        std::fs::copy(path("other-leaf.pem"), path("leaf.pem")).unwrap();
        let refused = director.command("reload");
        assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("does not go with the key"), "{refused:?}");
        assert_eq!(status(ask("token", "good.pem")), 200);
        std::fs::copy(path("other-leaf.key"), path("leaf.key")).unwrap();
        // Nor does a reload that is refused later change them: each backend's TIDs would go to the other.
        let file = std::fs::read_to_string(path("d1.toml")).unwrap();
        let swapped = file.replace("20000-20999", "other").replace("21000-21999", "20000-20999").replace("other", "21000-21999");
        std::fs::write(path("d1.toml"), swapped).unwrap();
        let refused = director.command("reload");
        assert!(!refused.status.success(), "{refused:?}");
        assert_eq!(status(ask("token", "good.pem")), 200);
        std::fs::write(path("d1.toml"), file).unwrap();
        token(director.directory.path(), "current", "fedcba9876543210fedcba9876543210", 0o600);
        let reloaded = director.command("reload");
        assert!(reloaded.status.success(), "{reloaded:?}");
        assert_eq!(status(ask("current", "other.pem")), 200);
        assert_eq!(status(ask("token", "other.pem")), 401, "the old token");
        assert!(matches!(ask("current", "good.pem"), Err(Error::Connect { .. } | Error::InvalidResponse { .. })), "the old certificate");
    });
}

#[test]
fn a_read_only_token_changes_nothing_and_tokens_are_rotated_by_a_reload() {
    in_namespaces(|_wire| {
        let director = start("[api]\nlisten = \"127.0.0.1:9443\"\ntoken_file = \"DIRECTORY/token\"\n");
        let path = director.directory.path().to_owned();
        let (reader, operator) = ("r".repeat(32), "o".repeat(32));
        token(&path, "reader", &reader, 0o600);
        token(&path, "operator", &operator, 0o600);
        let of = |name: &str| client(&director, "http://127.0.0.1:9443", Some(name), None);
        let drain = "/v1/pools/boot/backends/t1/drain?reason=disk";
        let who = || director.get("/v1/history")["changes"][0]["who"].clone();
        // A file with one token alone: an operator's.
        assert_eq!(status(of("token").change("POST", drain, None)), 200);
        assert_eq!(who(), "token");

        token(&path, "token", &format!("monitor read-only {reader}\nalice operator {operator}\n"), 0o600);
        assert!(director.command("reload").status.success());
        assert_eq!(status(of("current").get::<serde_json::Value>("/v1/status")), 401, "the token of before");
        assert_eq!(status(of("reader").get::<serde_json::Value>("/v1/intent")), 200);
        let before = director.state();
        for (method, path) in
            [("POST", "/v1/pools/boot/backends/t2/drain?confirm=true"), ("POST", "/v1/reload"), ("DELETE", "/v1/vips/192.0.2.69")]
        {
            assert_eq!(status(of("reader").change(method, path, None)), 403, "{method} {path}");
        }
        assert_eq!(director.state(), before);
        let line = director.logged("change of the intent refused");
        assert!(line.contains("monitor") && line.contains("127.0.0.1:") && line.contains("read-only"), "{line}");
        assert_eq!(status(of("operator").change("POST", drain, None)), 200);
        assert_eq!(who(), "alice");
    });
}
