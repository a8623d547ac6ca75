//! An etcd of the test's own, on the loopback of the test's own network namespace, and a proxy before it that can fall silent.

use crate::netns_fixture::{self, Running, program};
use guideway_config::{self as config, Intent};
use guideway_store::{Observation, Observed, PoolHealth, Store, StoreView};
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Runs `test` with a directory of its own, in a network namespace of its own.
pub fn run_isolated(test: impl AsyncFnOnce(PathBuf) + Send + 'static) {
    netns_fixture::in_namespace(&[("etcd", "etcd-server"), ("etcdctl", "etcd-client"), ("openssl", "openssl")], move || {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_owned();
        // One thread: what it opens is in its namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(home));
    });
}

/// etcd, killed when dropped.
pub struct Etcd {
    pub port: u16,
    arguments: Vec<String>,
    secure: bool,
    /// Whether it answers who comes without a certificate and a login.
    pub plain: bool,
    running: Option<Running>,
}

impl Etcd {
    /// Without TLS.
    pub fn start(home: &Path) -> Etcd {
        Etcd::start_with(home, false, &[])
    }

    /// Waits until it answers. The namespace has all ports for itself.
    pub fn start_with(home: &Path, secure: bool, more: &[&str]) -> Etcd {
        let (port, scheme) = (2379, if secure { "https" } else { "http" });
        let client = format!("{scheme}://127.0.0.1:{port}");
        let data = home.join("etcd").display().to_string();
        let peer = "http://127.0.0.1:2380";
        let fixed = ["--data-dir", &data, "--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", peer];
        let quiet = ["--logger", "zap", "--log-level", "panic"];
        let arguments = fixed.iter().chain(&quiet).chain(more).map(|argument| (*argument).to_owned()).collect();
        let mut etcd = Etcd { port, arguments, secure, plain: !secure, running: None };
        etcd.restart();
        etcd
    }

    pub fn restart(&mut self) {
        let mut command = program("etcd");
        command.args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null());
        self.running = Some(Running(command.spawn().unwrap()));
        let until = Instant::now() + TIMEOUT;
        // It says nothing when it listens; asking is the only way to know.
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "etcd does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.plain {
            self.ctl(&["endpoint", "status"]);
        }
    }

    /// Makes a data directory out of a backup, while etcd does not run.
    pub fn restore(&self, backup: &Path, data: &Path) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(backup).arg("--data-dir").arg(data);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn kill(&mut self) {
        self.running = None;
    }

    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.secure { "https" } else { "http" }, self.port)
    }

    pub fn config(&self) -> config::Etcd {
        config::Etcd { endpoints: vec![self.endpoint()], ..config(self.port) }
    }

    /// etcdctl, which must succeed.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.ctl_with_input(arguments, "")
    }

    /// The same with something on its standard input.
    pub fn ctl_with_input(&self, arguments: &[&str], input: &str) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoint()).args(arguments);
        let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = running.wait_with_output().unwrap();
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// etcd without TLS at a port.
pub fn config(port: u16) -> config::Etcd {
    config::Etcd { endpoints: vec![format!("http://127.0.0.1:{port}")], prefix: "/guideway/".to_owned(), ..config::Etcd::default() }
}

pub async fn open(config: &config::Etcd) -> Store {
    tokio::time::timeout(TIMEOUT, guideway_store::open(&config::Store::Etcd(config.clone()))).await.unwrap().unwrap()
}

pub async fn wait_for_view(watch: &mut watch::Receiver<StoreView>, wanted: impl FnMut(&StoreView) -> bool) -> StoreView {
    tokio::time::timeout(TIMEOUT, watch.wait_for(wanted)).await.unwrap().unwrap().clone()
}

/// Pools `p0`, `p1`, … as etcd orders them, the first with a VIP.
pub fn intent(weight: u16, pools: usize) -> Intent {
    let mut text = "[[vip]]\naddress = \"192.0.2.69\"\nservice = \"tftp\"\npool = \"p0\"\n".to_owned();
    let mut names: Vec<String> = (0..pools).map(|pool| format!("p{pool}")).collect();
    names.sort();
    for name in names {
        let backend = format!("{{ name = \"t1\", address = \"10.0.2.21\", weight = {weight}, tid_range = 20000 }}");
        text.push_str(&format!("[[pool]]\nname = \"{name}\"\nbackends = [{backend}]\n"));
    }
    config::read_intent(&text).config.unwrap()
}

pub fn down(backend: &str) -> PoolHealth {
    PoolHealth {
        backends: [(backend.to_owned(), Observed { state: Observation::Down, since: 1, why: "silent".into(), unknown: false })].into(),
    }
}

/// Passes bytes on to etcd, or, while silent, none: what is sent meanwhile is lost as in a partition, and connections are not closed.
pub struct Proxy {
    pub port: u16,
    silent: watch::Sender<bool>,
}

impl Proxy {
    pub async fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, silent) = (listener.local_addr().unwrap().port(), watch::Sender::new(false));
        let told = silent.subscribe();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let Ok(server) = tokio::net::TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let (client, server) = (client.into_split(), server.into_split());
                tokio::spawn(forward(client.0, server.1, told.clone()));
                tokio::spawn(forward(server.0, client.1, told.clone()));
            }
        });
        Proxy { port, silent }
    }

    pub fn set_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

async fn forward(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, mut silent: watch::Receiver<bool>) {
    let mut bytes = vec![0; 1 << 16];
    let mut lost = false;
    loop {
        tokio::select! {
            read = from.read(&mut bytes) => {
                let Ok(read @ 1..) = read else {
                    if lost { std::future::pending::<()>().await }
                    return;
                };
                // A connection that has lost something is dead for good.
                lost |= *silent.borrow();
                if !lost && to.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
            }
            changed = silent.changed() => {
                if changed.is_err() {
                    return;
                }
                lost |= *silent.borrow();
            }
        }
    }
}
