//! `[[pool]] check`: how the health controller checks a backend.

mod json;
mod parse;
#[cfg(test)]
mod tests;

pub(super) use parse::{RawCheck, read};

use super::duration::human;
use std::net::IpAddr;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);
const JITTER: u8 = 10;
const RISE: u8 = 2;
const FALL: u8 = 3;
const HOLD_DOWN: Duration = Duration::from_secs(10);
const HOLD_DOWN_MAX: Duration = Duration::from_secs(300);
const FLAP_WINDOW: Duration = Duration::from_secs(600);
const MIN_HEALTHY: u8 = 50;
const SLOW_START: Duration = Duration::from_secs(30);

/// How the backends of a pool are checked, and how results become states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The action of one check.
    pub probe: Probe,
    /// Time from the start of one check of a backend to the start of the next, 100 ms–1 h; default 2 s.
    pub interval: Duration,
    /// Maximum duration of a check, 10 ms to `interval`; default 1 s, or `interval` when that is shorter.
    pub timeout: Duration,
    /// Random shift of each check, which spreads checks over time: per cent of `interval`, 0–50; default 10.
    pub jitter: u8,
    /// Number of successful checks in a row that mark a backend up, 1–100; default 2.
    pub rise: u8,
    /// Number of failed checks in a row that mark a backend down, 1–100; default 3.
    pub fall: u8,
    /// Time without failures that a backend needs before it is up again after a second fall within `flap_window`. It doubles with each
    /// further fall. 0–1 h; default 10 s; with 0 only `rise` counts.
    pub hold_down: Duration,
    /// Maximum hold-down, `hold_down`–24 h; default 5 min.
    pub hold_down_max: Duration,
    /// Time without a fall after which falls are forgotten, up to 24 h; default 10 min.
    pub flap_window: Duration,
    /// Percentage of the pool's backends that are never marked down, 0–100; default 50. Backends that take no new flows do not count.
    pub min_healthy: u8,
    /// Time in which a recovered backend gets its weight in steps, 0–1 h; default 30 s; 0: at once.
    pub slow_start: Duration,
}

/// The action of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Reads a file from the VIP through the backend: every packet goes in GRE to the checked backend.
    Tftp(TftpProbe),
    /// Sends a datagram and waits for an answer.
    Udp {
        /// The port, 1–65535.
        port: u16,
        /// The payload.
        send: Vec<u8>,
        /// Required content of the answer; without it, every answer is accepted.
        expect: Option<Expect>,
    },
    /// Opens a connection and closes it.
    Tcp {
        /// The port, 1–65535.
        port: u16,
    },
    /// Requests a page (HTTP/1.1, GET, without TLS).
    Http {
        /// The port, 1–65535; default 80.
        port: u16,
        /// The path of the page; begins with `/`; default `/`.
        path: String,
        /// The required status, 100–599; default 200.
        status: u16,
        /// Required content of the first 64 KiB of the page.
        expect: Option<Expect>,
    },
    /// Sends an ICMP echo request.
    Icmp,
    /// Runs a program on the controller's host; exit code 0 means success.
    Exec {
        /// The program's absolute path and its arguments. `[health] exec_dirs` must allow its directory.
        command: Vec<String>,
    },
}

/// The read request of a tftp check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TftpProbe {
    /// The file's name, 1–255 bytes.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: Option<[u8; 32]>,
    /// Size of the file in bytes.
    pub size: Option<u64>,
    /// The `blksize` option (RFC 2348), 8–65464; default 1428.
    pub blksize: u16,
    /// The `windowsize` option (RFC 7440), 1–64; default 1, which is not requested.
    pub windowsize: u16,
    /// The VIP to read from; default: the VIP of the first tftp service that uses the pool.
    pub vip: Option<IpAddr>,
}

/// Required content of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// These bytes.
    pub bytes: Vec<u8>,
    /// The bytes must be at the start, not just anywhere.
    pub at_start: bool,
}

impl Expect {
    /// Returns whether `answer` contains them.
    pub fn matches(&self, answer: &[u8]) -> bool {
        match self.at_start {
            true => answer.starts_with(&self.bytes),
            false => self.bytes.is_empty() || answer.windows(self.bytes.len()).any(|part| part == self.bytes),
        }
    }
}

impl Check {
    /// Creates a check with defaults for everything else.
    pub fn new(probe: Probe) -> Check {
        Check {
            probe,
            interval: INTERVAL,
            timeout: TIMEOUT,
            jitter: JITTER,
            rise: RISE,
            fall: FALL,
            hold_down: HOLD_DOWN,
            hold_down_max: HOLD_DOWN_MAX,
            flap_window: FLAP_WINDOW,
            min_healthy: MIN_HEALTHY,
            slow_start: SLOW_START,
        }
    }

    /// Returns a label for operators: `tftp canary every 2s`.
    pub fn label(&self) -> String {
        format!("{} every {}", self.probe.label(), human(self.interval))
    }
}

impl Probe {
    /// Returns its name in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Probe::Tftp(_) => "tftp",
            Probe::Udp { .. } => "udp",
            Probe::Tcp { .. } => "tcp",
            Probe::Http { .. } => "http",
            Probe::Icmp => "icmp",
            Probe::Exec { .. } => "exec",
        }
    }

    /// Returns a label for operators: `tftp canary`, `tcp 22`.
    pub fn label(&self) -> String {
        match self {
            Probe::Tftp(probe) => format!("tftp {}", probe.file),
            Probe::Udp { port, .. } => format!("udp {port}"),
            Probe::Tcp { port } => format!("tcp {port}"),
            Probe::Http { port, path, .. } => format!("http {port}{path}"),
            Probe::Icmp => "icmp".to_owned(),
            Probe::Exec { command } => format!("exec {}", command.join(" ")),
        }
    }
}
