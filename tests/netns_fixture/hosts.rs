//! The hosts of a lab in a test: programs on them, waiting for what they do, clients that fetch all the time.

use super::{GUIDEWAY, Running};
use guideway_host::netns::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const TIMEOUT: Duration = Duration::from_secs(30);
/// What the clients fetch.
pub const FILE: &str = "kernel";

/// A program on `host` that is killed with the thread that starts it.
pub fn program_on(host: &Namespace, program: &str) -> Command {
    let mut command = super::program("nsenter");
    command.arg(format!("--net=/proc/{}/fd/{}", std::process::id(), host.as_raw_fd())).arg("--").arg(program);
    command
}

pub fn run_on(host: &Namespace, program: &str, arguments: &str) {
    let output = program_on(host, program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn signal(running: &Running, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(running.0.id()).unwrap()), signal).unwrap();
}

pub fn alive(running: &mut Running) -> bool {
    running.0.try_wait().unwrap().is_none()
}

/// Waits until `done`; gives how long it took. What it stands for has no event: routes of another host, the state of another process.
pub fn until(what: &str, mut done: impl FnMut() -> Result<(), String>) -> Duration {
    let since = Instant::now();
    while let Err(state) = done() {
        assert!(since.elapsed() < TIMEOUT, "{what}: not within {TIMEOUT:?}, still {state}");
        std::thread::sleep(Duration::from_millis(1));
    }
    since.elapsed()
}

/// Starts a daemon that tells when it is ready, and waits for that.
pub fn ready(mut command: Command, directory: &Path) -> Running {
    let path = directory.join("notify");
    let _from_before = std::fs::remove_file(&path);
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(TIMEOUT)).unwrap();
    let running = Running(command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).spawn().unwrap());
    let mut said = [0; 16];
    let length = notify.recv(&mut said).unwrap_or_else(|e| panic!("{command:?} is not ready: {e}"));
    assert_eq!(&said[..length], b"READY=1\n");
    running
}

pub fn content() -> Vec<u8> {
    (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

/// Clients that fetch one file after the other until they are told to stop.
pub struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u32>>,
}

impl Clients {
    pub fn start(host: &Namespace, vip: IpAddr, directory: &Path, count: usize) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |number| {
            let (host, stop) = (host.clone(), stop.clone());
            let to = directory.join(format!("fetched-{number}"));
            std::thread::spawn(move || {
                let (expected, mut verified) = (content(), 0);
                let url = if vip.is_ipv6() { format!("tftp://[{vip}]/{FILE}") } else { format!("tftp://{vip}/{FILE}") };
                while verified == 0 || !stop.load(Ordering::Relaxed) {
                    let output =
                        program_on(&host, GUIDEWAY).args(["tftp", "get", "--quiet", "--force", "--output"]).arg(&to).arg(&url).output();
                    let output = output.unwrap();
                    assert!(output.status.success(), "a transfer failed: {}", String::from_utf8_lossy(&output.stderr));
                    assert!(std::fs::read(&to).unwrap() == expected, "a transfer brought other bytes");
                    verified += 1;
                }
                verified
            })
        };
        Clients { threads: (0..count).map(thread).collect(), stop }
    }

    /// How many files were fetched; every one was right.
    pub fn verified(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).map(|thread| thread.join().unwrap()).sum()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
