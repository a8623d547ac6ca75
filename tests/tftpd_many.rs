//! Handlers of `guideway tftpd` as many machines meet them, all bytes compared: an origin behind a thousand clients, killed in the middle, and
//! ten thousand machines of an inventory, each with a file of its own.
#![allow(clippy::unwrap_used, clippy::panic)]

mod netns_fixture;

use netns_fixture::{GUIDEWAY, Running, program};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

const SERVER: &str = "127.0.0.1:69";
const MACHINES: u32 = 10_000;

/// `guideway tftpd --config`, and what it logs.
struct Tftpd {
    _child: Running,
    log: Arc<Mutex<String>>,
}

impl Tftpd {
    fn start(directory: &Path, handlers: &str) -> Tftpd {
        let file = directory.join("tftpd.toml");
        let socket = directory.join("tftpd.sock");
        fs::write(&file, format!("[server]\nlisten = \"{SERVER}\"\nsocket = \"{}\"\n{handlers}", socket.display())).unwrap();
        let mut command = program(GUIDEWAY);
        command.args(["tftpd", "--config"]).arg(file).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Running(command.spawn().unwrap());
        let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines().map_while(Result::ok);
        let log = Arc::new(Mutex::new(String::new()));
        let keep = move |log: &Mutex<String>, line: &str| writeln!(log.lock().unwrap(), "{line}").unwrap();
        let ready = lines.by_ref().inspect(|line| keep(&log, line)).any(|line| line.contains("requests at "));
        assert!(ready, "{}", log.lock().unwrap());
        let more = log.clone();
        thread::spawn(move || lines.for_each(|line| keep(&more, &line)));
        Tftpd { _child: child, log }
    }

    /// Waits for a line of the log that has this.
    fn wait_for_log(&self, wanted: &str) {
        netns_fixture::hosts::until(wanted, || {
            let log = self.log.lock().unwrap();
            if log.contains(wanted) { Ok(()) } else { Err(log.clone()) }
        });
    }
}

/// nginx on port 8080, `rate` bytes a second for a connection (0: all it can); its requests are in `log`.
fn nginx(directory: &Path, rate: &str) -> Running {
    let home = directory.display();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; error_log stderr crit; pid {home}/pid;\n\
         events {{ worker_connections 256; }}\n\
         http {{ log_format requests '$request_uri $status'; access_log {home}/log requests;\n\
         client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n\
         server {{ listen 127.0.0.1:8080; root {home}/www; limit_rate {rate}; }} }}\n"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, text).unwrap();
    let mut command = program("nginx");
    command.arg("-p").arg(directory).args(["-e", "stderr", "-c"]).arg(file);
    let nginx = Running(command.spawn().unwrap());
    netns_fixture::hosts::until("nginx", || TcpStream::connect("127.0.0.1:8080").map(drop).map_err(|error| error.to_string()));
    nginx
}

fn swarm(directory: &Path, flags: &str) -> Running {
    let mut command = program(GUIDEWAY);
    command.args(["tftp", "swarm", SERVER, "--mix", "guideway=1", "--json", "--time", "4m", "--sha256"]).arg(directory.join("sums"));
    Running(command.args(flags.split_whitespace()).stdout(Stdio::piped()).spawn().unwrap())
}

fn result(mut swarm: Running) -> Value {
    let mut said = String::new();
    swarm.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    serde_json::from_str(&said).unwrap()
}

fn all_verified(result: &Value, count: u32) {
    assert_eq!((&result["transfers"]["verified"], &result["transfers"]["failed"]), (&count.into(), &0.into()), "{result:#}");
}

fn get(file: &str) -> Output {
    Command::new(GUIDEWAY).args(["tftp", "get", "-o", "-"]).arg(format!("tftp://{SERVER}/{file}")).output().unwrap()
}

