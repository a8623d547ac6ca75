//! The http handler against a real nginx, in a network namespace of its own: one download for a thousand clients, and a killed origin.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use guideway_tftp::handlers::http::{Http, Settings};
use guideway_tftp::{Config, Content, Handler, Request, Server};
use sha2::{Digest, Sha256};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::runtime::Runtime;

const SIZE: usize = 64 << 20;

/// nginx in the foreground with a configuration of its own; killed at the end whatever happens.
struct Nginx(Child);

impl Nginx {
    /// Serves `directory`/www on port 8080, `rate` bytes a second for each connection (0: all it can), and writes a log.
    fn start(directory: &Path, rate: &str) -> Nginx {
        let home = directory.display();
        let configuration = format!(
            "daemon off; master_process off; worker_processes 1; error_log stderr crit; pid {home}/pid;\n\
             events {{ worker_connections 256; }}\n\
             http {{ log_format requests '$request_uri $status $http_range $http_if_none_match'; access_log {home}/log requests;\n\
             client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n\
             server {{ listen 127.0.0.1:8080; root {home}/www; limit_rate {rate}; }} }}\n"
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let child = Command::new("nginx").arg("-p").arg(directory).arg("-e").arg("stderr").arg("-c").arg(file).spawn().unwrap();
        let nginx = Nginx(child);
        // It says nothing when it listens; asking is the only way to know.
        while TcpStream::connect("127.0.0.1:8080").is_err() {
            std::thread::yield_now();
        }
        nginx
    }

    fn kill(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A handler with the runtime of its network namespace.
#[derive(Clone)]
struct Site {
    http: Http,
    runtime: &'static Runtime,
}

impl Site {
    fn new(settings: Settings) -> Site {
        Site { http: Http::new(settings).unwrap(), runtime: Box::leak(Box::new(Runtime::new().unwrap())) }
    }
}

fn open(site: &Site, file: &str) -> Result<Content, String> {
    let request = Request::for_file("10.0.0.7:2070".parse().unwrap(), "192.0.2.69".parse().unwrap(), 20_000, file.as_bytes());
    site.runtime.block_on(site.http.open(request)).map_err(|refusal| refusal.text.into_owned())
}

/// The bytes from the start on, handed to `take` as they come.
fn read(site: &Site, content: &Content, mut take: impl FnMut(&[u8])) -> std::io::Result<u64> {
    let (mut at, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        match site.runtime.block_on(content.read_at(at, &mut buffer))? {
            0 => return Ok(at),
            len => {
                take(&buffer[..len]);
                at += len as u64;
            }
        }
    }
}

fn bytes(seed: u32) -> Vec<u8> {
    (0..SIZE as u32 / 4).flat_map(|n| (n ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn settings(cache: &Path) -> Settings {
    Settings {
        url: "http://127.0.0.1:8080/".parse().unwrap(),
        cache: cache.into(),
        cache_size: 1 << 30,
        ca: None,
        max_age: Duration::from_secs(3600),
        negative_ttl: Duration::from_secs(5),
        stale_if_error: true,
        timeout: Duration::from_secs(20),
        redirect_hosts: Vec::new(),
        forward_client: None,
        max_connections: 16,
    }
}

/// Runs `body` with a directory, in a network namespace where only loopback is up. Not without root and nginx, which is said.
fn with_nginx(body: impl FnOnce(&Path) + Send + 'static) {
    let nginx = Command::new("nginx").arg("-v").output().is_ok();
    for (there, what) in [(nix::unistd::geteuid().is_root(), "root"), (nginx, "nginx")] {
        if !there {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "needs {what}");
            eprintln!("SKIPPED: needs {what}");
            return;
        }
    }
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let directory = tempfile::tempdir().unwrap();
        // The worker runs as root here: nginx without a master changes no user.
        fs::create_dir(directory.path().join("www")).unwrap();
        body(directory.path());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_thousand_clients_are_one_download_and_each_has_every_byte() {
    with_nginx(|directory| {
        let file = bytes(1);
        let sum = Sha256::digest(&file);
        fs::write(directory.join("www/big.img"), &file).unwrap();
        let nginx = Nginx::start(directory, "0");
        let handler = Site::new(settings(&directory.join("cache")));
        let start = std::time::Instant::now();
        let clients: Vec<_> = (0..1000)
            .map(|number| {
                let (handler, sum) = (handler.clone(), sum);
                let client = move || {
                    let content = open(&handler, "/big.img").unwrap();
                    assert_eq!(content.size(), Some(SIZE as u64));
                    let mut hasher = Sha256::new();
                    // Hashing takes longer than all the rest; every hundredth client does it, the others look at the size.
                    let exact = number % 100 == 0;
                    let len = read(&handler, &content, |bytes| {
                        if exact {
                            hasher.update(bytes)
                        }
                    })
                    .unwrap();
                    assert_eq!(len, SIZE as u64);
                    assert!(!exact || hasher.finalize() == sum);
                };
                std::thread::Builder::new().stack_size(256 << 10).spawn(client).unwrap()
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        eprintln!("1000 clients × 64 MiB in {:?}", start.elapsed());
        nginx.kill();
        assert_eq!(fs::read_to_string(directory.join("log")).unwrap(), "/big.img 200 - -\n");
    });
}

#[test]
fn nginx_is_killed_in_the_middle() {
    with_nginx(|directory| {
        let (whole, part) = (bytes(2), bytes(3));
        fs::write(directory.join("www/whole.img"), &whole).unwrap();
        fs::write(directory.join("www/part.img"), &part).unwrap();
        let nginx = Nginx::start(directory, "0");
        let mut settings = settings(&directory.join("cache"));
        settings.max_age = Duration::ZERO;
        let handler = Site::new(settings);
        let mut came = Vec::new();
        read(&handler, &open(&handler, "whole.img").unwrap(), |bytes| came.extend_from_slice(bytes)).unwrap();
        assert!(came == whole);
        nginx.kill();

        let nginx = Nginx::start(directory, "8m");
        let content = open(&handler, "part.img").unwrap();
        let (mut came, mut nginx) = (Vec::new(), Some(nginx));
        let error = read(&handler, &content, |bytes| {
            came.extend_from_slice(bytes);
            if came.len() > 1 << 20 {
                drop(nginx.take());
            }
        });
        assert!(error.is_err() && came.len() < SIZE && came == part[..came.len()], "{} bytes: {error:?}", came.len());
        let mut again = Vec::new();
        assert!(read(&handler, &open(&handler, "whole.img").unwrap(), |bytes| again.extend_from_slice(bytes)).is_ok());
        assert!(again == whole, "what was cached is served");
        assert!(open(&handler, "part.img").is_err() && open(&handler, "never.img").is_err());

        let nginx = Nginx::start(directory, "0");
        let mut again = Vec::new();
        read(&handler, &open(&handler, "part.img").unwrap(), |bytes| again.extend_from_slice(bytes)).unwrap();
        assert!(again == part);
        nginx.kill();
        let log = fs::read_to_string(directory.join("log")).unwrap();
        assert!(log.lines().last().unwrap().starts_with("/part.img 206 bytes="), "continued, not fetched again: {log}");
    });
}

/// Fetches a file by TFTP into `to`; gives the process.
fn curl(address: &str, file: &str, to: &Path) -> Child {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-v", "--max-time", "120", "--tftp-blksize", "8192", "-o"]).arg(to).arg(format!("tftp://{address}/{file}"));
    curl.stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn clients_of_the_server_get_the_file_or_an_error_when_nginx_is_killed() {
    with_nginx(|directory| {
        let (whole, part) = (bytes(4), bytes(5));
        fs::write(directory.join("www/whole.img"), &whole).unwrap();
        fs::write(directory.join("www/part.img"), &part).unwrap();
        let nginx = Nginx::start(directory, "0");
        let handler = Http::new(settings(&directory.join("cache"))).unwrap();
        let config = Config::listen("127.0.0.1:0".parse().unwrap());
        let server = Server::bind(config, handler, ()).unwrap().start().unwrap();
        let address = server.addresses()[0].to_string();
        let fetch = |file: &'static str| -> Vec<_> {
            let one = |number| {
                let to = directory.join(format!("{file}.{number}"));
                (curl(&address, file, &to), to)
            };
            (0..8).map(one).collect()
        };
        for (curl, to) in fetch("whole.img") {
            let output = curl.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(fs::read(to).unwrap() == whole);
        }
        nginx.kill();
        assert_eq!(fs::read_to_string(directory.join("log")).unwrap(), "/whole.img 200 - -\n");

        let nginx = Nginx::start(directory, "4m");
        let clients = fetch("part.img");
        // Some of it must have come: the clients write what they have.
        while !clients.iter().all(|(_, to)| fs::metadata(to).is_ok_and(|about| about.len() > 1 << 20)) {
            std::thread::yield_now();
        }
        nginx.kill();
        for (curl, to) in clients {
            let output = curl.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && said.contains("the file cannot be read"),
                "an ERROR, not silence: {}: {said}",
                output.status
            );
            let came = fs::read(to).unwrap();
            assert!(came.len() < SIZE && came == part[..came.len()]);
        }
        let (curl, to) = (curl(&address, "whole.img", &directory.join("again")), directory.join("again"));
        assert!(curl.wait_with_output().unwrap().status.success() && fs::read(to).unwrap() == whole);
        server.stop().unwrap();
    });
}
