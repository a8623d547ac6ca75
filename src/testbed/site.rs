//! Third-party servers in their own network namespace, for the tests of clients.

use crate::programs;
use crate::servers::{Server, ServerConfig};
use guideway_host::netns::Namespace;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A server in a namespace, with a directory to serve.
pub struct Site {
    /// Its network namespace.
    pub host: Namespace,
    /// Directory of its files and its log.
    pub directory: tempfile::TempDir,
    address: IpAddr,
    _daemon: Daemon,
}

/// An address besides 127.0.0.1 and ::1: in.tftpd 5.2 finds no name service on a host without one.
pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 69));

/// Returns whether a test that needs root and `program` can run; prints why not.
///
/// # Panics
/// Panics in CI, which must provide both.
pub fn may_run(program: &str, package: &str) -> bool {
    let required = std::env::var("CI").as_deref() == Ok("true");
    let root = nix::unistd::geteuid().is_root();
    let installed = programs::find(program, package).is_ok();
    assert!(!required || root && installed, "CI must provide root and {program}");
    if !root {
        println!("SKIPPED: needs root");
    } else if !installed {
        println!("SKIPPED: needs {program} ({package})");
    }
    root && installed
}

/// Runs `ip` on `host`.
pub fn ip(host: &Namespace, arguments: &str) {
    let mut child = host.spawn(Command::new("ip").args(arguments.split_whitespace())).unwrap();
    assert!(child.wait().unwrap().success(), "ip {arguments}");
}

fn network(address: IpAddr) -> Namespace {
    let host = Namespace::new("server").unwrap();
    ip(&host, "link set lo up");
    ip(&host, &format!("address add {address}/{} dev lo", if address.is_ipv4() { 32 } else { 128 }));
    host
}

impl Site {
    /// Starts `server` at `address`.
    pub fn new(server: Server, address: IpAddr) -> Self {
        let (host, directory) = (network(address), tempfile::tempdir().unwrap());
        std::fs::create_dir(directory.path().join("root")).unwrap();
        let config = ServerConfig {
            name: "t1",
            takeover: None,
            vip: address,
            address,
            tid_range: None,
            root: &directory.path().join("root"),
            log: &directory.path().join("log"),
        };
        let daemon = Daemon(server.start(&host, &config).unwrap());
        Site { host, address, _daemon: daemon, directory }
    }

    /// Starts in.tftpd with uploads enabled.
    pub fn writable() -> Self {
        let (host, directory) = (network(V4), tempfile::tempdir().unwrap());
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let mut command = Command::new(programs::find("in.tftpd", "tftpd-hpa").unwrap());
        command.args(["--foreground", "--secure", "--create", "--user", "root", "--address", &format!("{V4}:69")]).arg(root);
        let daemon = Daemon(host.spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())).unwrap());
        Site { host, address: V4, _daemon: daemon, directory }
    }

    /// Returns address and port of the server.
    pub fn server(&self) -> SocketAddr {
        SocketAddr::new(self.address, 69)
    }

    /// Returns the path of a file that the server offers.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("root").join(name)
    }

    /// Creates a file of `length` bytes and returns its SHA-256.
    pub fn file(&self, name: &str, length: usize) -> [u8; 32] {
        let mut content = vec![0; length];
        fastrand::Rng::with_seed(length as u64).fill(&mut content);
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), &content).unwrap();
        Sha256::digest(&content).into()
    }

    /// Runs `body` in the namespace of the server.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.host.run(|| Ok(body())).unwrap()
    }
}