fn refused(file: &str, why: &str) {
    let output = get(file);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains(why), "{file}: {said}");
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn bytes(count: u32, seed: u32) -> Vec<u8> {
    (0..count / 4).flat_map(|n| (n ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[test]
fn a_thousand_clients_of_an_origin_that_dies() {
    netns_fixture::in_namespace(&[("nginx", "nginx-light")], || {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("www")).unwrap();
        let (whole, part) = (bytes(256 << 10, 1), bytes(8 << 20, 2));
        fs::write(at("www/whole.img"), &whole).unwrap();
        fs::write(at("www/part.img"), &part).unwrap();
        fs::write(at("sums"), format!("{}  whole.img\n{}  part.img\n", sum(&whole), sum(&part))).unwrap();
        // So slowly that all clients have sent a request before it is there.
        let origin = nginx(directory.path(), "64k");
        let handler = format!(
            "[[handler]]\nname = \"images\"\nkind = \"http\"\nurl = \"http://127.0.0.1:8080/\"\nmax_age = \"1h\"\ncache = \"{}\"\n",
            at("cache").display()
        );
        let tftpd = Tftpd::start(directory.path(), &handler);
        let thousand = || result(swarm(directory.path(), "--clients 1000 --files whole.img"));
        all_verified(&thousand(), 1000);
        assert_eq!(fs::read_to_string(at("log")).unwrap(), "/whole.img 200\n");

        // 8 MiB would take two minutes; a part of it is there when the origin dies.
        let clients = swarm(directory.path(), "--clients 50 --files part.img");
        let cached = || disk_usage(&at("cache"));
        netns_fixture::hosts::until("a part of it", || if cached() > (256 << 10) + 65536 { Ok(()) } else { Err(cached().to_string()) });
        drop(origin);
        let result = result(clients);
        assert_eq!(result["transfers"]["failed"], 50, "{result:#}");
        let reasons: Vec<&String> = result["failures"].as_object().unwrap().keys().collect();
        assert!(reasons.iter().all(|reason| reason.starts_with("error_0")), "an ERROR to each, and no wrong bytes: {result:#}");
        refused("part.img", "the server refused");
        refused("never.img", "the server refused");
        all_verified(&thousand(), 1000);
        drop(tftpd);
    });
}

/// Bytes of all files below a directory.
fn disk_usage(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(
            |entry| {
                if entry.path().is_dir() { disk_usage(&entry.path()) } else { entry.metadata().map_or(0, |about| about.blocks_512() * 512) }
            },
        )
        .sum()
}

trait Blocks {
    fn blocks_512(&self) -> u64;
}

impl Blocks for fs::Metadata {
    /// What is there of a file that may have got its full length at once.
    fn blocks_512(&self) -> u64 {
        std::os::unix::fs::MetadataExt::blocks(self)
    }
}

fn mac(number: u32) -> String {
    let [_, _, high, low] = number.to_be_bytes();
    format!("02-00-5e-00-{high:02x}-{low:02x}")
}

fn menu(number: u32) -> String {
    format!("set host=m{number}\nset kernel=vmlinuz-{}\n", number % 7)
}

/// A service that knows every machine, and one that breaks it.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = |mut stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while reader.read_line(&mut head).is_ok_and(|length| length > 2) {}
        let requested = head.split_whitespace().nth(1).unwrap_or_default().replace("%3A", ":").replace(':', "-");
        let number = (0..MACHINES).find(|number| requested.ends_with(&mac(*number)));
        let (status, body) = match number {
            Some(13) => ("500 Broken", String::new()),
            Some(n) => ("200 OK", format!("{{\"host\": \"m{n}\", \"kernel\": \"vmlinuz-{}\"}}", n % 7)),
            None => ("404 Not Found", String::new()),
        };
        // A client that went away is none of ours.
        let _gone = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    };
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(thread::spawn(move || answer(stream)))));
    port
}

