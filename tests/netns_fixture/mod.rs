//! A network namespace with `guideway tftpd` in it, for the tests that have real clients, real firmware or enemies.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // Every test uses a part of it, and fails by panicking.

pub mod hosts;

use guideway_testbed::programs;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub const GUIDEWAY: &str = env!("CARGO_BIN_EXE_guideway");
const TIMEOUT: Duration = Duration::from_secs(20);

/// One at a time: each wants the processors for itself.
static EXCLUSIVE: Mutex<()> = Mutex::new(());

/// Whether root and these programs or files are there; not to have them is a failure where CI promises them. Pairs with Debian's packages.
fn requirements_met(needs: &[(&str, &str)]) -> bool {
    let promised = std::env::var("CI").as_deref() == Ok("true");
    let root = nix::unistd::geteuid().is_root();
    assert!(root || !promised, "this test needs root, and CI promised it");
    if !root {
        println!("SKIPPED: needs root");
    }
    let missing = needs.iter().find(|(what, package)| {
        // Other than programs, files are named by their whole path.
        if what.starts_with('/') { !Path::new(what).exists() } else { programs::find(what, package).is_err() }
    });
    if let Some((what, package)) = missing {
        assert!(!promised, "this test needs {what} ({package}), and CI promised it");
        println!("SKIPPED: needs {what} ({package})");
    }
    root && missing.is_none()
}

/// Runs `test` in a new network namespace in which only the loopback is up. Programs that it starts by [`program`] end with it.
pub fn in_namespace(needs: &[(&str, &str)], test: impl FnOnce() + Send + 'static) {
    if !requirements_met(needs) {
        return;
    }
    let _exclusive = EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner);
    let here = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        test();
    });
    if let Err(panic) = here.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program that the kernel kills when the thread that starts it ends, however it ends.
pub fn program(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    let path = programs::find(name, "").unwrap_or_else(|_| name.into());
    command.args(["--pdeathsig=KILL", "--"]).arg(path).stdin(Stdio::null());
    command
}

/// Killed and collected when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _collected = self.0.wait();
    }
}

/// Lines that a program says, as they come.
fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // Nobody listens any more when the test is over; the program must be able to go on.
            let _over = sender.send(line);
        }
    });
    receiver
}

/// `guideway tftpd` with a directory of its own.
pub struct Tftpd {
    child: Running,
    log: Receiver<String>,
    out: Receiver<String>,
}

impl Tftpd {
    /// Starts it; it takes requests when this returns. `level` is one of its log's.
    pub fn start(root: &Path, flags: &str, level: &str) -> Tftpd {
        let mut command = program(GUIDEWAY);
        command.args(["tftpd", "--json", "--log-format", "json", "--log-level", level]).args(flags.split_whitespace());
        command.arg("--root").arg(root);
        let mut child = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let (log, out) = (lines(child.0.stderr.take().unwrap()), lines(child.0.stdout.take().unwrap()));
        let tftpd = Tftpd { child, log, out };
        while !tftpd.log.recv_timeout(TIMEOUT).unwrap_or_else(|e| panic!("guideway tftpd {flags}: {e}")).contains("answers from") {}
        tftpd
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.0.id() as i32)
    }

    /// Its counters now.
    pub fn counters(&self) -> Value {
        kill(self.pid(), Signal::SIGUSR1).unwrap();
        serde_json::from_str(&self.out.recv_timeout(TIMEOUT).unwrap()).unwrap()
    }

    /// Waits until no transfer is open.
    pub fn idle(&self, timeout: Duration) -> Value {
        let since = Instant::now();
        loop {
            let counters = self.counters();
            if counters["open"] == 0 {
                return counters;
            }
            assert!(since.elapsed() < timeout, "transfers stay open: {counters:#}");
            std::thread::yield_now();
        }
    }

    /// Ends it; its counters, and what its log says of each transfer.
    pub fn stop(mut self) -> (Value, Vec<Value>) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let counters = self.out.recv_timeout(TIMEOUT).unwrap();
        assert!(self.child.0.wait().unwrap().success());
        let log = self.log.iter().map(|line| serde_json::from_str(&line).unwrap());
        (serde_json::from_str(&counters).unwrap(), log.filter(|line: &Value| !line["outcome"].is_null()).collect())
    }

    /// A line of its `/proc/PID/status` or `smaps_rollup`, in KiB.
    pub fn memory(&self, file: &str, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key} in {file}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What its descriptors are of, in order.
    pub fn descriptors(&self) -> Vec<PathBuf> {
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        // One that is closed just now is none.
        let mut files: Vec<PathBuf> = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok()).collect();
        files.sort();
        files
    }
}

/// Everything that `child` says on its standard output until it ends. Past the deadline it is killed, which is a failure.
pub fn watch(mut child: Running, deadline: Duration) -> String {
    let (since, mut said) = (Instant::now(), String::new());
    let (sender, receiver) = channel();
    let mut out = child.0.stdout.take().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = out.read(&mut bytes) {
            let _over = sender.send(bytes[..count].to_vec());
        }
    });
    loop {
        match receiver.recv_timeout(deadline.saturating_sub(since.elapsed())) {
            Ok(bytes) => said.push_str(&String::from_utf8_lossy(&bytes)),
            Err(RecvTimeoutError::Disconnected) => return said,
            Err(RecvTimeoutError::Timeout) => panic!("not done after {deadline:?}; said: {said}"),
        }
    }
}