#[test]
fn ten_thousand_machines_each_get_their_own() {
    netns_fixture::in_namespace(&[], || {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("t")).unwrap();
        let template = "set host={{ machine.host }}\nset kernel={{ machine.kernel }}\n";
        fs::write(at("t/menu.j2"), template).unwrap();
        let each = |line: &dyn Fn(u32) -> String, between: &str| (0..MACHINES).map(line).collect::<Vec<_>>().join(between);
        let csv = format!("mac,host,kernel\n{}\n", each(&|n| format!("{},m{n},vmlinuz-{}", mac(n), n % 7), "\n"));
        let json = each(&|n| format!("{{\"mac\": \"{}\", \"host\": \"m{n}\", \"kernel\": \"vmlinuz-{}\"}}", mac(n), n % 7), ",");
        fs::write(at("machines.csv"), &csv).unwrap();
        fs::write(at("machines.json"), format!("[{json}]")).unwrap();
        let sums = |kind: &str| each(&|n| format!("{}  {kind}-{}\n", sum(menu(n).as_bytes()), mac(n)), "");
        fs::write(at("sums"), ["csv", "json", "http"].map(sums).concat()).unwrap();
        let handler = |kind: &str, source: String| {
            format!(
                "[[handler]]\nname = \"{kind}\"\nkind = \"template\"\npattern = '^{kind}-(?<mac>[0-9a-f-]{{17}})$'\ndirectory = \"{}\"\n\
                 template = \"menu.j2\"\ninventory = {{ {source}, key = \"mac\" }}\n",
                at("t").display()
            )
        };
        fs::write(at("broken.csv"), "host,kernel\nm1,k\n").unwrap();
        let handlers = [
            handler("broken", format!("csv = \"{}\"", at("broken.csv").display())),
            handler("csv", format!("csv = \"{}\"", at("machines.csv").display())),
            handler("json", format!("json = \"{}\"", at("machines.json").display())),
            handler("http", format!("url = \"http://127.0.0.1:{}/machines/\"", service())),
        ];
        let tftpd = Tftpd::start(directory.path(), &handlers.concat());
        for (kind, count) in [("csv", MACHINES), ("json", MACHINES), ("http", 500)] {
            // The service breaks one of the first.
            let names: String = (0..MACHINES).rev().take(count as usize).map(|n| format!("{kind}-{}\n", mac(n))).collect();
            fs::write(at("names"), names).unwrap();
            let flags = format!("--clients 200 --transfers {count} --files @{}", at("names").display());
            all_verified(&result(swarm(directory.path(), &flags)), count);
        }
        let name = |kind: &str, number| format!("{kind}-{}", mac(number));
        refused(&name("http", 13), "the server's inventory cannot be asked");
        tftpd.wait_for_log("inventory not available");
        refused(&name("csv", MACHINES), "file not found");
        assert_eq!(get(&name("http", 14)).stdout, menu(14).as_bytes());

        fs::write(at("t/menu.j2"), "{{ machine.host }}\n{{ machine.rack }}\n").unwrap();
        netns_fixture::hosts::until("the broken template", || {
            if get(&name("csv", 5)).status.success() { Err("served".to_owned()) } else { Ok(()) }
        });
        refused(&name("csv", 5), "template menu.j2, line 2: undefined value");
        tftpd.wait_for_log("template failed");
        fs::write(at("t/menu.j2"), template).unwrap();
        netns_fixture::hosts::until("the good template", || {
            if get(&name("csv", 5)).stdout == menu(5).as_bytes() { Ok(()) } else { Err(String::new()) }
        });

        // An inventory that was never valid, and one that no longer is: its last valid content is used.
        refused(&name("broken", 6), "the server's inventory cannot be used");
        tftpd.wait_for_log("no column \\\"mac\\\"");
        fs::write(at("machines.csv"), "host,kernel\nm1,k\n").unwrap();
        netns_fixture::hosts::until("the log", || {
            assert_eq!(get(&name("csv", 6)).stdout, menu(6).as_bytes());
            if tftpd.log.lock().unwrap().contains("using its last valid content") { Ok(()) } else { Err(String::new()) }
        });
        fs::write(at("machines.csv"), format!("{csv}02-00-5e-01-00-00,new,vmlinuz-0\n")).unwrap();
        let new = b"set host=new\nset kernel=vmlinuz-0\n";
        netns_fixture::hosts::until("the good inventory", || {
            if get("csv-02-00-5e-01-00-00").stdout == new { Ok(()) } else { Err(String::new()) }
        });
    });
}
